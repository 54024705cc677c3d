// The types of the floating-point tensors that the ops compute with.
#pragma once

namespace hivis {

enum class DType { kFloat, kBFloat16, kHalf };

}  // namespace hivis
