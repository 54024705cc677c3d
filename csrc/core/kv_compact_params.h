// Parameters of kv_compact_, which pulls the accepted rows of a tree together in the K/V slab, in
// place: row kv_len + path[i] goes to row kv_len + i for i < path_len, then kv_len += path_len.
//
// Pointers lead to memory of the device that runs the op. Values in them are checked on the CPU
// only; on CUDA a value out of range makes the result useless, but no access goes out of bounds.
#pragma once

#include <cstdint>

namespace hivis {

struct KvCompactParams {
  // sizes
  int64_t layers;      // L
  int64_t batch;       // B; on CUDA at most 65535
  int64_t heads;       // Hkv
  int64_t rows;        // S
  int64_t path_width;  // M
  int64_t row_bytes;   // D times the element size, 0 or more

  // in and out
  char* kv;         // [L, 2, B, Hkv, S, D], any dtype; a row's elements are contiguous
  int32_t* kv_len;  // [B], 0..S; advanced by path_len once every row has moved

  // inputs
  const int32_t* path;      // [B, M], increasing, kv_len + path < S; only path_len of it are read
  const int32_t* path_len;  // [B], 0..M

  // strides of kv in bytes
  int64_t layer_stride;
  int64_t side_stride;  // from K to V
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

}  // namespace hivis
