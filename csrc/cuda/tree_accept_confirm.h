// The second launch of tree_accept.
#pragma once

#include "cuda/tree_accept.h"

namespace hivis::cuda {

cudaError_t launch_tree_accept_confirm(const TreeAcceptParams& params, cudaStream_t stream);

}  // namespace hivis::cuda
