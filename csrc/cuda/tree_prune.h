// tree_prune on CUDA, in one launch.
#pragma once

#include <cuda_runtime.h>

#include "core/tree_prune_params.h"

namespace hivis::cuda {

cudaError_t launch_tree_prune(const TreePruneParams& params, cudaStream_t stream);

}  // namespace hivis::cuda
