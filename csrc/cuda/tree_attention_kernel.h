// tree_attention on tensor cores, for 16-bit types. tree_attention.cu says how it works as a whole.
//
// Traits<T, D, row tiles of a warp, warps along rows, warps along keys>; two blocks of 128 threads
// leave 255 registers.
// budget: tree_attention_kernel<Traits<*, 64, 1, 1, 4>>: registers <= 128
// budget: tree_attention_kernel<Traits<*, 64, 1, 4, 1>>: registers <= 152
// budget: tree_attention_kernel<Traits<*, 64, 2, 4, 1>>: registers <= 200
// budget: tree_attention_kernel<Traits<*, 80, 1, 1, 4>>: registers <= 128
// budget: tree_attention_kernel<Traits<*, 80, 1, 4, 1>>: registers <= 160
// budget: tree_attention_kernel<Traits<*, 80, 2, 4, 1>>: registers <= 216
// budget: tree_attention_kernel<Traits<*, 96, 1, 1, 4>>: registers <= 128
// budget: tree_attention_kernel<Traits<*, 96, 1, 4, 1>>: registers <= 168
// budget: tree_attention_kernel<Traits<*, 96, 2, 4, 1>>: registers <= 224
// budget: tree_attention_kernel<Traits<*, 128, 1, 1, 4>>: registers <= 152
// budget: tree_attention_kernel<Traits<*, 128, 1, 4, 1>>: registers <= 200
// budget: tree_attention_kernel<Traits<*, 128, 2, 4, 1>>: registers <= 255
// budget: tree_attention_kernel<Traits<*, 256, 1, 2, 2>>: registers <= 248
// budget: tree_attention_kernel<Traits<*, 256, 1, 4, 1>>: registers <= 248
#pragma once

#include "core/fastmath.h"
#include "cuda/tree_attention_merge.h"
#include "cuda/tree_attention_tile.h"

namespace hivis::cuda {

constexpr float kMinusInfinity = -HUGE_VALF;

// A warp's rows and keys within the block's, and its lane's place in a fragment (see ptx.h).
template <class Tr>
struct Place {
  int lane = threadIdx.x % kWarp;
  int group = lane / 4;
  int member = lane % 4;
  int key_warp = threadIdx.x / kWarp / Tr::kRowWarps;
  int first_row = threadIdx.x / kWarp % Tr::kRowWarps * Tr::kWarpRows;

  // Row of the block that element `half` (0: c[0], c[1]; 1: c[2], c[3]) of row tile `tile` is in.
  __device__ __forceinline__ int row(int tile, int half) const {
    return first_row + tile * kFragment + half * 8 + group;
  }
};

template <class Tr>
struct Accumulator {
  static constexpr int kTiles = Tr::kHeadDim / 8;
  float o[Tr::kRowTiles][kTiles][4];  // sum of 2^(score - most) * V
  float sum[Tr::kRowTiles][2];        // sum of 2^(score - most), of this lane's columns
  float most[Tr::kRowTiles][2];       // the largest score times log2(e)
};

template <class Tr>
using Scores = float[Tr::kRowTiles][Tr::kPassKeys / 8][4];

// s = factor * Q K^T for the keys of one pass, from row `first` of the tile on.
template <class Tr>
__device__ __forceinline__ void multiply_keys(const Place<Tr>& at, char* query, char* keys,
                                              int first, float factor, Scores<Tr>& s) {
  using L = Layout<Tr::kHeadDim>;
#pragma unroll
  for (int step = 0; step < Tr::kHeadDim / kFragment; ++step) {
    uint32_t a[Tr::kRowTiles][4];
#pragma unroll
    for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
      const int row = at.first_row + tile * kFragment + at.lane % 16;
      ldmatrix(a[tile], L::at(query, row, step * 2 + at.lane / 16));
    }
#pragma unroll
    for (int pair = 0; pair < Tr::kPassKeys / 16; ++pair) {
      uint32_t b[4];
      const int key = first + pair * 16 + at.lane / 16 * 8 + at.lane % 8;
      ldmatrix(b, L::at(keys, key, step * 2 + at.lane / 8 % 2));
#pragma unroll
      for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
        mma<typename Tr::T>(s[tile][2 * pair], a[tile], b[0], b[1]);
        mma<typename Tr::T>(s[tile][2 * pair + 1], a[tile], b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
#pragma unroll
    for (int t = 0; t < Tr::kPassKeys / 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[tile][t][i] *= factor;
    }
  }
}

// Scores of keys that a row does not see become -inf (after the scaling: it may be 0, or negative).
// `first` is the pass's first key, counted from the end of the prefix.
template <class Tr>
__device__ __forceinline__ void mask_scores(const TreeAttentionParams& p, const Work& w,
                                            const Place<Tr>& at, int first, Scores<Tr>& s) {
#pragma unroll
  for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = w.row_tile * Tr::kRows + at.row(tile, half);
      const int node = row < w.rows ? row / w.group : 0;
      const uint64_t* words = w.ancestors + node * word_count(p.nodes);
      const uint64_t window = visible_window(words, p.nodes, first) >> (2 * at.member);
#pragma unroll
      for (int t = 0; t < Tr::kPassKeys / 8; ++t) {
        if (!(window >> (t * 8) & 1)) s[tile][t][2 * half] = kMinusInfinity;
        if (!(window >> (t * 8 + 1) & 1)) s[tile][t][2 * half + 1] = kMinusInfinity;
      }
    }
  }
}

