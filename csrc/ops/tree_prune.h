// tree_prune: its schema, and all that it does for either body.
#pragma once

#include <ATen/ops/empty.h>

#include <algorithm>
#include <tuple>

#include "core/grow.h"
#include "core/tree_prune_params.h"
#include "ops/check.h"

namespace hivis {

constexpr char kTreePruneSchema[] =
    "tree_prune(Tensor pool_scores, Tensor pool_tokens, Tensor pool_parents, int children, "
    "int depth, int nodes) "
    "-> (Tensor tokens, Tensor parents, Tensor depths, Tensor ancestors, Tensor scores)";

// kBody: void(const TreePruneParams&, at::Device).
template <auto kBody>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> tree_prune_op(
    const at::Tensor& pool_scores, const at::Tensor& pool_tokens, const at::Tensor& pool_parents,
    int64_t children, int64_t depth, int64_t nodes) {
  const auto [B, P] = get_shape<2>("pool_scores", pool_scores);
  TORCH_CHECK(children >= 1 && children <= kMaxChildren, "children: wanted 1..", kMaxChildren,
              ", got ", children);
  TORCH_CHECK(depth >= 1 && depth <= kMaxNodes, "depth: wanted 1..", kMaxNodes, ", got ", depth);
  const int64_t entries = pool_first(depth + 1, children);
  TORCH_CHECK(P >= entries, "pool_scores: wanted at least ", entries, " entries, got ", P);
  const int64_t most = std::min<int64_t>(kMaxNodes, entries);
  TORCH_CHECK(nodes >= 1 && nodes <= most, "nodes: wanted 1..", most, ", got ", nodes);
  const at::Device device = pool_scores.device();
  check_plain("pool_scores", pool_scores, at::kFloat, device, {B, P});
  check_plain("pool_tokens", pool_tokens, at::kLong, device, {B, P});
  check_plain("pool_parents", pool_parents, at::kInt, device, {B, P});
  const int64_t W = word_count(static_cast<int>(nodes));
  at::Tensor tokens = at::empty({B, nodes}, pool_tokens.options());
  at::Tensor parents = at::empty({B, nodes}, pool_parents.options());
  at::Tensor depths = at::empty({B, nodes}, pool_tokens.options());
  at::Tensor ancestors = at::empty({B, nodes, W}, pool_tokens.options());
  at::Tensor scores = at::empty({B, nodes}, pool_scores.options());

  TreePruneParams params{};
  params.batch = B;
  params.pool = P;
  params.entries = entries;
  params.children = children;
  params.nodes = nodes;
  params.words = W;
  params.pool_scores = pool_scores.const_data_ptr<float>();
  params.pool_tokens = pool_tokens.const_data_ptr<int64_t>();
  params.pool_parents = pool_parents.const_data_ptr<int32_t>();
  params.tokens = tokens.template data_ptr<int64_t>();
  params.parents = parents.template data_ptr<int32_t>();
  params.depths = depths.template data_ptr<int64_t>();
  params.ancestors = ancestors.template data_ptr<int64_t>();
  params.scores = scores.template data_ptr<float>();
  kBody(params, device);
  return {tokens, parents, depths, ancestors, scores};
}

}  // namespace hivis
