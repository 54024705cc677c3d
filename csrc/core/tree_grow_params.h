// Parameters of tree_grow_, which grows draft trees by one level: see core/grow.h for the rules.
//
// Pointers lead to memory of the device that runs the op. Of the values in them temperatures are
// checked, on the CPU only; whatever the values are, no access goes out of bounds.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace hivis {

struct TreeGrowParams {
  // sizes
  int64_t batch;      // B; on CUDA at most 65535
  int64_t nodes;      // K, nodes that get children: 1 at level 1, else k
  int64_t vocab;      // V, 1..2^20
  int64_t children;   // k, 1..256 and at most V
  int64_t level;      // of the children, from 1
  int64_t pool;       // P, at least pool_first(level + 1, k)
  int64_t words;      // W
  int64_t row_bytes;  // of the drafter's output at one node, 0 or more

  // inputs
  const void* logits;           // [B, K, V], rows contiguous
  DType dtype;                  // of logits
  int64_t logits_batch_stride;  // in elements
  int64_t logits_node_stride;   // in elements
  const int64_t* seed;          // [B]
  const int64_t* position;      // [B], of the token drawn at the root
  const float* temperature;     // [B], 0: greedy
  const int64_t* ends;          // [end_count], tokens after which nothing is expanded
  int64_t end_count;
  float sharpness;              // factor on the scores of a level, above 0
  bool noise;                   // do scores include the noise of the target's draws?
  const char* output;           // [B, K] rows, the drafter's output at the nodes
  int64_t output_batch_stride;  // in bytes
  int64_t output_node_stride;   // in bytes

  // the frontier that the logits belong to; null and not read at level 1
  const int32_t* above_nodes;  // [B, k], places in the pool
  const float* above_scores;   // [B, k]
  const int64_t* above_words;  // [B, k, W]

  // outputs: this level's entries of the pool
  float* pool_scores;     // [B, P]
  int64_t* pool_tokens;   // [B, P]
  int32_t* pool_parents;  // [B, P], places in the pool

  // outputs: the next frontier; null after the last level
  int32_t* frontier_nodes;   // [B, k]
  int64_t* frontier_slots;   // [B, k], of the parents among the K nodes
  int64_t* frontier_tokens;  // [B, k]
  float* frontier_scores;    // [B, k], -inf at tokens of `ends`
  int64_t* frontier_words;   // [B, k, W], bits of the drafter's own rows
  char* frontier_carried;    // [B, k] rows, the output at each one's parent
};

}  // namespace hivis
