// tree_grow_ on CUDA, in two launches.
#pragma once

#include <cuda_runtime.h>

#include "core/tree_grow_params.h"

namespace hivis::cuda {

// Bytes of workspace; depends on the sizes alone.
int64_t tree_grow_workspace(const TreeGrowParams& params);

// workspace: tree_grow_workspace bytes of device memory, aligned to 8, whatever they hold.
// tickets: [B], device memory; 0 before each launch, 0 again after it.
cudaError_t launch_tree_grow(const TreeGrowParams& params, void* workspace, uint32_t* tickets,
                             cudaStream_t stream);

}  // namespace hivis::cuda
