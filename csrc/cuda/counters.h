// Counters for kernels that draw tickets (cuda/ticket.h): memory of the module's own, so that no
// allocator has to keep it. All are 0 when the module is loaded, on every device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hivis::cuda {

constexpr int64_t kCounters = int64_t{1} << 20;  // per device: 4 MiB

// *first: where those of the current device lie.
cudaError_t find_counters(uint32_t** first);

}  // namespace hivis::cuda
