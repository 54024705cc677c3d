// The tiles that tree_attention works on: their sizes, how they lie in shared memory, and how they
// get there.
#pragma once

#include "core/tree_bits.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/tree_attention.h"

namespace hivis::cuda {

constexpr int kChunk = 8;      // elements of 16 bytes, the unit of every copy
constexpr int kFragment = 16;  // rows of a matrix product's A, and its depth

// A tile of rows of D elements in shared memory. ldmatrix reads 8 rows at one column at a time:
// these 8 chunks must lie in 8 different sixteenths of the 128 bytes that shared memory delivers at
// once. Where a row is a multiple of 128 bytes, its chunks are permuted by the row's number; else
// the row is padded to an odd number of chunks.
template <int kHeadDim>
struct Layout {
  static constexpr int kChunks = kHeadDim / kChunk;
  static constexpr bool kPermuted = kChunks % 8 == 0;
  static constexpr int kPitch = kPermuted ? kChunks : kChunks | 1;  // chunks from row to row

  static constexpr int bytes(int rows) { return rows * kPitch * 16; }

  __device__ static __forceinline__ char* at(char* tile, int row, int chunk) {
    const int column = kPermuted ? chunk ^ (row & 7) : chunk;
    return tile + (row * kPitch + column) * 16;
  }
};

// T: Bf16 or Half. A warp owns kRowTiles tiles of 16 rows, and 1 / kKeyWarps of the keys of a tile.
// Warps that share rows keep partial results of their own, as if they were splits.
template <class Element, int kHeadDimension, int kRowTilesPerWarp, int kWarpsAlongRows,
          int kWarpsAlongKeys>
struct Traits {
  using T = Element;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kRowTiles = kRowTilesPerWarp;
  static constexpr int kRowWarps = kWarpsAlongRows;
  static constexpr int kKeyWarps = kWarpsAlongKeys;

  static constexpr int kThreads = kRowWarps * kKeyWarps * kWarp;
  static constexpr int kWarpRows = kRowTiles * kFragment;
  static constexpr int kRows = kRowWarps * kWarpRows;     // of a block
  static constexpr int kKeys = kHeadDim > 128 ? 32 : 64;  // of a tile
  static constexpr int kWarpKeys = kKeys / kKeyWarps;
  // Keys whose scores a warp holds at once: two row tiles leave registers for 32.
  static constexpr int kPassKeys = kRowTiles > 1 ? 32 : kWarpKeys;

  static constexpr int kQueryBytes = Layout<kHeadDim>::bytes(kRows);
  static constexpr int kSideBytes = Layout<kHeadDim>::bytes(kKeys);  // a tile of K, or of V
  static constexpr int kStageBytes = 2 * kSideBytes;
  static constexpr int kSeenBytes = kMaxNodes / 8;
  static constexpr int kFixedBytes = kQueryBytes + kSeenBytes;
  // Two blocks of sm_80 share 164 KiB, 1 KiB of which each block costs by itself.
  static constexpr int kStages = kFixedBytes + 3 * kStageBytes <= (164 / 2 - 1) * 1024 ? 3 : 2;
  static constexpr int kSharedBytes = kFixedBytes + kStages * kStageBytes;

