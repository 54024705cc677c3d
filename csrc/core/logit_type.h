// The types that logits come in.
#pragma once

namespace hivis {

enum class LogitType { kFloat, kBFloat16, kHalf };

}  // namespace hivis
