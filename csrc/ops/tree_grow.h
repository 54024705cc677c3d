// tree_grow_: what the CPU and CUDA bodies check alike.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/grow.h"
#include "core/logit_type.h"
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

struct TreeGrowShape {
  int64_t B, K, V;
  int64_t R, k;  // frontiers, children
  int64_t P, W, E, ends;
};

inline TreeGrowShape check_tree_grow(const TreeGrowTensors& t, int64_t level, double sharpness) {
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
  const auto [ends] = get_shape<1>("ends", t.ends);
  const int64_t E = get_shape<3>("output", t.output)[2];
  check_shape("output", t.output, {B, K, E});
  check_device("output", t.output, t.logits.device());
  check_last_stride("output", t.output);
  const int64_t W = std::max(1, word_count(static_cast<int>(R * k)));

  const auto check = [&](const char* name, const at::Tensor& tensor, at::ScalarType dtype,
                         std::initializer_list<int64_t> shape) {
    check_shape(name, tensor, shape);
    check_dtype(name, tensor, dtype);
    check_device(name, tensor, t.logits.device());
    check_contiguous(name, tensor);
  };
  check("seed", t.seed, at::kLong, {B});
  check("position", t.position, at::kLong, {B});
  check("temperature", t.temperature, at::kFloat, {B});
  check("ends", t.ends, at::kLong, {ends});
  check("pool_scores", t.pool_scores, at::kFloat, {B, P});
  check("pool_tokens", t.pool_tokens, at::kLong, {B, P});
  check("pool_parents", t.pool_parents, at::kInt, {B, P});
  check("nodes", t.nodes, at::kInt, {R, B, k});
  check("slots", t.slots, at::kLong, {R, B, k});
  check("tokens", t.tokens, at::kLong, {R, B, k});
  check("scores", t.scores, at::kFloat, {R, B, k});
  check("words", t.words, at::kLong, {R, B, k, W});
  check("carried", t.carried, t.output.scalar_type(), {R, B, k, E});
  return {B, K, V, R, k, P, W, E, ends};
}

// Fills in sizes, inputs and outputs, whose fields have the same names in both bodies' params.
template <class Params>
void set_tree_grow(const TreeGrowShape& shape, const TreeGrowTensors& t, int64_t level,
                   double sharpness, bool noise, Params* params) {
  const at::ScalarType dtype = t.logits.scalar_type();
  params->batch = shape.B;
  params->nodes = shape.K;
  params->vocab = shape.V;
  params->children = shape.k;
  params->level = level;
  params->pool = shape.P;
  params->words = shape.W;
  params->logits = t.logits.const_data_ptr();
  params->type = dtype == at::kBFloat16 ? LogitType::kBFloat16
                 : dtype == at::kHalf   ? LogitType::kHalf
                                        : LogitType::kFloat;
  params->logits_batch_stride = t.logits.stride(0);
  params->logits_node_stride = t.logits.stride(1);
  params->seed = t.seed.const_data_ptr<int64_t>();
  params->position = t.position.const_data_ptr<int64_t>();
  params->temperature = t.temperature.const_data_ptr<float>();
  params->ends = t.ends.const_data_ptr<int64_t>();
  params->end_count = shape.ends;
  params->sharpness = static_cast<float>(sharpness);
  params->noise = noise;
  const auto bytes = static_cast<int64_t>(t.output.element_size());
  params->row_bytes = shape.E * bytes;
  params->output = static_cast<const char*>(t.output.const_data_ptr());
  params->output_batch_stride = t.output.stride(0) * bytes;
  params->output_node_stride = t.output.stride(1) * bytes;
  params->pool_scores = t.pool_scores.data_ptr<float>();
  params->pool_tokens = t.pool_tokens.data_ptr<int64_t>();
  params->pool_parents = t.pool_parents.data_ptr<int32_t>();
  // Frontier l of R is that of level l + 1.
  const int64_t frontier = shape.B * shape.k;
  if (level > 1) {
    const int64_t above = (level - 2) * frontier;
    params->above_nodes = t.nodes.const_data_ptr<int32_t>() + above;
    params->above_scores = t.scores.const_data_ptr<float>() + above;
    params->above_words = t.words.const_data_ptr<int64_t>() + above * shape.W;
  }
  if (level <= shape.R) {
    const int64_t below = (level - 1) * frontier;
    params->frontier_nodes = t.nodes.data_ptr<int32_t>() + below;
    params->frontier_slots = t.slots.data_ptr<int64_t>() + below;
    params->frontier_tokens = t.tokens.data_ptr<int64_t>() + below;
    params->frontier_scores = t.scores.data_ptr<float>() + below;
    params->frontier_words = t.words.data_ptr<int64_t>() + below * shape.W;
    params->frontier_carried = static_cast<char*>(t.carried.data_ptr()) + below * params->row_bytes;
  }
}

}  // namespace hivis
