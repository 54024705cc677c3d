// Attention of tree nodes over a cached prefix and over their own ancestors.
#pragma once

#include <cstdint>

namespace hivis::cpu {

enum class Element { kFloat, kBf16, kFp16 };

struct TreeAttentionParams {
  // sizes
  int64_t batch;     // B
  int64_t nodes;     // N, at most 256
  int64_t heads;     // H, a multiple of kv_heads
  int64_t kv_heads;  // Hkv
  int64_t head_dim;  // D, a multiple of 8, at most 256
  int64_t longest;   // the largest kv_len + N
  Element element;   // of q, k, v and out
  float scale;       // on the scores, before the softmax

  // inputs
  const void* q;             // [B, N, H, D]
  const void* k;             // [B, Hkv, S, D]; rows from kv_len + N on are never read
  const void* v;             // [B, Hkv, S, D]; likewise
  const int32_t* kv_len;     // [B], kv_len + N <= S
  const int64_t* ancestors;  // [B, N, W]; bits at N and above are ignored

  // outputs
  void* out;        // [B, N, H, D], contiguous
  float* partials;  // workspace of partials_size() floats, null if that is 0

  // strides in elements; D has stride 1
  int64_t q_batch, q_node, q_head;
  int64_t k_batch, k_head, k_row;
  int64_t v_batch, v_head, v_row;
};

// Floats of workspace for these sizes: 0 unless few blocks of rows have to share many threads.
int64_t partials_size(const TreeAttentionParams& params);

void tree_attention(const TreeAttentionParams& params);

}  // namespace hivis::cpu
