// Counters for kernels whose last block does something more.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/stream.h"

namespace hivis {

// [count] i32, all 0. The kernel that uses them must leave them 0 again, and may run on `stream`
// only. No launch and no memory of its own per call: clearing a buffer before each kernel would
// cost as much time as a small kernel does.
at::Tensor tickets(at::Device device, cudaStream_t stream, int64_t count);

}  // namespace hivis
