// Pulls the accepted rows of a tree together in the K/V slab, in place.
#pragma once

#include <cstdint>

namespace hivis::cpu {

struct KvCompactParams {
  // sizes
  int64_t layers;       // L, times 2 for K and V: slabs = L * 2 * B * Hkv
  int64_t batch;        // B
  int64_t heads;        // Hkv
  int64_t path_stride;  // M, elements from one sequence's path to the next
  int64_t row_bytes;    // D times the element size

  // in and out
  char* kv;         // [L, 2, B, Hkv, S, D], any dtype, rows contiguous; moved in place
  int32_t* kv_len;  // [B], advanced by path_len once every row has moved

  // inputs
  const int32_t* path;      // [B, M], increasing, path[i] >= i; only the first path_len are read
  const int32_t* path_len;  // [B]

  // strides of kv in bytes
  int64_t layer_stride;
  int64_t side_stride;  // from K to V
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

void kv_compact_(const KvCompactParams& params);

}  // namespace hivis::cpu
