// tree_prune against the CPU body, every bit.
#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "core/grow.h"
#include "cpu/tree_prune.h"
#include "cuda/tree_prune.h"

namespace {

using emulation::expect;
using emulation::Guarded;
using hivis::cuda::launch_tree_prune;
using Random = std::mt19937;

struct Case {
  int64_t batch, k, depth, nodes;
  bool rounded;  // ties
  bool wild;     // scores of any kind, which no growth leaves behind
};

struct Results {
  explicit Results(const Case& c)
      : tokens(c.batch * c.nodes, "tokens", 8),
        depths(c.batch * c.nodes, "depths", 8),
        ancestors(c.batch * c.nodes * hivis::word_count(static_cast<int>(c.nodes)), "ancestors", 8),
        parents(c.batch * c.nodes, "parents", 4),
        scores(c.batch * c.nodes, "scores", 4) {}

  void into(hivis::TreePruneParams* p) {
    p->tokens = tokens.data();
    p->parents = parents.data();
    p->depths = depths.data();
    p->ancestors = ancestors.data();
    p->scores = scores.data();
  }

  Guarded<int64_t> tokens, depths, ancestors;
  Guarded<int32_t> parents;
  Guarded<float> scores;
};

template <class T>
void same(const Case& c, const char* what, const Guarded<T>& wanted, const Guarded<T>& got) {
  for (int64_t i = 0; i < wanted.size(); ++i) {
    const bool nan = wanted[i] != wanted[i] && got[i] != got[i];
    expect(nan || wanted[i] == got[i], "k %d, depth %d, N %d: %s[%d]: wanted %g, got %g",
           static_cast<int>(c.k), static_cast<int>(c.depth), static_cast<int>(c.nodes), what,
           static_cast<int>(i), static_cast<double>(wanted[i]), static_cast<double>(got[i]));
  }
}

void check_case(const Case& c, Random& random) {
  const int64_t entries = hivis::pool_first(c.depth + 1, c.k), pool = entries + 2;
  Guarded<float> scores(c.batch * pool - 2, "pool_scores", 4);
  Guarded<int64_t> tokens(c.batch * pool - 2, "pool_tokens", 8);
  Guarded<int32_t> parents(c.batch * pool - 2, "pool_parents", 4);
  std::exponential_distribution<float> loss(0.5f);
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t i = 0; i < entries; ++i) {
      const int64_t at = b * pool + i, depth = hivis::pool_depth(i, c.k);
      // Any entry of the level above.
      const int64_t first = depth < 2 ? 0 : hivis::pool_first(depth - 1, c.k);
      const int64_t count = depth < 2 ? 1 : hivis::pool_first(depth, c.k) - first;
      const int64_t parent = first + static_cast<int64_t>(random()) % count;
      const float gain = c.rounded ? std::round(-loss(random)) : -loss(random);
      parents[at] = i == 0 ? -1 : static_cast<int32_t>(parent);
      scores[at] = i == 0 ? 0.0f : scores[b * pool + parent] + gain;
      tokens[at] = static_cast<int64_t>(random());
      if (random() % 9 == 0 && i > 0) scores[at] = -HUGE_VALF;
      if (c.wild && random() % 5 == 0) scores[at] = random() % 3 == 0 ? NAN : 2.0f;
    }
  }

  hivis::TreePruneParams p{};
  p.batch = c.batch;
  p.pool = pool;
  p.entries = entries;
  p.children = c.k;
  p.nodes = c.nodes;
  p.words = hivis::word_count(static_cast<int>(c.nodes));
  p.pool_scores = scores.data();
  p.pool_tokens = tokens.data();
  p.pool_parents = parents.data();
  Results wanted(c), got(c);
  wanted.into(&p);
  hivis::cpu::tree_prune(p);
  got.into(&p);
  for (int turn = 0; turn < 2; ++turn) {
    expect(launch_tree_prune(p, nullptr) == cudaSuccess, "launch failed");
    same(c, "tokens", wanted.tokens, got.tokens);
    same(c, "parents", wanted.parents, got.parents);
    same(c, "depths", wanted.depths, got.depths);
    same(c, "ancestors", wanted.ancestors, got.ancestors);
    same(c, "scores", wanted.scores, got.scores);
  }
}

constexpr int kShapes[][3] = {{1, 1, 1},  {1, 1, 2},   {1, 12, 9},   {4, 7, 16},   {3, 2, 13},
                              {5, 6, 70}, {10, 8, 60}, {10, 8, 256}, {200, 1, 150}};

void check_sizes() {
  Random random(1);
  for (const bool rounded : {false, true}) {
    for (const auto& [k, depth, nodes] : kShapes) {
      check_case({2, k, depth, nodes, rounded, false}, random);
      check_case({1, k, depth, nodes, rounded, true}, random);
    }
  }
}

// More entries than keys fit into shared memory.
void check_large_pools() {
  Random random(2);
  check_case({1, 40, 2, 200, true, false}, random);  // more than threads
  check_case({1, 70, 2, 40, false, false}, random);
}

// Parents that no pool holds: any tree, but within bounds.
void check_garbage() {
  Random random(3);
  Guarded<float> scores(1 + 5 + 25, "pool_scores", 4);
  Guarded<int64_t> tokens(31, "pool_tokens", 8);
  Guarded<int32_t> parents(31, "pool_parents", 4);
  for (int64_t i = 0; i < 31; ++i) {
    scores[i] = -static_cast<float>(random() % 10);
    parents[i] = static_cast<int32_t>(random());
    tokens[i] = i;
  }
  const Case c{1, 5, 2, 20, false, false};
  Results got(c);
  hivis::TreePruneParams p{};
  p.batch = 1;
  p.pool = p.entries = 31;
  p.children = c.k;
  p.nodes = c.nodes;
  p.words = 1;
  p.pool_scores = scores.data();
  p.pool_tokens = tokens.data();
  p.pool_parents = parents.data();
  got.into(&p);
  expect(launch_tree_prune(p, nullptr) == cudaSuccess, "launch failed");
  for (int64_t n = 0; n < 20; ++n) {
    const int32_t parent = got.parents[n];
    expect(n == 0 ? parent == -1 : parent >= 0 && parent < n, "parents[%d]: got %d",
           static_cast<int>(n), parent);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return emulation::run_checks(
      argc, argv,
      {{"sizes", check_sizes}, {"large_pools", check_large_pools}, {"garbage", check_garbage}});
}
