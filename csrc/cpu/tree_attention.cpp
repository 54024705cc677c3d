// out[b, n, h] = softmax(scale * q[b, n, h] . K) V over the rows that node n sees: all of the
// prefix 0..kv_len-1, and row kv_len + j where bit j of the node's ancestor words is set.
//
// Flash style: tiles of keys, a running maximum, fp32 sums. The query heads that share a kv head
// are packed with the nodes: row r = node * G + head in group, G = H / Hkv, blocks of kBlockRows
// rows. Keys come in spans of kSpanKeys, each computed for itself and folded into the sum in order;
// an item of work is one (sequence, kv head, block), or one span of it where that keeps threads
// busy.
//
// Bound by arithmetic from about 8 rows on (4 * rows * keys * D flops, 64 fp32 flops a cycle and
// core with AVX-512), below that by reading 2 * keys * D elements per kv head.
#include "cpu/tree_attention.h"

#include <memory>

#include "cpu/parallel.h"
#include "cpu/row_block.h"

namespace hivis::cpu {
namespace {

constexpr int64_t kGrainCycles = 20000;  // a thread with less to do is not worth waking

Scratch& thread_scratch() {
  static thread_local const std::unique_ptr<Scratch> scratch(new Scratch);
  return *scratch;
}

int64_t blocks_of(const TreeAttentionParams& p) {
  return divide_up(p.nodes * (p.heads / p.kv_heads), kBlockRows);
}

// Keys of the longest sequence.
int64_t most_keys(const TreeAttentionParams& p) {
  int64_t most = 0;
  for (int64_t b = 0; b < p.batch; ++b) most = std::max<int64_t>(most, p.kv_len[b]);
  return most + p.nodes;
}

// Are the spans of a sequence items of work of their own? Not if blocks alone keep all threads
// busy: then the thread that has a block folds its spans as they come, and nothing goes through
// memory.
bool spans_apart(const TreeAttentionParams& p) {
  const int64_t items = p.batch * p.kv_heads * blocks_of(p), threads = max_threads();
  return spans_of(most_keys(p)) > 1 && items < 4 * threads && items % threads != 0;
}

template <class In>
void run(const TreeAttentionParams& p, float* workspace) {
  const int64_t keys = most_keys(p), blocks = blocks_of(p), spans = spans_of(keys);
  const int64_t items = p.batch * p.kv_heads * blocks;
  const int64_t size = partial_size(p.head_dim);
  const auto block_of = [&](int64_t item) {
    return RowBlock<In>(p, item / blocks / p.kv_heads, item / blocks % p.kv_heads, item % blocks);
  };

  if (!spans_apart(p)) {
    const int64_t rows = std::min<int64_t>(p.nodes * (p.heads / p.kv_heads), kBlockRows);
    const int64_t item_cycles = keys * p.head_dim * divide_up(rows, 16);
    parallel_for(items, kGrainCycles / item_cycles + 1, [&](int64_t begin, int64_t end) {
      Scratch& scratch = thread_scratch();
      for (int64_t i = begin; i < end; ++i) {
        const RowBlock<In> block = block_of(i);
        const Partial total = block.partial_at(scratch.result);
        const Partial part = block.partial_at(scratch.part);
        for (int64_t span = 0; span < block.spans(); ++span) {
          block.attend(span, scratch, span == 0 ? total : part);
          if (span > 0) block.fold(total, part);
        }
        block.finish(total);
      }
    });
    return;
  }

  parallel_for(items * spans, 1, [&](int64_t begin, int64_t end) {
    Scratch& scratch = thread_scratch();
    for (int64_t i = begin; i < end; ++i) {
      const RowBlock<In> block = block_of(i / spans);
      if (i % spans >= block.spans()) continue;  // a shorter sequence than the longest
      block.attend(i % spans, scratch, block.partial_at(workspace + i * size));
    }
  });
  parallel_for(items, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const RowBlock<In> block = block_of(i);
      float* partials = workspace + i * spans * size;
      const Partial total = block.partial_at(partials);
      for (int64_t span = 1; span < block.spans(); ++span) {
        block.fold(total, block.partial_at(partials + span * size));
      }
      block.finish(total);
    }
  });
}

}  // namespace

int64_t tree_attention_workspace(const TreeAttentionParams& p) {
  if (!spans_apart(p)) return 0;
  return p.batch * p.kv_heads * blocks_of(p) * spans_of(most_keys(p)) * partial_size(p.head_dim);
}

void tree_attention(const TreeAttentionParams& params, float* workspace) {
  switch (params.dtype) {
    case DType::kFloat:
      return run<float>(params, workspace);
    case DType::kBFloat16:
      return run<Bf16>(params, workspace);
    case DType::kHalf:
      return run<Fp16>(params, workspace);
  }
}

}  // namespace hivis::cpu
