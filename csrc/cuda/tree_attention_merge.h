// The last block of a unit (sequence, K/V head, row tile) merges its partial results, in the order
// of the keys, whichever block finished first.
#pragma once

#include "cuda/ticket.h"
#include "cuda/tree_attention_tile.h"

namespace hivis::cuda {

// Where a row's partial result lies in the workspace: [unit][slot][row][D] floats, behind all of
// them [unit][slot][row] pairs.
template <class Tr>
struct Partial {
  float* o;      // [D], sum of 2^(score - most) * V
  float2* sums;  // most, and the sum of 2^(score - most)

  __device__ __forceinline__ Partial(const TreeAttentionLaunch& p, int unit, int slot, int row) {
    const int64_t units = p.batch * p.kv_heads * p.row_tiles;
    const int64_t at = (int64_t{unit} * p.max_slots + slot) * Tr::kRows + row;
    o = p.partials + at * Tr::kHeadDim;
    sums =
        reinterpret_cast<float2*>(p.partials + units * p.max_slots * Tr::kRows * Tr::kHeadDim) + at;
  }
};

__device__ __forceinline__ bool is_padding(const TreeAttentionParams& p, const Work& w, int row) {
  return !sees_any(w.ancestors + row / w.group * word_count(p.nodes), p.nodes);
}

template <class Tr>
__device__ __forceinline__ void* output_row(const TreeAttentionParams& p, const Work& w, int row) {
  const int node = row / w.group, head = w.kv_head * w.group + row % w.group;
  return static_cast<typename Tr::T*>(p.out) +
         ((int64_t{w.b} * p.nodes + node) * p.heads + head) * Tr::kHeadDim;
}

// Weight of every partial result of a row, common divisor included.
template <class Tr>
__device__ __forceinline__ void weigh_slots(const TreeAttentionLaunch& p, const Work& w, int slots,
                                            int row, float* weights) {
  float most = -HUGE_VALF, sum = 0.0f;
  for (int slot = 0; slot < slots; ++slot) {
    most = fmaxf(most, Partial<Tr>(p, w.unit, slot, row).sums->x);
  }
  const float base = most == -HUGE_VALF ? 0.0f : most;
  for (int slot = 0; slot < slots; ++slot) {
    const float2 part = *Partial<Tr>(p, w.unit, slot, row).sums;
    const float weight = exp2_approx(part.x - base);
    weights[slot] = weight;
    sum += weight * part.y;
  }
  const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
  for (int slot = 0; slot < slots; ++slot) weights[slot] *= factor;
}

// Called by every block that has stored its partial results; shared memory is free again.
template <class Tr>
__device__ __forceinline__ void merge_splits(const TreeAttentionLaunch& p, const Work& w,
                                             char* shared) {
  auto* const flag = reinterpret_cast<int*>(shared);
  auto* const weights = reinterpret_cast<float*>(shared + 16);  // [row][slot]
  if (!is_last_block(&p.tickets[w.unit], w.splits, flag)) return;

  const int slots = w.splits * Tr::kKeyWarps;
  const int left = w.rows - w.row_tile * Tr::kRows, rows = left < Tr::kRows ? left : Tr::kRows;
  for (int row = threadIdx.x; row < rows; row += Tr::kThreads) {
    weigh_slots<Tr>(p, w, slots, row, weights + row * slots);
  }
  __syncthreads();

  // A thread takes kBatch items (a row's four columns each) of kSlots splits at once, so that their
  // loads are under way together: this is a chain of L2 latencies that everybody else waits for.
  constexpr int kColumns = Tr::kHeadDim / 4, kLoads = 16;
  constexpr int kItems = (Tr::kRows * kColumns + Tr::kThreads - 1) / Tr::kThreads;  // of a thread
  constexpr int kBatch = kItems < 4 ? kItems : 4, kSlots = kLoads / kBatch;
  const int64_t step = int64_t{Tr::kRows} * Tr::kHeadDim;  // from slot to slot
  const float* const partials = Partial<Tr>(p, w.unit, 0, 0).o;
  const int items = rows * kColumns;
  for (int first = threadIdx.x; first < items; first += kBatch * Tr::kThreads) {
    float4 total[kBatch] = {};
    int at[kBatch], row_weights[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int item = first + i * Tr::kThreads;
      at[i] = item < items ? item : first;  // loads what is not stored: no branch between loads
      row_weights[i] = at[i] / kColumns * slots;
    }
    int slot = 0;
    for (; slot + kSlots <= slots; slot += kSlots) {
      float4 part[kSlots][kBatch];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          part[s][i] = reinterpret_cast<const float4*>(partials + (slot + s) * step)[at[i]];
        }
      }
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const float weight = weights[row_weights[i] + slot + s];
          total[i].x += weight * part[s][i].x;
          total[i].y += weight * part[s][i].y;
          total[i].z += weight * part[s][i].z;
          total[i].w += weight * part[s][i].w;
        }
      }
    }
    for (; slot < slots; ++slot) {
      float4 part[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        part[i] = reinterpret_cast<const float4*>(partials + slot * step)[at[i]];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const float weight = weights[row_weights[i] + slot];
        total[i].x += weight * part[i].x;
        total[i].y += weight * part[i].y;
        total[i].z += weight * part[i].z;
        total[i].w += weight * part[i].w;
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int item = first + i * Tr::kThreads;
      if (item >= items) break;
      const int row = w.row_tile * Tr::kRows + item / kColumns;
      uint2 packed = make_uint2(pack<typename Tr::T>(total[i].x, total[i].y),
                                pack<typename Tr::T>(total[i].z, total[i].w));
      if (is_padding(p, w, row)) packed = make_uint2(0u, 0u);
      static_cast<uint2*>(output_row<Tr>(p, w, row))[item % kColumns] = packed;
    }
  }
}

}  // namespace hivis::cuda
