#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <tuple>

#include "cuda/tree_prune.h"
#include "ops/stream.h"
#include "ops/tree_prune.h"

namespace hivis {
namespace {

using Tree = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Tree tree_prune_cuda(const at::Tensor& pool_scores, const at::Tensor& pool_tokens,
                     const at::Tensor& pool_parents, int64_t children, int64_t depth,
                     int64_t nodes) {
  const TreePruneShape shape =
      check_tree_prune(pool_scores, pool_tokens, pool_parents, children, depth, nodes);
  const c10::DeviceGuard guard(pool_scores.device());
  cuda::TreePruneParams params{};
  const PrunedTree tree =
      set_tree_prune(shape, pool_scores, pool_tokens, pool_parents, children, nodes, &params);
  const cudaError_t status = cuda::launch_tree_prune(params, current_stream(pool_scores.device()));
  TORCH_CHECK(status == cudaSuccess, "tree_prune: launch failed: ", cudaGetErrorString(status));
  return {tree.tokens, tree.parents, tree.depths, tree.ancestors, tree.scores};
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("tree_prune", &tree_prune_cuda); }

}  // namespace hivis
