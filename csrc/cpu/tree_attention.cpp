// out[b, n, h] = softmax(scale * q[b, n, h] . K) V over the rows that node n sees: all of the prefix
// 0..kv_len-1, and row kv_len + j where bit j of the node's ancestor words is set.
//
// Flash style: tiles of keys, a running maximum, fp32 sums. The query heads that share a kv head
// are packed with the nodes: row r = node * G + head in group, G = H / Hkv, blocks of kBlockRows
// rows. An item of work is one (sequence, kv head, block, span), a span being up to kSpanKeys keys;
// where a sequence has more than one span, a second pass merges them in order.
//
// Bound by arithmetic from about 8 rows on (4 * rows * keys * D flops, 64 fp32 flops a cycle and
// core with AVX-512), below that by reading 2 * keys * D elements per kv head.
#include "cpu/tree_attention.h"

#include <memory>

#include "cpu/attention_block.h"
#include "cpu/attention_rows.h"
#include "cpu/parallel.h"

namespace hivis::cpu {
namespace {

constexpr int64_t kSpanKeys = 1024;
constexpr int64_t kGrainCycles = 20000;  // a thread with less to do is not worth waking

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

Scratch& thread_scratch() {
  static thread_local const std::unique_ptr<Scratch> scratch(new Scratch);
  return *scratch;
}

int64_t partial_size(int64_t head_dim) { return (head_dim + 2) * kBlockRows; }

// One block of rows of one sequence and kv head.
template <class In>
struct Block {
  using U = Unit<In>;

  const TreeAttentionParams& p;
  int64_t b, h, first_row;
  int rows, width, words;
  bool few;
  const uint64_t* ancestors;  // of the sequence

  Block(const TreeAttentionParams& params, int64_t sequence, int64_t kv_head, int64_t index)
      : p(params), b(sequence), h(kv_head), first_row(index * kBlockRows) {
    const int64_t all = p.nodes * (p.heads / p.kv_heads);
    rows = static_cast<int>(std::min<int64_t>(kBlockRows, all - first_row));
    few = rows <= kFewRows && p.head_dim / kPerUnit<In> % kLanes == 0;
    width = static_cast<int>(divide_up(rows, kLanes)) * kLanes;
    words = word_count(static_cast<int>(p.nodes));
    ancestors = reinterpret_cast<const uint64_t*>(p.ancestors) + b * p.nodes * words;
  }

  int64_t group() const { return p.heads / p.kv_heads; }
  int64_t node(int row) const { return (first_row + row) / group(); }
  int64_t head(int row) const { return h * group() + (first_row + row) % group(); }

  uint64_t word(int64_t n, int w) const {
    return ancestors[n * words + w] & node_bits(w, static_cast<int>(p.nodes));
  }

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

  void attend(int64_t begin, int64_t end, Scratch& scratch, const Partial& result) const {
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
    span.begin = begin;
    span.end = end;
    span.prefix = p.kv_len[b];
    span.seen = seen;
    span.scale = p.scale * kLog2e;
    span.rows = rows;
    load_q(scratch);
    load_bits(scratch);
    if (few) return attend_rows<In>(span, scratch, result);
    switch (width / kLanes) {
      case 1: return attend_block<In, 1>(span, scratch, result);
      case 2: return attend_block<In, 2>(span, scratch, result);
      case 3: return attend_block<In, 3>(span, scratch, result);
      default: return attend_block<In, 4>(span, scratch, result);
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

  // The sum of the spans' partials into `total`, in order.
  void merge(float* partials, int64_t spans, const Partial& total) const {
    const int64_t size = partial_size(p.head_dim);
    std::memset(total.o, 0, sizeof(float) * p.head_dim * width);
    for (int c = 0; c < width; c += kLanes) {
      Vec most = splat(-kInfinity), l{};
      for (int64_t s = 0; s < spans; ++s) {
        most = max(most, load<Vec>(partial_at(partials + s * size).m + c));
      }
      most = finite_or_zero(most);
      for (int64_t s = 0; s < spans; ++s) {
        const Partial part = partial_at(partials + s * size);
        const Vec weight = exp2(load<Vec>(part.m + c) - most);
        l += load<Vec>(part.l + c) * weight;
        for (int64_t d = 0; d < p.head_dim; ++d) {
          float* o = total.o + d * width + c;
          store(o, load<Vec>(o) + load<Vec>(part.o + d * width + c) * weight);
        }
      }
      store(total.l + c, l);
    }
  }

  Partial partial_at(float* at) const {
    return {at + 2 * kBlockRows, at, at + kBlockRows};
  }
};

template <class In>
void run(const TreeAttentionParams& p) {
  const int64_t rows = p.nodes * (p.heads / p.kv_heads);
  const int64_t blocks = divide_up(rows, kBlockRows);
  const int64_t size = partial_size(p.head_dim);
  const int64_t keys = kSpanKeys < p.longest ? kSpanKeys : p.longest;
  const int64_t item_cycles = keys * p.head_dim * divide_up(std::min<int64_t>(rows, kBlockRows), 16);
  const int64_t grain = kGrainCycles / item_cycles + 1;

  const auto block_of = [&](int64_t item) {
    return Block<In>(p, item / blocks / p.kv_heads, item / blocks % p.kv_heads, item % blocks);
  };
  const int64_t items = p.batch * p.kv_heads * blocks;
  parallel_for(items * p.spans, grain, [&](int64_t begin, int64_t end) {
    Scratch& scratch = thread_scratch();
    for (int64_t i = begin; i < end; ++i) {
      const Block<In> block = block_of(i / p.spans);
      const int64_t all = p.kv_len[block.b] + p.nodes, first = i % p.spans * kSpanKeys;
      if (first >= all) continue;
      const bool whole = all <= kSpanKeys;
      const Partial result = whole ? block.partial_at(scratch.result)
                                   : block.partial_at(p.partials + i * size);
      block.attend(first, std::min(all, first + kSpanKeys), scratch, result);
      if (whole) block.finish(result);
    }
  });
  if (p.spans == 1) return;
  parallel_for(items, 1, [&](int64_t begin, int64_t end) {
    Scratch& scratch = thread_scratch();
    for (int64_t i = begin; i < end; ++i) {
      const Block<In> block = block_of(i);
      const int64_t spans = spans_of(p.kv_len[block.b] + p.nodes);
      if (spans == 1) continue;  // finished above
      const Partial total = block.partial_at(scratch.result);
      block.merge(p.partials + i * p.spans * size, spans, total);
      block.finish(total);
    }
  });
}

}  // namespace

int64_t spans_of(int64_t keys) { return divide_up(keys, kSpanKeys); }

int64_t partials_size(const TreeAttentionParams& p) {
  if (p.spans == 1) return 0;
  const int64_t blocks = divide_up(p.nodes * (p.heads / p.kv_heads), kBlockRows);
  return p.batch * p.kv_heads * blocks * p.spans * partial_size(p.head_dim);
}

void tree_attention(const TreeAttentionParams& params) {
  switch (params.element) {
    case Element::kFloat: return run<float>(params);
    case Element::kBf16: return run<Bf16>(params);
    case Element::kFp16: return run<Fp16>(params);
  }
}

}  // namespace hivis::cpu
