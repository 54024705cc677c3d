// Attention of many rows (node, head in group), 1 to 4 vectors of them, over one span of keys.
//
// Rows lie across the lanes. Scores S^T[key][row] and results O^T[d][row] are both of the form
//     C[x][row] += A(x, i) * B[i][row],
// with A(x, i) = K[x][i] (i runs over D) for the scores, A(x, i) = V[i][x] (i runs over keys) for
// the results. One number of A is broadcast against whole vectors of B, so K and V are read as they
// lie, nothing is transposed but q and the result, and the softmax needs no sums across lanes.
#pragma once

#include "cpu/attention_tile.h"

namespace hivis::cpu {

// Sums that fit the registers: there are 32 of them with AVX-512, else 16.
constexpr int kBudget = kLanes == 16 ? 16 : 8;
template <int kVecs>
constexpr int kStep = kVecs == 1   ? kBudget
                      : kVecs == 2 ? kBudget / 2
                                   : kBudget / 4;

// Scores of keys [j, j + kX) of a tile into scratch.p; `most` is raised to their maximum.
template <int kX, int kVecs, class U>
[[gnu::always_inline]] inline void score(const Span& span, const Operand& k, int64_t units, int j,
                                         int64_t first, Scratch& scratch, Vec (&most)[kVecs]) {
  constexpr int kWidth = kVecs * kLanes;
  Vec sums[kX][kVecs] = {};
  // Long contexts do not fit the caches, and the strided reads of K hide their pattern from the
  // hardware. So ask for the values of these keys, and for the keys one tile ahead, a little at
  // every step: all at once would stall the loads that are needed now.
  const Fetch fetch = {span.k + (first + j + kTile) * span.k_row, span.v + (first + j) * span.v_row,
                       kX * static_cast<int64_t>(sizeof(U))};
  contract<kX, kVecs, U>(k.at + j * k.stride, k.stride, sizeof(U),
                         reinterpret_cast<const U*>(scratch.q), kWidth, units, sums, fetch);
#pragma GCC unroll 16
  for (int x = 0; x < kX; ++x) {
    const int64_t bit = first + j + x - span.prefix;
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      Vec s = sums[x][v] * span.scale;
      if (bit >= 0) {
        const VecU words = load<VecU>(scratch.bits + bit / 32 * kWidth + v * kLanes);
        s = (words & splat(uint32_t{1} << (bit % 32))) != 0 ? s : splat(-kInfinity);
      }
      most[v] = max(most[v], s);
      store(scratch.p + (j + x) * kWidth + v * kLanes, s);
    }
  }
}

template <int kX, int kVecs, class U>
[[gnu::always_inline]] inline void score_tile(const Span& span, const Operand& k, int64_t units,
                                              int j, int count, int64_t first, Scratch& scratch,
                                              Vec (&most)[kVecs]) {
  for (; j + kX <= count; j += kX) score<kX, kVecs, U>(span, k, units, j, first, scratch, most);
  if constexpr (kX > 1) {
    if (j < count) score_tile<kX / 2, kVecs, U>(span, k, units, j, count, first, scratch, most);
  }
}

// o = o * alpha + P V for result columns [d, d + kX).
template <int kX, int kVecs, class U>
[[gnu::always_inline]] inline void add_values(const Operand& v, const U* p, int64_t depth,
                                              int64_t d, const Vec (&alpha)[kVecs], float* o) {
  constexpr int kWidth = kVecs * kLanes;
  Vec sums[kX][kVecs];
#pragma GCC unroll 16
  for (int x = 0; x < kX; ++x) {
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) {
      sums[x][c] = load<Vec>(o + (d + x) * kWidth + c * kLanes) * alpha[c];
    }
  }
  contract<kX, kVecs, U>(v.at + d * sizeof(U), sizeof(U), v.stride, p, kWidth, depth, sums);
#pragma GCC unroll 16
  for (int x = 0; x < kX; ++x) {
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) store(o + (d + x) * kWidth + c * kLanes, sums[x][c]);
  }
}

template <class In, int kVecs>
void attend_block(const Span& span, Scratch& scratch, const Partial& out) {
  using U = Unit<In>;
  constexpr int kWidth = kVecs * kLanes;
  const int64_t D = span.head_dim;
  std::fill_n(out.o, D * kWidth, 0.f);
  Vec l[kVecs] = {}, m[kVecs];
  for (Vec& each : m) each = splat(-kInfinity);

  for (int64_t first = span.begin; first < span.end; first += kTile) {
    const int count = static_cast<int>(std::min<int64_t>(kTile, span.end - first));

    // Scores, and their maximum so far.
    const Operand k = k_tile<In>(span, first, count, scratch);
    Vec most[kVecs], alpha[kVecs];
    for (int v = 0; v < kVecs; ++v) most[v] = m[v];
    score_tile<kStep<kVecs>, kVecs, U>(span, k, D / kPerUnit<In>, 0, count, first, scratch, most);
    for (int v = 0; v < kVecs; ++v) {
      const Vec next = finite_or_zero(most[v]);
      alpha[v] = exp2(m[v] - next);
      l[v] *= alpha[v];
      m[v] = most[v];
      most[v] = next;
    }

    // Weights.
    const U* weights = reinterpret_cast<const U*>(scratch.p);
#if HIVIS_BF16_DOT
    if constexpr (kPairs<In>) {
      weights = scratch.p_pairs;
      if (count % 2) std::fill_n(scratch.p + count * kWidth, kWidth, -kInfinity);
      for (int j = 0; j < count; j += 2) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          const float* s = scratch.p + j * kWidth + v * kLanes;
          const Vec even = exp2(load<Vec>(s) - most[v]),
                    odd = exp2(load<Vec>(s + kWidth) - most[v]);
          l[v] += even + odd;
          store(scratch.p_pairs + j / 2 * kWidth + v * kLanes, pack_bf16(even, odd));
        }
      }
    }
#endif
    if constexpr (!kPairs<In>) {
      for (int j = 0; j < count; ++j) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          float* s = scratch.p + j * kWidth + v * kLanes;
          const Vec p = exp2(load<Vec>(s) - most[v]);
          l[v] += p;
          store(s, p);
        }
      }
    }

    // Weighted values.
    const Operand values = v_tile<In>(span, first, count, scratch);
    const int64_t depth = (count + kPerUnit<In> - 1) / kPerUnit<In>;
    constexpr int kX = kStep<kVecs>;
    int64_t d = 0;
    for (; d + kX <= D; d += kX) add_values<kX, kVecs, U>(values, weights, depth, d, alpha, out.o);
    constexpr int kRest = std::min(kX, 8);  // D is a multiple of 8
    for (; d < D; d += kRest) add_values<kRest, kVecs, U>(values, weights, depth, d, alpha, out.o);
  }
  for (int v = 0; v < kVecs; ++v) {
    store(out.l + v * kLanes, l[v]);
    store(out.m + v * kLanes, m[v]);
  }
}

}  // namespace hivis::cpu