  static_assert(kHeadDim % kFragment == 0 && kPassKeys % kFragment == 0 &&
                kWarpKeys % kPassKeys == 0);
  static_assert(kSharedBytes <= static_cast<int>(kMaxSharedBytes));
};

// What a block works on: some tiles of keys of one sequence and K/V head, for some of its rows.
struct Work {
  int b, kv_head, row_tile;
  int group;                  // H / Hkv
  int rows;                   // N * group: row r is head r % group of the group at node r / group
  int kv_len;                 // keys before this one are the prefix
  int total;                  // keys of the sequence
  int splits;                 // of the sequence
  int split;                  // this block's
  int begin;                  // first tile of this split
  int end;                    // behind its last one
  int unit;                   // number of (b, kv_head, row_tile)
  const uint64_t* ancestors;  // of the sequence
};

// How many splits a sequence of `tiles` tiles gets: a function of its own length.
HIVIS_HD constexpr int split_count(int tiles, int max_splits) {
  constexpr int kLeastTiles = 3;  // fewer would not fill the stages
  const int splits = tiles / kLeastTiles;
  return splits < 1 ? 1 : splits < max_splits ? splits : max_splits;
}

template <class Tr>
__device__ __forceinline__ Work find_work(const TreeAttentionLaunch& p) {
  Work w;
  w.row_tile = blockIdx.x % p.row_tiles;
  w.split = blockIdx.x / p.row_tiles;
  w.kv_head = blockIdx.y;
  w.b = blockIdx.z;
  w.group = p.heads / p.kv_heads;
  w.rows = p.nodes * w.group;
  // A length out of range is the caller's mistake; it must not become an access out of bounds.
  const int64_t last = p.rows - p.nodes, len = p.kv_len[w.b];
  w.kv_len = static_cast<int>(len < 0 ? 0 : len > last ? last : len);
  w.total = w.kv_len + p.nodes;
  const int tiles = (w.total + Tr::kKeys - 1) / Tr::kKeys;
  w.splits = split_count(tiles, p.max_splits);
  w.begin = static_cast<int>(int64_t{tiles} * w.split / w.splits);
  w.end = static_cast<int>(int64_t{tiles} * (w.split + 1) / w.splits);
  w.unit = (w.b * p.kv_heads + w.kv_head) * p.row_tiles + w.row_tile;
  w.ancestors = p.ancestors + int64_t{w.b} * p.nodes * word_count(p.nodes);
  return w;
}

// Asks for the block's rows of q; rows that do not exist become zeros.
template <class Tr>
__device__ __forceinline__ void load_query(const TreeAttentionParams& p, const Work& w,
                                           char* tile) {
  using L = Layout<Tr::kHeadDim>;
  const auto* q = static_cast<const typename Tr::T*>(p.q) + w.b * p.q_batch;
  for (int i = threadIdx.x; i < Tr::kRows * L::kChunks; i += Tr::kThreads) {
    const int row = i / L::kChunks, chunk = i % L::kChunks;
    const int at = w.row_tile * Tr::kRows + row;
    const int node = at / w.group, head = w.kv_head * w.group + at % w.group;
    cp_async(L::at(tile, row, chunk), q + node * p.q_node + head * p.q_head + chunk * kChunk,
             at < w.rows);
  }
}

// Asks for tile `index` of K and V. Rows behind the last key, and those of nodes that nobody sees,
// may hold NaN, which would survive a multiplication by zero: they become zeros.
template <class Tr>
__device__ __forceinline__ void load_tile(const TreeAttentionParams& p, const Work& w, int index,
                                          const uint64_t* seen, char* stage) {
  using L = Layout<Tr::kHeadDim>;
  const int first = index * Tr::kKeys;
  const auto* k = static_cast<const typename Tr::T*>(p.k) + w.b * p.k_batch + w.kv_head * p.k_head;
  const auto* v = static_cast<const typename Tr::T*>(p.v) + w.b * p.v_batch + w.kv_head * p.v_head;
  const bool prefix = first + Tr::kKeys <= w.kv_len;
  // A thread's chunks lie below each other where a step is a multiple of the permutation's period:
  // then a tile of the prefix needs one address for K and one for V.
  constexpr int kStep = Tr::kThreads / L::kChunks;
  if constexpr (L::kPermuted && Tr::kThreads % L::kChunks == 0 && kStep % 8 == 0 &&
                Tr::kKeys % kStep == 0) {
    if (prefix) {
      const int row = threadIdx.x / L::kChunks, chunk = threadIdx.x % L::kChunks;
      const auto* from_k = k + (first + row) * p.k_row + chunk * kChunk;
      const auto* from_v = v + (first + row) * p.v_row + chunk * kChunk;
      char* const to = L::at(stage, row, chunk);
#pragma unroll
      for (int j = 0; j < Tr::kKeys / kStep; ++j) {
        cp_async(to + j * kStep * L::kPitch * 16, from_k + j * (kStep * p.k_row), true);
        cp_async(to + Tr::kSideBytes + j * kStep * L::kPitch * 16, from_v + j * (kStep * p.v_row),
                 true);
      }
      return;
    }
  }
#pragma unroll 2
  for (int i = threadIdx.x; i < Tr::kKeys * L::kChunks; i += Tr::kThreads) {
    const int row = i / L::kChunks, chunk = i % L::kChunks, key = first + row;
    const int node = key - w.kv_len;
    const bool valid = prefix || node < 0 || (node < p.nodes && sees(seen, node));
    cp_async(L::at(stage, row, chunk), k + key * p.k_row + chunk * kChunk, valid);
    cp_async(L::at(stage + Tr::kSideBytes, row, chunk), v + key * p.v_row + chunk * kChunk, valid);
  }
}

// seen[word]: which nodes are seen by at least one node. Warp w makes words w, w + warps, ...
template <class Tr>
__device__ __forceinline__ void find_seen(const TreeAttentionParams& p, const Work& w,
                                          uint64_t* seen) {
  const int words = word_count(p.nodes), lane = threadIdx.x % kWarp;
  for (int word = threadIdx.x / kWarp; word < words; word += Tr::kThreads / kWarp) {
    uint64_t any = 0;
    for (int node = lane; node < p.nodes; node += kWarp) any |= w.ancestors[node * words + word];
    for (int step = kWarp / 2; step > 0; step /= 2) any |= __shfl_xor_sync(kAllLanes, any, step);
    if (lane == 0) seen[word] = any & node_bits(word, p.nodes);
  }
}

}  // namespace hivis::cuda
