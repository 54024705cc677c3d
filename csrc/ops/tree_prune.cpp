#include "ops/tree_prune.h"

#include <torch/library.h>

#include <tuple>

#include "cpu/tree_prune.h"

namespace hivis {
namespace {

using Tree = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// What only a body that can read the tensors for free can check.
void check_values(const cpu::TreePruneParams& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int32_t* parents = p.pool_parents + b * p.pool;
    for (int64_t i = 1; i < p.entries; ++i) {
      TORCH_CHECK(parents[i] >= 0 && parents[i] < i, "pool_parents[", b, ", ", i, "]: wanted 0..",
                  i - 1, " (parents come first), got ", parents[i]);
    }
  }
}

Tree tree_prune_cpu(const at::Tensor& pool_scores, const at::Tensor& pool_tokens,
                    const at::Tensor& pool_parents, int64_t children, int64_t depth,
                    int64_t nodes) {
  const TreePruneShape shape =
      check_tree_prune(pool_scores, pool_tokens, pool_parents, children, depth, nodes);
  cpu::TreePruneParams params{};
  const PrunedTree tree =
      set_tree_prune(shape, pool_scores, pool_tokens, pool_parents, children, nodes, &params);
  check_values(params);
  cpu::tree_prune(params);
  return {tree.tokens, tree.parents, tree.depths, tree.ancestors, tree.scores};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreePruneSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("tree_prune", &tree_prune_cpu); }

}  // namespace hivis