// One step of the online softmax: scores become weights, what was summed before is rescaled.
template <class Tr>
__device__ __forceinline__ void weigh_scores(Scores<Tr>& s, Accumulator<Tr>& acc) {
  float alpha[Tr::kRowTiles][2];
  bool changed = false;
#pragma unroll
  for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = acc.most[tile][half];
#pragma unroll
      for (int t = 0; t < Tr::kPassKeys / 8; ++t) {
        most = fmaxf(most, fmaxf(s[tile][t][2 * half], s[tile][t][2 * half + 1]));
      }
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      // A row that has seen nothing yet must not compute inf - inf.
      const float base = most == kMinusInfinity ? 0.0f : most;
      alpha[tile][half] = exp2_approx(acc.most[tile][half] - base);
      changed |= acc.most[tile][half] != most;
      acc.most[tile][half] = most;
      acc.sum[tile][half] *= alpha[tile][half];
#pragma unroll
      for (int t = 0; t < Tr::kPassKeys / 8; ++t) {
        float& even = s[tile][t][2 * half];
        float& odd = s[tile][t][2 * half + 1];
        even = exp2_approx(even - base);
        odd = exp2_approx(odd - base);
        acc.sum[tile][half] += even + odd;
      }
    }
  }
  // After the first tiles the maxima seldom move; then every alpha is 1.
  if (!__any_sync(kAllLanes, changed)) return;
#pragma unroll
  for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
#pragma unroll
    for (int t = 0; t < Accumulator<Tr>::kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc.o[tile][t][i] *= alpha[tile][i / 2];
    }
  }
}

// o += P V. Two neighboring score tiles (C layout) are one A fragment.
template <class Tr>
__device__ __forceinline__ void add_values(const Place<Tr>& at, char* values, int first,
                                           const Scores<Tr>& s, Accumulator<Tr>& acc) {
  using T = typename Tr::T;
  using L = Layout<Tr::kHeadDim>;
#pragma unroll
  for (int pair = 0; pair < Tr::kPassKeys / 16; ++pair) {
    uint32_t a[Tr::kRowTiles][4];
#pragma unroll
    for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
      const float (&low)[4] = s[tile][2 * pair];
      const float (&high)[4] = s[tile][2 * pair + 1];
      a[tile][0] = pack<T>(low[0], low[1]);
      a[tile][1] = pack<T>(low[2], low[3]);
      a[tile][2] = pack<T>(high[0], high[1]);
      a[tile][3] = pack<T>(high[2], high[3]);
    }
#pragma unroll
    for (int column = 0; column < Tr::kHeadDim / 16; ++column) {
      uint32_t b[4];
      const int key = first + pair * 16 + at.lane / 8 % 2 * 8 + at.lane % 8;
      ldmatrix_transposed(b, L::at(values, key, column * 2 + at.lane / 16));
#pragma unroll
      for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
        mma<T>(acc.o[tile][2 * column], a[tile], b[0], b[1]);
        mma<T>(acc.o[tile][2 * column + 1], a[tile], b[2], b[3]);
      }
    }
  }
}

template <class Tr>
__device__ __forceinline__ void clear(Accumulator<Tr>& acc) {
#pragma unroll
  for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
#pragma unroll
    for (int t = 0; t < Accumulator<Tr>::kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc.o[tile][t][i] = 0.0f;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      acc.sum[tile][half] = 0.0f;
      acc.most[tile][half] = kMinusInfinity;
    }
  }
}

