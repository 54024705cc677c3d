#include "cpu/tree_accept_candidates.h"

#include <algorithm>
#include <array>
#include <functional>

#include "core/accept.h"

namespace hivis::cpu {
namespace {

// Bins of x - top, which is cut at kLowestExponent: 25 bins per unit.
constexpr float kBinsPerUnit = 25.0f;
constexpr int kBins = 1001;

// Never decreases as x decreases, so a whole bin lies above the next one.
inline int32_t bin_of(float x, float top) {
  const float y = x - top;
  return static_cast<int32_t>((y > kLowestExponent ? y : kLowestExponent) * -kBinsPerUnit);
}

}  // namespace

// The k-th largest block maximum is a lower bound of the k-th largest x, usually a close one: only
// the few values above it are selected from.
float top_k_threshold(const Row& row, int64_t k) {
  thread_local std::vector<float> values;
  const auto blocks = static_cast<int64_t>(row.block_max.size());
  float bound = -kInfinity;
  if (k <= blocks) {
    values = row.block_max;
    std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<>());
    bound = values[k - 1];
  }
  values.clear();
  for (int64_t block = 0; block < blocks; ++block) {
    if (row.block_max[block] < bound) continue;
    for (int j = 0; j < kRowBlock; ++j) {
      const float x = row.x[block * kRowBlock + j];
      if (x >= bound) values.push_back(x);
    }
  }
  std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<>());
  return values[k - 1];
}

// A histogram of the weights over bins of x finds the bin in which the kept mass ends; only that
// bin is sorted.
float top_p_threshold(const Row& row, float floor, float top_p) {
  const auto blocks = static_cast<int64_t>(row.block_max.size());
  std::array<int64_t, kBins> weight_of{};
  for (int64_t block = 0; block < blocks; ++block) {
    const float block_max = row.block_max[block];
    if (block_max < floor || candidate_weight(block_max, row.top) == 0) continue;
    const float* x = row.x.data() + block * kRowBlock;
    int32_t bin[kRowBlock];
    int64_t weight[kRowBlock];
    for (int j = 0; j < kRowBlock; ++j) bin[j] = bin_of(x[j], row.top);
    for (int j = 0; j < kRowBlock; ++j) {
      weight[j] = x[j] >= floor ? candidate_weight(x[j], row.top) : 0;
    }
    for (int j = 0; j < kRowBlock; ++j) weight_of[bin[j]] += weight[j];
  }

  int64_t total = 0;
  for (const int64_t weight : weight_of) total += weight;
  const double limit = top_p_limit(top_p, total);
  int64_t above = 0;
  int last_bin = 0;
  while (last_bin + 1 < kBins && top_p_keeps(above + weight_of[last_bin], limit)) {
    above += weight_of[last_bin++];
  }

  thread_local std::vector<float> values;
  values.clear();
  for (int64_t block = 0; block < blocks; ++block) {
    if (row.block_max[block] < floor || bin_of(row.block_max[block], row.top) > last_bin) continue;
    for (int j = 0; j < kRowBlock; ++j) {
      const float x = row.x[block * kRowBlock + j];
      if (x >= floor && bin_of(x, row.top) == last_bin) values.push_back(x);
    }
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  // The bin is reached with `above` < limit, so its first value is kept; it is not empty, because
  // its weight is what carries the sum to the limit.
  float threshold = values.front();
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] != threshold && !top_p_keeps(above, limit)) break;
    threshold = values[i];
    above += candidate_weight(values[i], row.top);
  }
  return threshold;
}

}  // namespace hivis::cpu
