// One block of rows of one sequence and kv head: reads q and the ancestor words, attends to one
// span of keys at a time, folds the spans into one sum, and writes the result.
#pragma once

#include "cpu/attention_block.h"
#include "cpu/attention_rows.h"
#include "cpu/tree_attention.h"

namespace hivis::cpu {

// Splits depend on a sequence's own length and on nothing else, so its result depends neither on
// its neighbors in the batch nor on the number of threads.
constexpr int64_t kSpanKeys = 1024;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t spans_of(int64_t keys) { return divide_up(keys, kSpanKeys); }

// Floats of a Partial for any block.
inline int64_t partial_size(int64_t head_dim) { return (head_dim + 2) * kBlockRows; }

template <class In>
struct RowBlock {
  using U = Unit<In>;

  const TreeAttentionParams& p;
  int64_t b, h, first_row;
  int rows, width, words;
  bool few;
  const uint64_t* ancestors;  // of the sequence

  RowBlock(const TreeAttentionParams& params, int64_t sequence, int64_t kv_head, int64_t index)
      : p(params), b(sequence), h(kv_head), first_row(index * kBlockRows) {
    const int64_t all = p.nodes * (p.heads / p.kv_heads);
    rows = static_cast<int>(std::min<int64_t>(kBlockRows, all - first_row));
    few = rows <= kFewRows && p.head_dim / kPerUnit<In> % kLanes == 0;
    width = static_cast<int>(divide_up(rows, kLanes)) * kLanes;
    words = word_count(p.nodes);
    ancestors = p.ancestors + b * p.nodes * words;
  }

  int64_t group() const { return p.heads / p.kv_heads; }
  int64_t node(int row) const { return (first_row + row) / group(); }
  int64_t head(int row) const { return h * group() + (first_row + row) % group(); }

  uint64_t word(int64_t n, int w) const { return ancestors[n * words + w] & node_bits(w, p.nodes); }

  // q's row as units, in place or converted into scratch.row.
  const U* q_row(int row, Scratch& scratch) const {
    const char* from = static_cast<const char*>(p.q) +
                       (b * p.q_batch + node(row) * p.q_node + head(row) * p.q_head) *
                           static_cast<int64_t>(sizeof(In));
    if constexpr (std::is_same_v<In, float> || kPairs<In>) {
      return reinterpret_cast<const U*>(from);
    } else {
      convert_row<In>(from, p.head_dim, scratch.row);
      return scratch.row;
    }
  }

  // scratch.q: [units][width], or [rows][units] for few rows.
  void load_q(Scratch& scratch) const {
    const int64_t units = p.head_dim / kPerUnit<In>;
    U* q = reinterpret_cast<U*>(scratch.q);
    if (few) {
      for (int r = 0; r < rows; ++r) std::memcpy(q + r * units, q_row(r, scratch), units * 4);
      return;
    }
    for (int first = 0; first < width; first += kLanes) {
      const int count = std::min(kLanes, rows - first);
      if constexpr (std::is_same_v<In, float> || kPairs<In>) {
        const U* from[kLanes];
        for (int r = 0; r < count; ++r) from[r] = q_row(first + r, scratch);
        int64_t u = 0;
        for (; u + kLanes <= units; u += kLanes) {
          VecOf<U> columns[kLanes] = {};  // rows that do not exist count as zero
          for (int r = 0; r < count; ++r) columns[r] = load<VecOf<U>>(from[r] + u);
          transpose(columns);
          for (int i = 0; i < kLanes; ++i) store(q + (u + i) * width + first, columns[i]);
        }
        for (; u < units; ++u) {
          for (int r = 0; r < kLanes; ++r) {
            q[u * width + first + r] = r < count ? load<U>(from[r] + u) : U{0};
          }
        }
      } else {
        for (int r = 0; r < kLanes; ++r) {
          const U* from = r < count ? q_row(first + r, scratch) : nullptr;
          for (int64_t u = 0; u < units; ++u) q[u * width + first + r] = from ? from[u] : U{0};
        }
      }
    }
  }

