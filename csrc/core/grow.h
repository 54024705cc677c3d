// The decisions of tree growth (EAGLE-2, arXiv 2406.16858, section 4), shared by the CPU bodies and
// the kernels: what a child scores, and who comes before whom in a pool of candidates.
//
// A node's children are ranked by y = fl(fl(fl(logit / T) + g) * sharpness), where g is 0 if the
// noise is not to be known, and by the logits themselves at T = 0. A child's gain is the
// log-softmax of y over the vocabulary, and its score the gain plus its parent's score. The softmax
// sums integers, which come out the same in any order: tokens are weighed against the largest y of
// their span of 256, and the spans' sums against the largest y of all.
//
// A pool holds the root, then the candidates of level 1, 2, ..., within a level by the parent's
// slot and the rank among its children. So parents come before their children, and since no gain is
// above 0, a parent wins every comparison with its child.
#pragma once

#include <cstdint>

#include "core/accept.h"
#include "core/tree_bits.h"

namespace hivis {

constexpr int kGrowSpan = 256;
constexpr int kMaxChildren = kMaxNodes;

struct GrowRule {
  float temperature;  // 0: greedy, the rest is ignored
  float sharpness;
  bool noise;
};

HIVIS_HD bool needs_noise(const GrowRule& rule) { return rule.noise && rule.temperature != 0.0f; }

HIVIS_HD float grow_value(float logit, float noise, const GrowRule& rule) {
  if (rule.temperature == 0.0f) return logit;
  return mul_rn(add_rn(div_rn(logit, rule.temperature), noise), rule.sharpness);
}

// A span's part of the weight of all: the sum of its candidate_weight(y, span_top), scaled to
// `top`.
HIVIS_HD int64_t span_share(int64_t weight, float span_top, float top) {
  const float y = sub_rn(span_top, top);
  const float scale = exp_f32(y > kLowestExponent ? y : kLowestExponent);
  return static_cast<int64_t>(mul_rn(static_cast<float>(weight), scale));
}

// log of the sum of exp(y - top); 0 or more, because the top itself weighs 2^40.
HIVIS_HD float log_total(int64_t total) {
  return log_f32(mul_rn(static_cast<float>(total), 0x1p-40f));
}

// 0 or less: top is the largest y.
HIVIS_HD float child_gain(float y, float top, float log_total) {
  return sub_rn(sub_rn(y, top), log_total);
}

// --- The pool

// Where the candidates of a level begin, from level 1 on; those of level + 1 begin where they end.
HIVIS_HD constexpr int64_t pool_first(int64_t level, int64_t children) {
  return level == 1 ? 1 : 1 + children + (level - 2) * children * children;
}

HIVIS_HD constexpr int64_t pool_depth(int64_t entry, int64_t children) {
  if (entry <= children) return entry == 0 ? 0 : 1;
  return 2 + (entry - 1 - children) / (children * children);
}

// A score and its place in one integer, the better one greater: ties go to the first place, and NaN
// counts as -inf. Never 0.
HIVIS_HD uint64_t rank_key(float score, int32_t place) {
  const bool nan = score != score;
  const uint32_t bits = static_cast<uint32_t>(float_bits(add_rn(nan ? 0.0f : score, 0.0f)));
  const uint32_t key = bits >> 31 ? ~bits : bits | 0x80000000u;
  constexpr uint32_t kLowest = 0x007fffffu;  // of -inf
  return static_cast<uint64_t>(nan ? kLowest : key) << 32 | ~static_cast<uint32_t>(place);
}

HIVIS_HD int32_t place_of(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}

HIVIS_HD bool is_end(int64_t token, const int64_t* ends, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (ends[i] == token) return true;
  }
  return false;
}

}  // namespace hivis
