// kv_compact_ on CUDA, in one launch.
#pragma once

#include <cuda_runtime.h>

#include "core/kv_compact_params.h"

namespace hivis::cuda {

// tickets: [B], device memory; 0 before the launch, 0 again after it. A row that would lie outside
// of the slab is left alone.
cudaError_t launch_kv_compact(const KvCompactParams& params, uint32_t* tickets,
                              cudaStream_t stream);

}  // namespace hivis::cuda