  void load_bits(Scratch& scratch) const {
    std::memset(scratch.bits, 0, sizeof(uint32_t) * 2 * words * width);
    for (int r = 0; r < rows; ++r) {
      for (int w = 0; w < words; ++w) {
        const uint64_t bits = word(node(r), w);
        scratch.bits[(2 * w) * width + r] = static_cast<uint32_t>(bits);
        scratch.bits[(2 * w + 1) * width + r] = static_cast<uint32_t>(bits >> 32);
      }
    }
  }

  int64_t keys() const { return p.kv_len[b] + p.nodes; }
  int64_t spans() const { return spans_of(keys()); }

  void attend(int64_t index, Scratch& scratch, const Partial& result) const {
    uint64_t seen[kMaxNodes / kWordBits] = {};
    for (int64_t n = 0; n < p.nodes; ++n) {
      for (int w = 0; w < words; ++w) seen[w] |= word(n, w);
    }
    constexpr int64_t kSize = sizeof(In);
    constexpr float kLog2e = 1.44269504088896341f;
    Span span{};
    span.k = static_cast<const char*>(p.k) + (b * p.k_batch + h * p.k_head) * kSize;
    span.v = static_cast<const char*>(p.v) + (b * p.v_batch + h * p.v_head) * kSize;
    span.k_row = p.k_row * kSize;
    span.v_row = p.v_row * kSize;
    span.head_dim = p.head_dim;
    span.begin = index * kSpanKeys;
    span.end = std::min(keys(), span.begin + kSpanKeys);
    span.prefix = p.kv_len[b];
    span.seen = seen;
    span.scale = p.scale * kLog2e;
    span.rows = rows;
    load_q(scratch);
    load_bits(scratch);
    if (few) return attend_rows<In>(span, scratch, result);
    switch (width / kLanes) {
      case 1:
        return attend_block<In, 1>(span, scratch, result);
      case 2:
        return attend_block<In, 2>(span, scratch, result);
      case 3:
        return attend_block<In, 3>(span, scratch, result);
      default:
        return attend_block<In, 4>(span, scratch, result);
    }
  }

  // out = o / l, turned back into rows. A node that sees nothing gets zeros.
  void finish(const Partial& result) const {
    In* out = static_cast<In*>(p.out);
    for (int first = 0; first < rows; first += kLanes) {
      Vec inverse = 1.f / load<Vec>(result.l + first);
      const int count = std::min(kLanes, rows - first);
      In* to[kLanes];
      bool blind[kLanes] = {};
      for (int r = 0; r < count; ++r) {
        const int64_t n = node(first + r);
        to[r] = out + ((b * p.nodes + n) * p.heads + head(first + r)) * p.head_dim;
        uint64_t any = 0;
        for (int w = 0; w < words; ++w) any |= word(n, w);
        blind[r] = any == 0;
      }
      int64_t d = 0;
      for (; d + kLanes <= p.head_dim; d += kLanes) {
        Vec columns[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          columns[i] = load<Vec>(result.o + (d + i) * width + first) * inverse;
        }
        transpose(columns);
        for (int r = 0; r < count; ++r) store_as(to[r] + d, blind[r] ? Vec{} : columns[r]);
      }
      for (; d < p.head_dim; ++d) {
        const Vec column = load<Vec>(result.o + d * width + first) * inverse;
        for (int r = 0; r < count; ++r) from_float(blind[r] ? 0.f : column[r], to[r] + d);
      }
    }
  }

  // Adds a later span to the sum of the earlier ones. The order of these calls is part of the
  // result.
  void fold(const Partial& total, const Partial& part) const {
    for (int c = 0; c < width; c += kLanes) {
      const Vec m = load<Vec>(total.m + c), part_m = load<Vec>(part.m + c);
      const Vec most = max(m, part_m), base = finite_or_zero(most);
      const Vec weight = exp2(m - base), part_weight = exp2(part_m - base);
      for (int64_t d = 0; d < p.head_dim; ++d) {
        float* o = total.o + d * width + c;
        store(o, load<Vec>(o) * weight + load<Vec>(part.o + d * width + c) * part_weight);
      }
      store(total.l + c, load<Vec>(total.l + c) * weight + load<Vec>(part.l + c) * part_weight);
      store(total.m + c, most);
    }
  }

  Partial partial_at(float* at) const { return {at + 2 * kBlockRows, at, at + kBlockRows}; }
};

}  // namespace hivis::cpu
