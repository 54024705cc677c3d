// Walks drafted trees along the target's own draws, in two launches: see core/accept.h for the
// rules.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/logit_type.h"

namespace hivis::cuda {

using hivis::LogitType;

struct TreeAcceptParams {
  // sizes
  int64_t batch;      // B, at most 65535
  int64_t nodes;      // N, 1..256
  int64_t vocab;      // V, 1..2^20
  int64_t max_depth;  // at most 256

  // inputs, device memory; nothing they hold leads out of bounds
  const void* logits;  // [B, N, V] of `type`; rows contiguous; unvisited rows may hold anything
  LogitType type;
  int64_t logits_batch_stride;  // in elements
  int64_t logits_node_stride;   // in elements
  const int64_t* tokens;        // [B, N]; negative: padding, never matched
  const int32_t* parents;       // [B, N]; a node's parent comes before it, or it is never reached
  const int64_t* seed;          // [B]
  const int64_t* position;      // [B], of the token drawn at the root
  const float* temperature;     // [B], 0: greedy
  const int32_t* top_k;         // [B], 0: off
  const float* top_p;           // [B], 1: off
  const float* min_p;           // [B], 0: off

  // outputs, device memory
  int32_t* path;        // [B, max_depth + 1]
  int32_t* path_len;    // [B]
  int64_t* next_token;  // [B]
  int64_t* emitted;     // [B, max_depth + 1], the token drawn at each node of the path

  // workspace, device memory
  void* workspace;    // tree_accept_workspace bytes, aligned to 8; whatever they hold
  uint32_t* tickets;  // [B]; 0 before each launch, 0 again after it
};

// Bytes of workspace; depends on the sizes alone.
int64_t tree_accept_workspace(const TreeAcceptParams& params);

cudaError_t launch_tree_accept(const TreeAcceptParams& params, cudaStream_t stream);

}  // namespace hivis::cuda
