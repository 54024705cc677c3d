// Attention of every tree node over the cached prefix and its own ancestors.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hivis::cuda {

enum class Element { kFloat, kBf16, kHalf };

struct TreeAttentionParams {
  // sizes
  int batch;        // B, at most 65535
  int nodes;        // N, at most 256
  int heads;        // H, a multiple of kv_heads
  int kv_heads;     // Hkv, at most 65535
  int head_dim;     // D, a multiple of 8, at most 256
  int64_t rows;     // S
  Element element;  // of q, k, v and out
  float scale;      // on the scores, before the softmax

  // inputs, device memory
  const void* q;              // [B, N, H, D]
  const void* k;              // [B, Hkv, S, D]; rows from kv_len + N on are never read
  const void* v;              // [B, Hkv, S, D]; likewise
  const int32_t* kv_len;      // [B], 0..S - N
  const uint64_t* ancestors;  // [B, N, W]; bits at N and above are ignored

  // output, device memory
  void* out;  // [B, N, H, D], contiguous, start aligned to 16 bytes

  // strides in elements; D has stride 1
  int64_t q_batch, q_node, q_head;
  int64_t k_batch, k_head, k_row;
  int64_t v_batch, v_head, v_row;

  // filled in by plan_tree_attention
  int row_tiles;   // tiles of rows (node, head in group) per K/V head
  int max_splits;  // of the longest sequence there can be
  int max_slots;   // partial results per row tile: every split has 1 or more

  // workspace, device memory
  float* partials;    // TreeAttentionPlan::partials floats; whatever they hold
  uint32_t* tickets;  // TreeAttentionPlan::tickets; 0 before the launch, 0 again after it
};

// What one launch needs.
struct TreeAttentionPlan {
  int64_t partials = 0;
  int64_t tickets = 0;
};

// Chooses the kernel and the splits for these sizes, types and alignments, on a device with so many
// multiprocessors. Depends on nothing that lies in device memory, and for one sequence's result
// neither on B nor on S.
TreeAttentionPlan plan_tree_attention(TreeAttentionParams* params, int multiprocessors);

// After plan_tree_attention, with all pointers set.
cudaError_t launch_tree_attention(const TreeAttentionParams& params, cudaStream_t stream);

}  // namespace hivis::cuda
