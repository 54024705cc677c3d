#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/tree_prune.h"
#include "ops/stream.h"
#include "ops/tree_prune.h"

namespace hivis {
namespace {

void tree_prune_cuda(const TreePruneParams& p, at::Device device) {
  const c10::DeviceGuard guard(device);
  const cudaError_t status = cuda::launch_tree_prune(p, current_stream(device));
  TORCH_CHECK(status == cudaSuccess, "tree_prune: launch failed: ", cudaGetErrorString(status));
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("tree_prune", &tree_prune_op<tree_prune_cuda>); }

}  // namespace hivis
