// What both inner parts of tree_attention (many rows, few rows) stand on: the span of keys they
// work on, one thread's memory, tiles of K and V in the form they contract, and the contraction.
#pragma once

#include <algorithm>
#include <limits>

#include "core/tree_bits.h"
#include "cpu/simd.h"

namespace hivis::cpu {

constexpr int kMaxVecs = 4;
constexpr int kBlockRows = kMaxVecs * kLanes;
constexpr int kTile = 64;  // keys between two rescalings of the result
constexpr int kMaxHeadDim = 256;
// Up to this number of rows attend_rows is faster; its results fill one vector of rows.
constexpr int kFewRows = kLanes < 8 ? kLanes : 8;
constexpr int kMaxHalves = kMaxNodes / 32;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// bf16 is contracted in pairs where the processor can; everything else as fp32.
template <class In>
constexpr bool kPairs = HIVIS_BF16_DOT && std::is_same_v<In, Bf16>;
template <class In>
using Unit = std::conditional_t<kPairs<In>, uint32_t, float>;
template <class In>
constexpr int kPerUnit = kPairs<In> ? 2 : 1;
template <class U>
using VecOf = std::conditional_t<std::is_same_v<U, float>, Vec, VecU>;

// One thread's working memory. Used densely for the D at hand, whatever the bounds here.
struct alignas(64) Scratch {
  float q[kMaxHeadDim * kBlockRows];
  float result[(kMaxHeadDim + 2) * kBlockRows];  // a Partial: of the first spans
  float part[(kMaxHeadDim + 2) * kBlockRows];    // a Partial: of one more span
  float p[kTile * kBlockRows];
  uint32_t p_pairs[kTile / 2 * kBlockRows];
  float k[kTile * kMaxHeadDim];
  float v[kTile * kMaxHeadDim];
  float row[kMaxHeadDim];
  float row_o[kFewRows * kMaxHeadDim];
  uint32_t bits[kMaxHalves * kBlockRows];  // [N / 32][row]: which nodes the row sees
};

// What a span of keys makes of a block: sums that still lack the common divisor.
struct Partial {
  float* o;  // [D][width]: sum of 2^(score - most) * V
  float* l;  // [width]: sum of 2^(score - most)
  float* m;  // [width]: most, the largest score times log2(e); -inf if the row saw nothing
};

struct Span {
  const char* k;  // row 0 of this sequence and head
  const char* v;
  int64_t k_row, v_row;  // bytes
  int64_t head_dim;
  int64_t begin, end;    // keys
  int64_t prefix;        // kv_len: keys from here on are nodes, and masked
  const uint64_t* seen;  // [W]: nodes that at least one node sees
  float scale;           // times log2(e)
  int rows;
};

// --- The contraction

template <class U>
inline VecOf<U> splat_at(const char* at) {
  U value;
  std::memcpy(&value, at, sizeof(U));
  return splat(value);
}

// Lines to ask for while contracting: `step` bytes further at every step.
struct Fetch {
  const char* k;
  const char* v;
  int64_t step;
};

// sums[x][v] += A(x, i) * B[i][v] over i < depth; A at a + x * a_x + i * a_i (bytes).
template <int kX, int kVecs, class U>
[[gnu::always_inline]] inline void contract(const char* a, int64_t a_x, int64_t a_i, const U* b,
                                            int64_t b_i, int64_t depth, Vec (&sums)[kX][kVecs],
                                            Fetch fetch = {}) {
  // Four numbers of A share a pointer, so that all addresses of a step stay in registers.
  constexpr int kGroups = (kX + 3) / 4;
  const char* group[kGroups];
  for (int g = 0; g < kGroups; ++g) group[g] = a + 4 * g * a_x;
  for (int64_t i = 0; i < depth; ++i, b += b_i) {
    if (fetch.step != 0) {
      __builtin_prefetch(fetch.k + i * fetch.step, 0, 2);
      __builtin_prefetch(fetch.v + i * fetch.step, 0, 2);
    }
    VecOf<U> columns[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) columns[v] = load<VecOf<U>>(b + v * kLanes);
#pragma GCC unroll 16
    for (int x = 0; x < kX; ++x) {
      const VecOf<U> one = splat_at<U>(group[x / 4] + x % 4 * a_x);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) sums[x][v] = multiply_add(sums[x][v], columns[v], one);
    }
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) {
      group[g] += a_i;
      asm("" : "+r"(group[g]));  // or the compiler merges them into one again
    }
  }
}

// -inf minus -inf is NaN, so a row that has seen nothing yet subtracts 0.
inline Vec finite_or_zero(Vec most) { return most == -kInfinity ? Vec{} : most; }

// --- Tiles of K and V

template <class In>
void convert_row(const char* from, int64_t count, float* to) {
  for (int64_t d = 0; d < count; ++d) to[d] = to_float(load<In>(from + d * sizeof(In)));
}

inline bool is_seen(const Span& span, int64_t key) {
  return key < span.prefix || sees(span.seen, static_cast<int>(key - span.prefix));
}

struct Operand {
  const char* at;
  int64_t stride;  // bytes from one key (V in pairs: two keys) to the next
};

template <class In>
Operand k_tile(const Span& span, int64_t first, int count, Scratch& scratch) {
  const char* rows = span.k + first * span.k_row;
  if constexpr (std::is_same_v<In, float> || kPairs<In>) {
    return {rows, span.k_row};
  } else {
    for (int j = 0; j < count; ++j) {
      convert_row<In>(rows + j * span.k_row, span.head_dim, scratch.k + j * span.head_dim);
    }
    return {reinterpret_cast<const char*>(scratch.k), span.head_dim * 4};
  }
}

// pairs[d] holds low[d] and high[d], bf16 each.
inline void zip_rows(const char* low, const char* high, int64_t D, uint32_t* pairs) {
  for (int64_t d = 0; d < D; ++d) {
    pairs[d] = load<Bf16>(low + 2 * d).bits | uint32_t{load<Bf16>(high + 2 * d).bits} << 16;
  }
}

// A node that nobody sees is padding and may hold NaN, which 0 * NaN would let through: its row of
// V counts as zero.
template <class In>
Operand v_tile(const Span& span, int64_t first, int count, Scratch& scratch) {
  const char* rows = span.v + first * span.v_row;
  const int64_t D = span.head_dim;
  if constexpr (kPairs<In>) {
    static const Bf16 kZeros[kMaxHeadDim] = {};
    const auto row = [&](int j) {
      const bool use = j < count && is_seen(span, first + j);
      return use ? rows + j * span.v_row : reinterpret_cast<const char*>(kZeros);
    };
    uint32_t* pairs = reinterpret_cast<uint32_t*>(scratch.v);
    for (int j = 0; j < count; j += 2, pairs += D) zip_rows(row(j), row(j + 1), D, pairs);
    return {reinterpret_cast<const char*>(scratch.v), D * 4};
  }
  bool all_seen = true;
  for (int j = static_cast<int>(std::max(span.prefix - first, int64_t{0})); j < count; ++j) {
    all_seen &= is_seen(span, first + j);
  }
  if (std::is_same_v<In, float> && all_seen) return {rows, span.v_row};
  for (int j = 0; j < count; ++j) {
    float* to = scratch.v + j * D;
    if (is_seen(span, first + j)) {
      convert_row<In>(rows + j * span.v_row, D, to);
    } else {
      std::fill_n(to, D, 0.f);
    }
  }
  return {reinterpret_cast<const char*>(scratch.v), D * 4};
}

}  // namespace hivis::cpu
