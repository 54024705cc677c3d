// tree_grow_ against the CPU body, every bit: whole trees, level by level.
#include <string>

#include "core/grow.h"
#include "cpu/tree_grow.h"
#include "cuda/tree_grow.h"
#include "tree_accept_case.h"

namespace {

using namespace emulation;
using hivis::GrowRule;

constexpr GrowRule kRules[] = {
    {0.0f, 1.0f, true}, {1.0f, 1.0f, true}, {0.7f, 1.5f, true}, {1.3f, 0.5f, false}};

enum class Kind { kNormal, kRounded, kFlat, kSpoilt };

struct Tree {
  int64_t batch, vocab, k, depth;
  std::vector<GrowRule> rules;  // one, or one per sequence; sharpness and noise are the first's
  Kind kind = Kind::kNormal;
  int64_t gap = 0;  // elements between rows
  std::vector<int64_t> ends{};
  int64_t row_bytes = 6, row_gap = 0;  // of a drafter's output

  int64_t words() const {
    return std::max(1, hivis::word_count(static_cast<int>((depth - 1) * k)));
  }
};

// What a level reads and writes: in vectors for the CPU body, in guarded memory for the kernels.
template <template <class> class Array>
struct Level {
  Array<float> pool_scores;
  Array<int64_t> pool_tokens;
  Array<int32_t> pool_parents;
  Array<int32_t> nodes;
  Array<int64_t> slots, tokens;
  Array<float> scores;
  Array<int64_t> words;
  Array<char> carried;

  Level(int64_t pool, int64_t frontier, int64_t width, int64_t row_bytes)
      : pool_scores(pool),
        pool_tokens(pool),
        pool_parents(pool),
        nodes(frontier),
        slots(frontier),
        tokens(frontier),
        scores(frontier),
        words(frontier * width),
        carried(frontier * row_bytes) {}
};

template <class T>
using Vector = std::vector<T>;
template <class T>
struct Exact : Guarded<T> {
  explicit Exact(int64_t count) : Guarded<T>(count, "result", sizeof(T) == 1 ? 16 : sizeof(T)) {}
};

template <class T>
T random_logit(Random& random, Kind kind) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  if (kind == Kind::kFlat) return encode<T>(1.0f);
  const float x = kind == Kind::kRounded ? std::round(normal(random)) : normal(random);
  if (kind != Kind::kSpoilt) return encode<T>(x);
  const unsigned luck = random() % 600;
  return encode<T>(luck == 0 ? NAN : luck == 1 ? HUGE_VALF : luck < 200 ? -HUGE_VALF : x);
}

template <class T>
class Run {
 public:
  Run(const Tree& tree, Random& random)
      : t(tree), random(random), seed(tree.batch), position(tree.batch), temperature(tree.batch) {
    for (int64_t b = 0; b < t.batch; ++b) {
      seed[b] = static_cast<int64_t>(random()) << 20;
      position[b] = 100 + 10 * b;
      temperature[b] = t.rules[b % t.rules.size()].temperature;
    }
  }

  void check() {
    const int64_t frontier = t.batch * t.k;
    Level<Vector> above(0, frontier, t.words(), t.row_bytes);
    for (int64_t level = 1; level <= t.depth; ++level) {
      const int64_t rows = t.batch * (level == 1 ? 1 : t.k), stride = t.vocab + t.gap;
      Guarded<T> logits(rows * stride - t.gap, "logits", t.gap % 8 == 0 ? 16 : sizeof(T));
      for (int64_t i = 0; i < logits.size(); ++i) {
        const bool row = i % stride < t.vocab;
        logits[i] = row ? random_logit<T>(random, t.kind) : encode<T>(NAN);
      }
      if (t.kind == Kind::kSpoilt) {  // a row with nothing finite
        for (int64_t i = 0; i < t.vocab; ++i) logits[i] = encode<T>(-HUGE_VALF);
      }
      Guarded<char> output(rows * (t.row_bytes + t.row_gap) - t.row_gap, "output", 16);
      for (char& byte : output) byte = static_cast<char>(random());
      const int64_t pool = hivis::pool_first(level + 1, t.k);
      Level<Vector> wanted(t.batch * pool, frontier, t.words(), t.row_bytes);
      const Inputs inputs{logits.data(), output.data()};
      hivis::cpu::tree_grow(params(level, pool, inputs, above, wanted));
      launch(level, pool, inputs, above, wanted);
      above = wanted;
    }
  }

