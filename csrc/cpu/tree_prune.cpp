#include "cpu/tree_prune.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "core/grow.h"

namespace hivis::cpu {
namespace {

void prune(const TreePruneParams& p, int64_t b) {
  thread_local std::vector<uint64_t> order;
  thread_local std::vector<int32_t> kept;
  const float* scores = p.pool_scores + b * p.pool;
  const int64_t* tokens = p.pool_tokens + b * p.pool;
  const int32_t* parents = p.pool_parents + b * p.pool;

  // The root and the N - 1 best of the others, back in the order of the pool.
  order.resize(p.entries);
  for (int64_t i = 1; i < p.entries; ++i) order[i] = rank_key(scores[i], static_cast<int32_t>(i));
  if (p.nodes > 1) {
    std::nth_element(order.begin() + 1, order.begin() + (p.nodes - 1), order.end(),
                     std::greater<>());
  }
  kept.resize(p.nodes);
  kept[0] = 0;
  for (int64_t n = 1; n < p.nodes; ++n) kept[n] = place_of(order[n]);
  std::sort(kept.begin(), kept.end());

  for (int64_t n = 0; n < p.nodes; ++n) {
    const int64_t to = b * p.nodes + n;
    const int32_t entry = kept[n];
    // The parent is kept as well, so the last entry up to its place is the parent itself.
    const auto parent = std::upper_bound(kept.begin(), kept.begin() + n, parents[entry]);
    const int32_t above = n == 0 ? -1 : static_cast<int32_t>(parent - kept.begin()) - 1;
    p.tokens[to] = tokens[entry];
    p.scores[to] = scores[entry];
    p.parents[to] = above;
    p.depths[to] = pool_depth(entry, p.children);
    for (int64_t w = 0; w < p.words; ++w) {
      const int64_t seen = n == 0 ? 0 : p.ancestors[(b * p.nodes + above) * p.words + w];
      const uint64_t own = w == n / kWordBits ? uint64_t{1} << n % kWordBits : 0;
      p.ancestors[to * p.words + w] = seen | static_cast<int64_t>(own);
    }
  }
}

}  // namespace

void tree_prune(const TreePruneParams& params) {
  for (int64_t b = 0; b < params.batch; ++b) prune(params, b);
}

}  // namespace hivis::cpu
