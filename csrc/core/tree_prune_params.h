// Parameters of tree_prune, which makes a draft tree of the best entries of a pool: see core/grow.h
// for the pool.
//
// Pointers lead to memory of the device that runs the op. Values in them are checked on the CPU
// only; on CUDA a value out of range makes the result useless, but no access goes out of bounds.
#pragma once

#include <cstdint>

namespace hivis {

struct TreePruneParams {
  // sizes
  int64_t batch;     // B
  int64_t pool;      // P, at least `entries`
  int64_t entries;   // pool_first(depth + 1, k), those that count
  int64_t children;  // k
  int64_t nodes;     // N, 1..256 and at most `entries`
  int64_t words;     // W = ceil(N / 64)

  // inputs
  const float* pool_scores;    // [B, P]; no entry above its parent; the root's is not looked at
  const int64_t* pool_tokens;  // [B, P]
  const int32_t*
      pool_parents;  // [B, P], smaller than the entry's own place; the root's is not used

  // outputs
  int64_t* tokens;     // [B, N]
  int32_t* parents;    // [B, N], -1 at the root
  int64_t* depths;     // [B, N]
  int64_t* ancestors;  // [B, N, W]
  float* scores;       // [B, N]
};

}  // namespace hivis