 private:
  struct Inputs {
    const T* logits;
    const char* output;
  };

  void launch(int64_t level, int64_t pool, const Inputs& inputs, const Level<Vector>& above,
              const Level<Vector>& wanted) {
    for (const char before : {'\xff', '\0'}) {
      Level<Exact> got(t.batch * pool, t.batch * t.k, t.words(), t.row_bytes);
      const hivis::TreeGrowParams p = params(level, pool, inputs, above, got);
      Guarded<char> workspace(hivis::cuda::tree_grow_workspace(p), "workspace", 8);
      Guarded<uint32_t> tickets(t.batch, "tickets", 4);
      std::fill(workspace.begin(), workspace.end(), before);
      std::fill(tickets.begin(), tickets.end(), 0u);
      const cudaError_t status =
          hivis::cuda::launch_tree_grow(p, workspace.data(), tickets.data(), nullptr);
      expect(status == cudaSuccess, "launch failed");
      for (const uint32_t ticket : tickets) expect(ticket == 0, "ticket: wanted 0, got %u", ticket);
      const int64_t first = hivis::pool_first(level, t.k);
      for (int64_t i = 0; i < t.batch * pool; ++i) {
        if (i % pool < first) continue;
        same(level, "pool_tokens", i, wanted.pool_tokens[i], got.pool_tokens[i]);
        same(level, "pool_scores", i, wanted.pool_scores[i], got.pool_scores[i]);
        same(level, "pool_parents", i, wanted.pool_parents[i], got.pool_parents[i]);
      }
      if (level == t.depth) continue;
      for (int64_t i = 0; i < t.batch * t.k; ++i) {
        same(level, "nodes", i, wanted.nodes[i], got.nodes[i]);
        same(level, "slots", i, wanted.slots[i], got.slots[i]);
        same(level, "tokens", i, wanted.tokens[i], got.tokens[i]);
        same(level, "scores", i, wanted.scores[i], got.scores[i]);
      }
      for (int64_t i = 0; i < t.batch * t.k * t.words(); ++i) {
        same(level, "words", i, wanted.words[i], got.words[i]);
      }
      for (int64_t i = 0; i < t.batch * t.k * t.row_bytes; ++i) {
        same(level, "carried", i, int{wanted.carried[i]}, int{got.carried[i]});
      }
    }
  }

  template <class Output>
  hivis::TreeGrowParams params(int64_t level, int64_t pool, const Inputs& inputs,
                               const Level<Vector>& above, Output& out) const {
    hivis::TreeGrowParams p{};
    p.batch = t.batch;
    p.nodes = level == 1 ? 1 : t.k;
    p.vocab = t.vocab;
    p.children = t.k;
    p.level = level;
    p.pool = pool;
    p.words = t.words();
    p.row_bytes = t.row_bytes;
    p.output = inputs.output;
    p.output_node_stride = t.row_bytes + t.row_gap;
    p.output_batch_stride = p.nodes * p.output_node_stride;
    p.logits = inputs.logits;
    p.dtype = dtype_of<T>();
    p.logits_node_stride = t.vocab + t.gap;
    p.logits_batch_stride = p.nodes * p.logits_node_stride;
    p.seed = seed.data();
    p.position = position.data();
    p.temperature = temperature.data();
    p.ends = t.ends.data();
    p.end_count = static_cast<int64_t>(t.ends.size());
    p.sharpness = t.rules[0].sharpness;
    p.noise = t.rules[0].noise;
    if (level > 1) {
      p.above_nodes = above.nodes.data();
      p.above_scores = above.scores.data();
      p.above_words = above.words.data();
    }
    p.pool_scores = out.pool_scores.data();
    p.pool_tokens = out.pool_tokens.data();
    p.pool_parents = out.pool_parents.data();
    if (level < t.depth) {
      p.frontier_nodes = out.nodes.data();
      p.frontier_slots = out.slots.data();
      p.frontier_tokens = out.tokens.data();
      p.frontier_scores = out.scores.data();
      p.frontier_words = out.words.data();
      p.frontier_carried = out.carried.data();
    }
    return p;
  }

