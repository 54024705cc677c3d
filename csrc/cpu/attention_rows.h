// Attention of few rows (plain decoding, very small trees) over one span of keys.
//
// With few rows, lanes that hold rows would be mostly idle, so here D lies across the lanes: a
// score is a dot product along D, kLanes of them are summed together, and a result row takes up the
// registers while the keys pass by. Bound by reading K and V once.
#pragma once

#include "cpu/attention_tile.h"

namespace hivis::cpu {

// Scores of one row against a tile, into p[kTile]; entries past `count` become -inf.
template <class U>
void score_row(const Operand& k, const U* q, int64_t units, int count, float scale, float* p) {
  for (int j = 0; j < kTile; j += kLanes) {
    if (j >= count) {
      store(p + j, splat(-kInfinity));
      continue;
    }
    const char* rows[kLanes];
    for (int x = 0; x < kLanes; ++x) rows[x] = k.at + std::min(j + x, count - 1) * k.stride;
    Vec sums[kLanes] = {};
    for (int64_t c = 0; c < units; c += kLanes) {
      const VecOf<U> part = load<VecOf<U>>(q + c);
#pragma GCC unroll 16
      for (int x = 0; x < kLanes; ++x) {
        sums[x] = multiply_add(sums[x], part, load<VecOf<U>>(rows[x] + c * sizeof(U)));
      }
    }
    store(p + j, sum_each(sums) * scale);
  }
  for (int j = count; j < kTile; ++j) p[j] = -kInfinity;
}

// o[d...] = o[d...] * alpha + P V for kVecs vectors of result columns. Two sets of sums, for even
// and odd steps, keep the multiply-adds from waiting for each other.
template <int kVecs, class U>
void add_values_row(const Operand& v, const U* p, int64_t depth, int64_t d, float alpha, float* o) {
  Vec sums[2][kVecs] = {};
  for (int c = 0; c < kVecs; ++c) sums[0][c] = load<Vec>(o + d + c * kLanes) * alpha;
  const char* row = v.at + d * sizeof(U);
  int64_t i = 0;
  for (; i + 2 <= depth; i += 2, row += 2 * v.stride) {
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      const VecOf<U> weight = splat(p[i + odd]);
#pragma GCC unroll 8
      for (int c = 0; c < kVecs; ++c) {
        const char* at = row + odd * v.stride + c * kLanes * sizeof(U);
        sums[odd][c] = multiply_add(sums[odd][c], weight, load<VecOf<U>>(at));
      }
    }
  }
  if (i < depth) {
    for (int c = 0; c < kVecs; ++c) {
      const VecOf<U> values = load<VecOf<U>>(row + c * kLanes * sizeof(U));
      sums[0][c] = multiply_add(sums[0][c], splat(p[i]), values);
    }
  }
  for (int c = 0; c < kVecs; ++c) store(o + d + c * kLanes, sums[0][c] + sums[1][c]);
}

// The same result as attend_block<In, 1>, with scratch.q holding the rows one after the other.
template <class In>
void attend_rows(const Span& span, Scratch& scratch, const Partial& out) {
  using U = Unit<In>;
  const int64_t D = span.head_dim, units = D / kPerUnit<In>;
  float* o = scratch.row_o;
  std::fill_n(o, D * span.rows, 0.f);
  Vec l[kFewRows] = {};
  float m[kFewRows];
  for (float& each : m) each = -kInfinity;

  for (int64_t first = span.begin; first < span.end; first += kTile) {
    const int count = static_cast<int>(std::min<int64_t>(kTile, span.end - first));
    const Operand k = k_tile<In>(span, first, count, scratch);
    const Operand values = v_tile<In>(span, first, count, scratch);
    for (int r = 0; r < span.rows; ++r) {
      float* p = scratch.p;
      score_row<U>(k, reinterpret_cast<const U*>(scratch.q) + r * units, units, count, span.scale,
                   p);
      for (int64_t bit = std::max(first - span.prefix, int64_t{0});
           bit < first + count - span.prefix; ++bit) {
        const bool visible = scratch.bits[bit / 32 * kLanes + r] >> (bit % 32) & 1;
        if (!visible) p[bit + span.prefix - first] = -kInfinity;
      }

      Vec top = splat(m[r]);
      for (int j = 0; j < kTile; j += kLanes) top = max(top, load<Vec>(p + j));
      const float most = max_lane(top);
      const Vec next = finite_or_zero(splat(most));
      const Vec alpha = exp2(splat(m[r]) - next);
      m[r] = most;
      l[r] *= alpha;
      for (int j = 0; j < kTile; j += kLanes) {
        const Vec weight = exp2(load<Vec>(p + j) - next);
        l[r] += weight;
        if constexpr (kPairs<In>) {
          store_bf16(reinterpret_cast<Bf16*>(scratch.p_pairs) + j, weight);
        } else {
          store(p + j, weight);
        }
      }

      const U* weights = reinterpret_cast<const U*>(scratch.p);
      if constexpr (kPairs<In>) weights = scratch.p_pairs;
      const int64_t depth = (count + kPerUnit<In> - 1) / kPerUnit<In>;
      float* o_row = o + r * D;
      int64_t d = 0;
      for (; d + 8 * kLanes <= D; d += 8 * kLanes) {
        add_values_row<8>(values, weights, depth, d, alpha[0], o_row);
      }
      for (; d + 4 * kLanes <= D; d += 4 * kLanes) {
        add_values_row<4>(values, weights, depth, d, alpha[0], o_row);
      }
      for (; d < D; d += kLanes) add_values_row<1>(values, weights, depth, d, alpha[0], o_row);
    }
  }

  for (int r = 0; r < span.rows; ++r) {
    for (int64_t d = 0; d < D; ++d) out.o[d * kLanes + r] = o[r * D + d];
    out.l[r] = sum_lanes(l[r]);
    out.m[r] = m[r];
  }
}

}  // namespace hivis::cpu
