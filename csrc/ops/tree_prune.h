// tree_prune: what the CPU and CUDA bodies check alike.
#pragma once

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/grow.h"
#include "ops/check.h"

namespace hivis {

constexpr char kTreePruneSchema[] =
    "tree_prune(Tensor pool_scores, Tensor pool_tokens, Tensor pool_parents, int children, "
    "int depth, int nodes) "
    "-> (Tensor tokens, Tensor parents, Tensor depths, Tensor ancestors, Tensor scores)";

struct TreePruneShape {
  int64_t B, P, entries;
};

inline TreePruneShape check_tree_prune(const at::Tensor& pool_scores, const at::Tensor& pool_tokens,
                                       const at::Tensor& pool_parents, int64_t children,
                                       int64_t depth, int64_t nodes) {
  const auto [B, P] = get_shape<2>("pool_scores", pool_scores);
  TORCH_CHECK(children >= 1 && children <= kMaxChildren, "children: wanted 1..", kMaxChildren,
              ", got ", children);
  TORCH_CHECK(depth >= 1 && depth <= kMaxNodes, "depth: wanted 1..", kMaxNodes, ", got ", depth);
  const int64_t entries = pool_first(depth + 1, children);
  TORCH_CHECK(P >= entries, "pool_scores: wanted at least ", entries, " entries, got ", P);
  const int64_t most = std::min<int64_t>(kMaxNodes, entries);
  TORCH_CHECK(nodes >= 1 && nodes <= most, "nodes: wanted 1..", most, ", got ", nodes);
  const auto check = [&](const char* name, const at::Tensor& tensor, at::ScalarType dtype) {
    check_shape(name, tensor, {B, P});
    check_dtype(name, tensor, dtype);
    check_device(name, tensor, pool_scores.device());
    check_contiguous(name, tensor);
  };
  check("pool_scores", pool_scores, at::kFloat);
  check("pool_tokens", pool_tokens, at::kLong);
  check("pool_parents", pool_parents, at::kInt);
  return {B, P, entries};
}

// The results, in the schema's order.
struct PrunedTree {
  at::Tensor tokens, parents, depths, ancestors, scores;
};

// Allocates the results; fills in sizes, inputs and outputs, whose fields have the same names in
// both bodies' params.
template <class Params>
PrunedTree set_tree_prune(const TreePruneShape& shape, const at::Tensor& pool_scores,
                          const at::Tensor& pool_tokens, const at::Tensor& pool_parents,
                          int64_t children, int64_t nodes, Params* params) {
  const int64_t B = shape.B, W = word_count(static_cast<int>(nodes));
  PrunedTree tree{
      at::empty({B, nodes}, pool_tokens.options()), at::empty({B, nodes}, pool_parents.options()),
      at::empty({B, nodes}, pool_tokens.options()), at::empty({B, nodes, W}, pool_tokens.options()),
      at::empty({B, nodes}, pool_scores.options())};
  params->batch = B;
  params->pool = shape.P;
  params->entries = shape.entries;
  params->children = children;
  params->nodes = nodes;
  params->words = W;
  params->pool_scores = pool_scores.const_data_ptr<float>();
  params->pool_tokens = pool_tokens.const_data_ptr<int64_t>();
  params->pool_parents = pool_parents.const_data_ptr<int32_t>();
  params->tokens = tree.tokens.template data_ptr<int64_t>();
  params->parents = tree.parents.template data_ptr<int32_t>();
  params->depths = tree.depths.template data_ptr<int64_t>();
  params->ancestors = tree.ancestors.template data_ptr<int64_t>();
  params->scores = tree.scores.template data_ptr<float>();
  return tree;
}

}  // namespace hivis
