// Walks a drafted tree along the target's own draws: see core/accept.h for the rules.
#pragma once

#include <cstdint>

#include "core/logit_type.h"

namespace hivis::cpu {

using hivis::LogitType;

struct TreeAcceptParams {
  // sizes
  int64_t batch;  // B
  int64_t nodes;  // N, at most 256
  int64_t vocab;  // V, at most 2^20
  int64_t max_depth;

  // inputs
  const void* logits;  // [B, N, V] of `type`; rows contiguous; unvisited rows are not read
  LogitType type;
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
  int32_t* path;        // [B, max_depth + 1]
  int32_t* path_len;    // [B]
  int64_t* next_token;  // [B]
  int64_t* emitted;     // [B, max_depth + 1], the token drawn at each node of the path
};

void tree_accept(const TreeAcceptParams& params);

}  // namespace hivis::cpu
