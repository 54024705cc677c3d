// Thresholds of top-k and top-p over one row of scaled logits, without sorting the row.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/logit_block.h"

namespace hivis::cpu {

// One row of scaled logits, its length padded to whole blocks of kRowBlock with -inf, and each
// block's maximum.
struct Row {
  std::vector<float> x;
  std::vector<float> block_max;
  float top = 0.0f;  // the largest x
};

// The k-th largest x of the row; 0 < k <= the row's length.
float top_k_threshold(const Row& row, int64_t k);

// The smallest x that top-p keeps among those >= floor; 0 < top_p < 1.
float top_p_threshold(const Row& row, float floor, float top_p);

}  // namespace hivis::cpu
