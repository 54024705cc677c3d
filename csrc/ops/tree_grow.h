// tree_grow_: its schema, and all that it does for either body.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/grow.h"
#include "core/tree_grow_params.h"
#include "ops/check.h"

namespace hivis {

constexpr char kTreeGrowSchema[] =
    "tree_grow_(Tensor logits, Tensor seed, Tensor position, Tensor temperature, Tensor ends, "
    "Tensor output, Tensor(a!) pool_scores, Tensor(b!) pool_tokens, Tensor(c!) pool_parents, "
    "Tensor(d!) nodes, "
    "Tensor(e!) slots, Tensor(f!) tokens, Tensor(g!) scores, Tensor(h!) words, Tensor(i!) carried, "
    "int level, "
    "float sharpness, bool noise) -> ()";

// The tensors of a call, as the schema names them.
struct TreeGrowTensors {
  const at::Tensor &logits, &seed, &position, &temperature, &ends, &output;
  const at::Tensor &pool_scores, &pool_tokens, &pool_parents;
  const at::Tensor &nodes, &slots, &tokens, &scores, &words, &carried;
};

inline void check_tree_grow(const TreeGrowTensors& t, int64_t level, double sharpness) {
  const auto [B, K, V] = get_shape<3>("logits", t.logits);
  check_float("logits", t.logits);
  check_last_stride("logits", t.logits);
  TORCH_CHECK(V >= 1 && V <= kMaxVocab, "logits: wanted a vocabulary of 1..", kMaxVocab, ", got ",
              V);
  const auto [R, rows_batch, k] = get_shape<3>("nodes", t.nodes);
  const int64_t most = std::min<int64_t>(kMaxChildren, V);
  TORCH_CHECK(k >= 1 && k <= most, "nodes: wanted 1..", most, " children, got ", k);
  TORCH_CHECK(R * k <= kMaxNodes, "nodes: wanted at most ", kMaxNodes,
              " in all frontiers together, got ", R * k);
  TORCH_CHECK(level >= 1 && level <= R + 1, "level: wanted 1..", R + 1, ", got ", level);
  TORCH_CHECK(K == (level == 1 ? 1 : k), "logits: wanted ", level == 1 ? 1 : k, " nodes at level ",
              level, ", got ", K);
  TORCH_CHECK(std::isfinite(sharpness) && sharpness > 0,
              "sharpness: wanted a finite number above 0, got ", sharpness);
  const auto [pool_batch, P] = get_shape<2>("pool_scores", t.pool_scores);
  TORCH_CHECK(P >= pool_first(level + 1, k), "pool_scores: wanted at least ",
              pool_first(level + 1, k), " entries, got ", P);
  const at::Device device = t.logits.device();
  const auto [ends] = get_shape<1>("ends", t.ends);
  const int64_t E = get_shape<3>("output", t.output)[2];
  check_shape("output", t.output, {B, K, E});
  check_device("output", t.output, device);
  check_last_stride("output", t.output);
  const int64_t W = std::max(1, word_count(static_cast<int>(R * k)));

  check_plain("seed", t.seed, at::kLong, device, {B});
  check_plain("position", t.position, at::kLong, device, {B});
  check_plain("temperature", t.temperature, at::kFloat, device, {B});
  check_plain("ends", t.ends, at::kLong, device, {ends});
  check_plain("pool_scores", t.pool_scores, at::kFloat, device, {B, P});
  check_plain("pool_tokens", t.pool_tokens, at::kLong, device, {B, P});
  check_plain("pool_parents", t.pool_parents, at::kInt, device, {B, P});
  check_plain("nodes", t.nodes, at::kInt, device, {R, B, k});
  check_plain("slots", t.slots, at::kLong, device, {R, B, k});
  check_plain("tokens", t.tokens, at::kLong, device, {R, B, k});
  check_plain("scores", t.scores, at::kFloat, device, {R, B, k});
  check_plain("words", t.words, at::kLong, device, {R, B, k, W});
  check_plain("carried", t.carried, t.output.scalar_type(), device, {R, B, k, E});
}

inline TreeGrowParams tree_grow_params(const TreeGrowTensors& t, int64_t level, double sharpness,
                                       bool noise) {
  const auto bytes = static_cast<int64_t>(t.output.element_size());
  TreeGrowParams params{};
  params.batch = t.logits.size(0);
  params.nodes = t.logits.size(1);
  params.vocab = t.logits.size(2);
  params.children = t.nodes.size(2);
  params.level = level;
  params.pool = t.pool_scores.size(1);
  params.words = t.words.size(3);
  params.row_bytes = t.output.size(2) * bytes;
  params.logits = t.logits.const_data_ptr();
  params.dtype = check_float("logits", t.logits);
  params.logits_batch_stride = t.logits.stride(0);
  params.logits_node_stride = t.logits.stride(1);
  params.seed = t.seed.const_data_ptr<int64_t>();
  params.position = t.position.const_data_ptr<int64_t>();
  params.temperature = t.temperature.const_data_ptr<float>();
  params.ends = t.ends.const_data_ptr<int64_t>();
  params.end_count = t.ends.size(0);
  params.sharpness = static_cast<float>(sharpness);
  params.noise = noise;
  params.output = static_cast<const char*>(t.output.const_data_ptr());
  params.output_batch_stride = t.output.stride(0) * bytes;
  params.output_node_stride = t.output.stride(1) * bytes;
  params.pool_scores = t.pool_scores.data_ptr<float>();
  params.pool_tokens = t.pool_tokens.data_ptr<int64_t>();
  params.pool_parents = t.pool_parents.data_ptr<int32_t>();
  // Frontier l of R is that of level l + 1.
  const int64_t frontier = params.batch * params.children;
  if (level > 1) {
    const int64_t above = (level - 2) * frontier;
    params.above_nodes = t.nodes.const_data_ptr<int32_t>() + above;
    params.above_scores = t.scores.const_data_ptr<float>() + above;
    params.above_words = t.words.const_data_ptr<int64_t>() + above * params.words;
  }
  if (level <= t.nodes.size(0)) {
    const int64_t below = (level - 1) * frontier;
    params.frontier_nodes = t.nodes.data_ptr<int32_t>() + below;
    params.frontier_slots = t.slots.data_ptr<int64_t>() + below;
    params.frontier_tokens = t.tokens.data_ptr<int64_t>() + below;
    params.frontier_scores = t.scores.data_ptr<float>() + below;
    params.frontier_words = t.words.data_ptr<int64_t>() + below * params.words;
    params.frontier_carried = static_cast<char*>(t.carried.data_ptr()) + below * params.row_bytes;
  }
  return params;
}

// kBody: void(const TreeGrowParams&, at::Device).
template <auto kBody>
void tree_grow_op(const at::Tensor& logits, const at::Tensor& seed, const at::Tensor& position,
                  const at::Tensor& temperature, const at::Tensor& ends, const at::Tensor& output,
                  const at::Tensor& pool_scores, const at::Tensor& pool_tokens,
                  const at::Tensor& pool_parents, const at::Tensor& nodes, const at::Tensor& slots,
                  const at::Tensor& tokens, const at::Tensor& scores, const at::Tensor& words,
                  const at::Tensor& carried, int64_t level, double sharpness, bool noise) {
  const TreeGrowTensors tensors{logits, seed,        position,    temperature,  ends,
                                output, pool_scores, pool_tokens, pool_parents, nodes,
                                slots,  tokens,      scores,      words,        carried};
  check_tree_grow(tensors, level, sharpness);
  kBody(tree_grow_params(tensors, level, sharpness, noise), logits.device());
}

}  // namespace hivis
