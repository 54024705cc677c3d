// What both kernels of tree_accept are made of: their workspace, reductions over the block, and the
// walk.
#pragma once

#include "core/accept.h"
#include "core/tree_bits.h"
#include "cuda/logit_row.h"
#include "cuda/ticket.h"
#include "cuda/tree_accept.h"

namespace hivis::cuda {

// The second kernel's blocks, and the tokens of one.
constexpr int kConfirmWarps = 16;
constexpr int kConfirmSpans = 2;  // of a warp
constexpr int kChunk = kConfirmWarps * kConfirmSpans * kSpan;

// --- Workspace

// Sums over the tokens of one row, exact in any order.
struct Sums {
  int64_t count;  // tokens with x above the drawn token's
  int64_t above;  // their weight
  int64_t total;  // weight of all the tokens that are known to pass top-k
};

struct Workspace {
  uint64_t* best;  // [B, N, spans], by the first kernel: each span's best token
  Sums* sums;      // [B, max_depth + 1, chunks], by the second kernel, along the path
  uint32_t* top;   // [B, N, spans], by the first kernel if there are filters: key of the largest x
  uint32_t* tickets;  // [B]
  int64_t spans, chunks, bytes;
};

inline Workspace make_workspace(const TreeAcceptParams& p, void* memory, uint32_t* tickets) {
  Workspace w{};
  w.spans = divide_up(p.vocab, kSpan);
  w.chunks = divide_up(p.vocab, kChunk);
  const int64_t spans = p.batch * p.nodes * w.spans;
  const int64_t sums = p.batch * (p.max_depth + 1) * w.chunks;
  w.best = static_cast<uint64_t*>(memory);
  w.sums = reinterpret_cast<Sums*>(w.best + spans);
  w.top = reinterpret_cast<uint32_t*>(w.sums + sums);
  w.tickets = tickets;
  w.bytes = spans * static_cast<int64_t>(sizeof *w.best + sizeof *w.top) +
            sums * static_cast<int64_t>(sizeof *w.sums);
  return w;
}

// --- A sequence

__device__ __forceinline__ int64_t token_of(uint64_t best) {
  const uint32_t key = static_cast<uint32_t>(best >> 32);
  return key > kLowestKey && key < kInfinityKey ? ~static_cast<uint32_t>(best) : kNoToken;
}

__device__ __forceinline__ SamplingRule rule_of(const TreeAcceptParams& p, int64_t b) {
  return {p.temperature[b], p.top_k[b], p.top_p[b], p.min_p[b]};
}

template <class T>
__device__ __forceinline__ Row<T> row_of(const TreeAcceptParams& p, int64_t b, int64_t node,
                                         float temperature) {
  const int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p.logits)) |
                      p.logits_batch_stride * static_cast<int64_t>(sizeof(T)) |
                      p.logits_node_stride * static_cast<int64_t>(sizeof(T));
  const T* logits =
      static_cast<const T*>(p.logits) + b * p.logits_batch_stride + node * p.logits_node_stride;
  return {logits, static_cast<int>(p.vocab), temperature, all % 16 == 0};
}

// --- The block together. Every thread calls these, and every thread gets the result.

struct Scratch {
  uint64_t best[kWarp];  // one per warp
  Sums sums[kConfirmWarps];
  int last;
  uint32_t first;
};

__device__ __forceinline__ uint64_t block_best(uint64_t best, Scratch* scratch) {
  best = warp_best(best);
  __syncthreads();  // everybody has read the result of the call before
  if (threadIdx.x % kWarp == 0) scratch->best[threadIdx.x / kWarp] = best;
  __syncthreads();
  best = 0;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) best = greater(best, scratch->best[w]);
  return best;
}

// The best of one row's spans.
__device__ __forceinline__ uint64_t row_best(const uint64_t* of_span, int64_t spans,
                                             Scratch* scratch) {
  uint64_t best = 0;
#pragma unroll 4
  for (int64_t s = threadIdx.x; s < spans; s += blockDim.x) best = greater(best, of_span[s]);
  return block_best(best, scratch);
}

// accept_walk of core/accept.h by a whole block, from a node on that the path leads to already.
// draw(node, depth) is called by every thread and returns the same token to each.
template <class Draw>
__device__ void walk(const TreeAcceptParams& p, int64_t b, int node, int depth, Scratch* scratch,
                     const Draw& draw) {
  const int64_t* tokens = p.tokens + b * p.nodes;
  const int32_t* parents = p.parents + b * p.nodes;
  int32_t* path = p.path + b * (p.max_depth + 1);
  int64_t* emitted = p.emitted + b * (p.max_depth + 1);
  int64_t token;
  for (;;) {
    token = draw(node, depth);
    if (token < 0 || depth == p.max_depth) break;
    // The first child with this token. kMaxNodes - n: the first is the greatest, and 0 is none.
    uint64_t found = 0;
    for (int n = node + 1 + threadIdx.x; n < p.nodes; n += blockDim.x) {
      if (parents[n] == node && tokens[n] == token) {
        found = greater(found, static_cast<uint64_t>(kMaxNodes - n));
      }
    }
    found = block_best(found, scratch);
    if (found == 0) break;
    if (threadIdx.x == 0) {
      path[depth] = node;
      emitted[depth] = token;
    }
    node = kMaxNodes - static_cast<int>(found);
    ++depth;
  }
  for (int i = depth + threadIdx.x; i <= p.max_depth; i += blockDim.x) {
    path[i] = node;
    emitted[i] = token;
  }
  if (threadIdx.x == 0) {
    p.path_len[b] = depth + 1;
    p.next_token[b] = token;
  }
}

// The second launch: tree_accept_confirm.cu.
cudaError_t launch_confirm(const TreeAcceptParams& p, const Workspace& work, cudaStream_t stream);

}  // namespace hivis::cuda