// The results of this warp's rows: as they are to the output if nobody shares them, else to the
// workspace.
template <class Tr>
__device__ __forceinline__ void store_rows(const TreeAttentionLaunch& p, const Work& w,
                                           const Place<Tr>& at, Accumulator<Tr>& acc) {
  const int slots = w.splits * Tr::kKeyWarps;
#pragma unroll
  for (int tile = 0; tile < Tr::kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = acc.sum[tile][half];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      const int block_row = at.row(tile, half), row = w.row_tile * Tr::kRows + block_row;
      if (row >= w.rows) continue;
      if (slots == 1) {
        const bool padding = is_padding(p, w, row);
        const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
        auto* out = static_cast<uint32_t*>(output_row<Tr>(p, w, row));
#pragma unroll
        for (int t = 0; t < Accumulator<Tr>::kTiles; ++t) {
          const float* pair = &acc.o[tile][t][2 * half];
          const uint32_t both = pack<typename Tr::T>(pair[0] * factor, pair[1] * factor);
          out[t * 4 + at.member] = padding ? 0u : both;
        }
      } else {
        const Partial<Tr> partial(p, w.unit, w.split * Tr::kKeyWarps + at.key_warp, block_row);
#pragma unroll
        for (int t = 0; t < Accumulator<Tr>::kTiles; ++t) {
          reinterpret_cast<float2*>(partial.o)[t * 4 + at.member] =
              make_float2(acc.o[tile][t][2 * half], acc.o[tile][t][2 * half + 1]);
        }
        if (at.member == 0) *partial.sums = make_float2(acc.most[tile][half], sum);
      }
    }
  }
}

template <class Tr>
__global__ void __launch_bounds__(Tr::kThreads, 2)
    tree_attention_kernel(const TreeAttentionLaunch p) {
  const Work w = find_work<Tr>(p);
  if (w.split >= w.splits) return;
  char* const query = dynamic_shared();
  auto* const seen = reinterpret_cast<uint64_t*>(query + Tr::kQueryBytes);
  char* const stages = query + Tr::kFixedBytes;

  // Copies under way: the rows of q with the first tile, then a group for every further stage.
  load_query<Tr>(p, w, query);
  if (w.end * Tr::kKeys > w.kv_len) {
    find_seen<Tr>(p, w, seen);
    __syncthreads();
  }
#pragma unroll
  for (int stage = 0; stage < Tr::kStages - 1; ++stage) {
    const int index = w.begin + stage;
    if (index < w.end) load_tile<Tr>(p, w, index, seen, stages + stage * Tr::kStageBytes);
    cp_async_commit();
  }

  const Place<Tr> at;
  const bool active = w.row_tile * Tr::kRows + at.first_row < w.rows;
  Accumulator<Tr> acc;
  clear(acc);

  int stage = 0;
  for (int index = w.begin; index < w.end; ++index) {
    // This tile has landed for everybody, and everybody is done with the one before.
    cp_async_wait<Tr::kStages - 2>();
    __syncthreads();
    const int ahead = index + Tr::kStages - 1;
    const int free_stage = stage == 0 ? Tr::kStages - 1 : stage - 1;
    if (ahead < w.end) load_tile<Tr>(p, w, ahead, seen, stages + free_stage * Tr::kStageBytes);
    cp_async_commit();

    if (active) {
      char* const keys = stages + stage * Tr::kStageBytes;
      const bool masked = (index + 1) * Tr::kKeys > w.kv_len;
#pragma unroll 1
      for (int pass = 0; pass < Tr::kWarpKeys; pass += Tr::kPassKeys) {
        const int first = at.key_warp * Tr::kWarpKeys + pass;
        Scores<Tr> s = {};
        multiply_keys(at, query, keys, first, p.scale * kLog2E, s);
        if (masked) mask_scores(p, w, at, index * Tr::kKeys + first - w.kv_len, s);
        weigh_scores(s, acc);
        add_values(at, keys + Tr::kSideBytes, first, s, acc);
      }
    }
    stage = stage == Tr::kStages - 1 ? 0 : stage + 1;
  }

  if (active) store_rows(p, w, at, acc);
  if (w.splits * Tr::kKeyWarps > 1) merge_splits<Tr>(p, w, query);
}

}  // namespace hivis::cuda
