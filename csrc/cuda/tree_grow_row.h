// What both kernels of tree_grow are made of: their workspace, and a row's scores as a warp sees
// them.
#pragma once

#include "core/grow.h"
#include "cuda/logit_row.h"
#include "cuda/tree_grow.h"

namespace hivis::cuda {

static_assert(kSpan == kGrowSpan, "a warp weighs one span");

struct GrowWorkspace {
  uint64_t* best;     // [B, K, spans], each span's best token
  int64_t* weight;    // [B, K, spans], against that token's y
  uint64_t* keys;     // [B, K * k], the candidates for the next frontier
  uint32_t* tickets;  // [B]
  int64_t spans, bytes;
};

inline GrowWorkspace make_grow_workspace(const TreeGrowParams& p, void* memory, uint32_t* tickets) {
  GrowWorkspace w{};
  w.spans = divide_up(p.vocab, kSpan);
  const int64_t spans = p.batch * p.nodes * w.spans;
  const int64_t keys = p.batch * p.nodes * p.children;
  w.best = static_cast<uint64_t*>(memory);
  w.weight = reinterpret_cast<int64_t*>(w.best + spans);
  w.keys = reinterpret_cast<uint64_t*>(w.weight + spans);
  w.tickets = tickets;
  w.bytes = (2 * spans + keys) * static_cast<int64_t>(sizeof *w.best);
  return w;
}

__device__ __forceinline__ GrowRule grow_rule_of(const TreeGrowParams& p, int64_t b) {
  return {p.temperature[b], p.sharpness, p.noise};
}

__device__ __forceinline__ NoiseKey grow_noise_of(const TreeGrowParams& p, int64_t b) {
  return noise_key(p.seed[b], p.position[b], p.level - 1);
}

template <class T>
__device__ __forceinline__ Row<T> grow_row_of(const TreeGrowParams& p, int64_t b, int64_t slot) {
  const int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p.logits)) |
                      p.logits_batch_stride * static_cast<int64_t>(sizeof(T)) |
                      p.logits_node_stride * static_cast<int64_t>(sizeof(T));
  const T* logits =
      static_cast<const T*>(p.logits) + b * p.logits_batch_stride + slot * p.logits_node_stride;
  return {logits, static_cast<int>(p.vocab), p.temperature[b], all % 16 == 0};
}

template <class T>
__device__ __forceinline__ void octet_values(const Octet<T>& octet, const float (&noise)[kOctet],
                                             const GrowRule& rule, float (&y)[kOctet]) {
#pragma unroll
  for (int j = 0; j < kOctet; ++j) y[j] = grow_value(octet[j], noise[j], rule);
}

// The best token of a thread's eight among those up to `limit`, or 0; a NaN is above all.
__device__ __forceinline__ uint64_t octet_best(const float (&y)[kOctet], int first,
                                               uint64_t limit) {
  uint64_t best = 0;
#pragma unroll
  for (int j = 0; j < kOctet; ++j) {
    const uint64_t mine = pack_best(y[j] != y[j] ? kNanKey : key_of(y[j]), first + j);
    if (mine <= limit) best = greater(best, mine);
  }
  return best;
}

__device__ __forceinline__ int64_t warp_total(int64_t sum) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  return sum;
}

// Is this y of the best token of a row that is a distribution?
__device__ __forceinline__ bool is_sound(uint64_t best) {
  const uint32_t key = static_cast<uint32_t>(best >> 32);
  return key > kLowestKey && key < kInfinityKey;
}

__device__ __forceinline__ float best_value(uint64_t best) {
  return value_of(static_cast<uint32_t>(best >> 32));
}

__device__ __forceinline__ int best_token(uint64_t best) {
  return static_cast<int>(~static_cast<uint32_t>(best));
}

}  // namespace hivis::cuda
