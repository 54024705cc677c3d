// The decisions of tree acceptance, shared by the CPU body and the kernels: which tokens are
// candidates, what a candidate scores, and how the walk follows the drawn tokens.
//
// A node's draw is argmax over its candidates of fl(fl(logit / T) + g), the lowest token id winning
// a tie; at T = 0 it is the argmax of the logits. Temperature, top-k, top-p and min-p each reduce
// to one threshold on the scaled logit x = fl(logit / T), so tokens that tie are kept or dropped
// together:
//   top-k  x >= the k-th largest x
//   top-p  weight strictly above x  <  top_p * total weight, both over what top-k kept
//   min-p  x >= fl(max x + log min_p)
// Weights are integers, so that their sums do not depend on the order of summation.
#pragma once

#include <cstdint>

#include "core/fastmath.h"

namespace hivis {

constexpr int64_t kNoToken = -1;  // the flag: NaN, +inf, or nothing finite to draw from
constexpr int64_t kMaxVocab = int64_t{1} << 20;

struct SamplingRule {
  float temperature;  // 0: greedy, the rest is ignored
  int32_t top_k;      // 0: off
  float top_p;        // 1: off
  float min_p;        // 0: off
};

HIVIS_HD bool has_top_k(const SamplingRule& rule, int64_t vocab) {
  return rule.top_k > 0 && rule.top_k < vocab;
}

// May a token with a finite logit be no candidate?
HIVIS_HD bool has_filters(const SamplingRule& rule, int64_t vocab) {
  return rule.temperature != 0.0f &&
         (has_top_k(rule, vocab) || rule.top_p < 1.0f || rule.min_p > 0.0f);
}

// exp(y) is below 2^-57 there: far less than one unit of weight, so smaller y need not be told
// apart.
constexpr float kLowestExponent = -40.0f;

// floor(exp(x - top) * 2^40) for x <= top. Sums over 2^20 tokens stay below 2^61.
HIVIS_HD int64_t candidate_weight(float x, float top) {
  const float y = sub_rn(x, top);
  return static_cast<int64_t>(mul_rn(exp_f32(y > kLowestExponent ? y : kLowestExponent), 0x1p40f));
}

// Weight that may lie strictly above a kept token, exclusive: both factors rounded to fp64 once,
// one product.
HIVIS_HD double top_p_limit(float top_p, int64_t total) {
  return mul_rn(static_cast<double>(top_p), static_cast<double>(total));
}

HIVIS_HD bool top_p_keeps(int64_t above, double limit) {
  return static_cast<double>(above) < limit;
}

// Smallest x that min-p keeps; min_p > 0. Subnormal values of min_p count as the smallest normal
// one.
HIVIS_HD float min_p_threshold(float top, float min_p) {
  constexpr float kSmallestNormal = 0x1p-126f;
  return add_rn(top, log_f32(min_p > kSmallestNormal ? min_p : kSmallestNormal));
}

// First child of `node` that carries `token`, or -1. Padding nodes carry token -1, which is never
// drawn.
HIVIS_HD int find_child(const int64_t* tokens, const int32_t* parents, int nodes, int node,
                        int64_t token) {
  for (int child = node + 1; child < nodes; ++child) {
    if (parents[child] == node && tokens[child] == token) return child;
  }
  return -1;
}

// Follows the drawn tokens from the root. draw(node, depth) returns a token id or kNoToken and is
// called once per visited node. path and emitted have max_depth + 1 entries; those after the last
// accepted node repeat it and what was drawn there, so that a gather over the path stays in range.
template <class Draw>
HIVIS_HD void accept_walk(const int64_t* tokens, const int32_t* parents, int nodes, int max_depth,
                          const Draw& draw, int32_t* path, int32_t* path_len, int64_t* next_token,
                          int64_t* emitted) {
  int node = 0, depth = 0;
  int64_t token;
  for (;;) {
    token = draw(node, depth);
    const int child =
        token >= 0 && depth < max_depth ? find_child(tokens, parents, nodes, node, token) : -1;
    if (child < 0) break;
    path[depth] = node;
    emitted[depth++] = token;
    node = child;
  }
  *path_len = depth + 1;
  *next_token = token;
  for (int i = depth; i <= max_depth; ++i) {
    path[i] = node;
    emitted[i] = token;
  }
}

}  // namespace hivis
