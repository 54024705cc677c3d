// Parameters of tree_attention: attention of every tree node over the cached prefix and over its
// own ancestors.
//
// Pointers lead to memory of the device that runs the op. Values in them are checked on the CPU
// only; on CUDA a value out of range makes the result useless, but no access goes out of bounds.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace hivis {

struct TreeAttentionParams {
  // sizes
  int64_t batch;  // B; on CUDA at most 65535
  int nodes;      // N, 1..256
  int heads;      // H, a multiple of kv_heads; N * H fits an int
  int kv_heads;   // Hkv; on CUDA at most 65535
  int head_dim;   // D, a multiple of 8, at most 256
  int64_t rows;   // S, at least N; on CUDA at most 2^31 - 65
  DType dtype;    // of q, k, v and out
  float scale;    // on the scores, before the softmax

  // inputs
  const void* q;              // [B, N, H, D]
  const void* k;              // [B, Hkv, S, D]; rows from kv_len + N on are never read
  const void* v;              // [B, Hkv, S, D]; likewise
  const int32_t* kv_len;      // [B], 0..S - N
  const uint64_t* ancestors;  // [B, N, W]; bits at N and above are ignored

  // output
  void* out;  // [B, N, H, D], contiguous, aligned to 16 bytes

  // strides in elements; D has stride 1
  int64_t q_batch, q_node, q_head;
  int64_t k_batch, k_head, k_row;
  int64_t v_batch, v_head, v_row;
};

}  // namespace hivis
