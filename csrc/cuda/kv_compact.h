// Pulls the accepted rows of a tree together in the K/V slab, in place, in one launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hivis::cuda {

struct KvCompactParams {
  // sizes
  int64_t layers;      // L
  int64_t batch;       // B
  int64_t heads;       // Hkv
  int64_t rows;        // S
  int64_t path_width;  // M
  int64_t row_bytes;   // D times the element size

  // in and out, device memory
  char* kv;           // [L, 2, B, Hkv, S, D], any dtype; a row's elements lie side by side
  int32_t* kv_len;    // [B], advanced by path_len once every row has moved
  uint32_t* tickets;  // [B] workspace: 0 before the launch, 0 again after it

  // inputs, device memory
  const int32_t* path;      // [B, M], increasing; only the first path_len are read, and a row that
                            // would lie outside of the slab is left alone
  const int32_t* path_len;  // [B], 0..M

  // strides of kv in bytes
  int64_t layer_stride;
  int64_t side_stride;  // from K to V
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
};

cudaError_t launch_kv_compact(const KvCompactParams& params, cudaStream_t stream);

}  // namespace hivis::cuda