  template <class V>
  void same(int64_t level, const char* what, int64_t i, V wanted, V got) const {
    expect(wanted == got, "V %d, k %d, T %g, level %d: %s[%d]: wanted %s, got %s",
           static_cast<int>(t.vocab), static_cast<int>(t.k), double{temperature[0]},
           static_cast<int>(level), what, static_cast<int>(i), std::to_string(wanted).c_str(),
           std::to_string(got).c_str());
  }

  const Tree& t;
  Random& random;
  std::vector<int64_t> seed, position;
  std::vector<float> temperature;
};

void check_tree(const Tree& tree, Random& random, int type) {
  if (type % 3 == 0) Run<float>(tree, random).check();
  if (type % 3 == 1) Run<Bf16>(tree, random).check();
  if (type % 3 == 2) Run<Half>(tree, random).check();
}

// --- The checks

void check_kinds() {
  Random random(1);
  int type = 0;
  for (const Kind kind : {Kind::kNormal, Kind::kRounded, Kind::kFlat, Kind::kSpoilt}) {
    for (const GrowRule& rule : kRules) {
      for (const int64_t vocab : {5, 31, 300, 1027}) {
        Tree tree{2, vocab, std::min<int64_t>(vocab, 3 + vocab % 4), 3, {rule}, kind};
        tree.gap = type % 2 == 0 ? 8 - vocab % 8 : below(random, 3);
        tree.ends = {0, 2};
        tree.row_bytes = type % 3 == 0 ? 48 : type % 5 * 6;
        tree.row_gap = type % 2 == 0 ? 16 - tree.row_bytes % 16 : 2;
        check_tree(tree, random, type++);
      }
    }
  }
}

// More spans than warps settle at once, several blocks of the survey, groups that are not full.
void check_long_rows() {
  Random random(2);
  int type = 0;
  for (const auto& [vocab, k] : {std::pair{3000, 10}, {8192, 5}, {5001, 9}}) {
    for (const Kind kind : {Kind::kNormal, Kind::kRounded, Kind::kFlat}) {
      check_tree({1, vocab, k, 2, {kRules[type % 2 + 1]}, kind}, random, type);
      ++type;
    }
  }
  check_tree({1, 12000, 40, 2, {kRules[1]}}, random, 1);
}

void check_shapes() {
  Random random(3);
  check_tree({3, 40, 1, 6, {kRules[1], kRules[0]}}, random, 0);
  check_tree({1, 1, 1, 3, {kRules[1]}}, random, 1);
  check_tree({2, 300, 256, 1, {kRules[1]}}, random, 2);
  check_tree({1, 50, 40, 3, {kRules[2]}, Kind::kRounded}, random, 0);
  check_tree({1, 20, 7, 14, {kRules[1]}}, random, 1);   // two words
  check_tree({1, 8192, 5, 3, {kRules[1]}}, random, 2);  // as many spans as candidates, and more
}

}  // namespace

int main(int argc, char** argv) {
  return run_checks(
      argc, argv,
      {{"kinds", check_kinds}, {"long_rows", check_long_rows}, {"shapes", check_shapes}});
}
