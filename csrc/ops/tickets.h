// Counters for kernels whose last block does something more (cuda/ticket.h).
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/stream.h"

namespace hivis {

// Counters of one call, all 0. The kernel that uses them must leave them 0 again.
struct Tickets {
  uint32_t* data = nullptr;
  at::Tensor cleared;  // what they lie in where the supply was used up; keep it until the launch
};

// `count` counters for a kernel on `stream`, and for this one call. No launch and no memory of its
// own per call: clearing a buffer before each kernel would cost as much time as a small kernel
// does.
Tickets tickets(at::Device device, cudaStream_t stream, int64_t count);

}  // namespace hivis
