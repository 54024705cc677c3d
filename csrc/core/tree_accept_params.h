// Parameters of tree_accept, which walks drafted trees along the target's own draws: see
// core/accept.h for the rules.
//
// Pointers lead to memory of the device that runs the op. Values in them are checked on the CPU
// only; on CUDA a value out of range makes the result useless, but no access goes out of bounds.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace hivis {

struct TreeAcceptParams {
  // sizes
  int64_t batch;      // B; on CUDA at most 65535
  int64_t nodes;      // N, 1..256
  int64_t vocab;      // V, 1..2^20
  int64_t max_depth;  // 0..256

  // inputs
  const void* logits;           // [B, N, V], rows contiguous; nodes off the path may hold anything
  DType dtype;                  // of logits
  int64_t logits_batch_stride;  // in elements
  int64_t logits_node_stride;   // in elements
  const int64_t* tokens;        // [B, N]; negative: padding, never matched
  const int32_t* parents;       // [B, N]; -1 at node 0, otherwise smaller than the node's own index
  const int64_t* seed;          // [B]
  const int64_t* position;      // [B], of the token drawn at the root
  const float* temperature;     // [B], 0: greedy
  const int32_t* top_k;         // [B], 0: off
  const float* top_p;           // [B], 1: off
  const float* min_p;           // [B], 0: off

  // outputs
  int32_t* path;        // [B, max_depth + 1]; behind the path its last node is repeated
  int32_t* path_len;    // [B], 1..max_depth + 1
  int64_t* next_token;  // [B], drawn at the last node of the path; -1: nothing to draw from
  int64_t* emitted;     // [B, max_depth + 1], the token drawn at each node of `path`
};

}  // namespace hivis
