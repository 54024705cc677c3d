// tree_accept against the CPU body, every bit.
#include <numeric>

#include "cpu/shared_noise.h"
#include "tree_accept_case.h"

namespace {

using namespace emulation;

constexpr float kInfinity = HUGE_VALF;
constexpr SamplingRule kRules[] = {
    {0.0f, 0, 1.0f, 0.0f},  {0.3f, 0, 1.0f, 0.0f},   {1.0f, 0, 1.0f, 0.0f},
    {2.0f, 0, 1.0f, 0.0f},  {1.0f, 5, 1.0f, 0.0f},   {1.0f, 0, 0.9f, 0.0f},
    {0.7f, 0, 0.5f, 0.0f},  {1.0f, 0, 1.0f, 0.1f},   {1.3f, 50, 0.95f, 0.02f},
    {1.0f, 1, 1e-6f, 1.0f}, {1.5f, 20, 0.6f, 0.0f},  {0.0f, 3, 0.5f, 0.5f},
    {2.0f, 3, 0.99f, 0.0f}, {1e-40f, 0, 0.9f, 0.0f},
};

template <class T>
void check_case(const Case& c, Random& random) {
  Run<T> run(c, random);
  run.plant(random);
  run.check();
}

// --- The checks

void check_rules() {
  Random random(1);
  int type = 0;  // in turn
  for (const SamplingRule& rule : kRules) {
    for (const int64_t vocab : {1, 2, 5, 31, 64, 300, 1027}) {
      Case c{2, 9, vocab, 3, {rule}};
      normal_logits(random, &c, 2.5f, vocab == 31 || vocab == 300);
      for (float& x : c.logits) x = random() % 20 == 0 ? -kInfinity : x;
      random_tree(random, &c, false);
      // Rows that begin at multiples of 16 bytes, whatever their length, and others.
      c.aligned = random() % 2 == 0;
      c.gap = c.aligned ? 8 - vocab % 8 : below(random, 3);
      if (type % 3 == 0) check_case<float>(c, random);
      if (type % 3 == 1) check_case<Bf16>(c, random);
      if (type % 3 == 2) check_case<Half>(c, random);
      ++type;
    }
  }
}

void check_trees() {
  Random random(2);
  for (const int64_t nodes : {1, 2, 15, 16, 17, 33, 70}) {
    for (const int depth : {0, 2, 7}) {
      Case c{3, nodes, 600, depth, {kRules[2], kRules[0], kRules[5]}};
      normal_logits(random, &c, 3.0f, false);
      random_tree(random, &c, depth == 7);
      check_case<Bf16>(c, random);
    }
  }
  Case chain{1, 256, 40, 256, {{1.0f, 0, 0.7f, 0.0f}}};
  normal_logits(random, &chain, 3.0f, false);
  random_tree(random, &chain, false);
  for (int n = 0; n < 256; ++n) chain.parents[n] = n - 1;
  check_case<Half>(chain, random);
  // Siblings with the same token: the first one counts, and a thread looks at several.
  Case star{2, 256, 1, 2, {kRules[0], kRules[2]}};
  star.spoil = false;
  for (int i = 0; i < 512; ++i) star.parents[i] = i % 256 == 0 ? -1 : i % 256 < 100 ? 0 : i % 3;
  check_case<float>(star, random);
}

// Several blocks per row, in both kernels.
void check_long_rows() {
  Random random(3);
  for (const int64_t vocab : {5000, 8193, 17004}) {
    for (const bool flat : {false, true}) {
      Case c{1, 6, vocab, 3, {}};
      normal_logits(random, &c, flat ? 0.0f : 3.0f, false);
      random_tree(random, &c, true);
      for (const SamplingRule& rule : {kRules[0], kRules[5], kRules[8], kRules[12]}) {
        c.rules = {rule};
        check_case<Bf16>(c, random);
      }
    }
  }
  // More spans than a block has threads.
  for (const float top_p : {1.0f, 0.3f}) {
    Case c{1, 2, 140001, 1, {{2.0f, 0, top_p, 0.0f}}};
    normal_logits(random, &c, 3.0f, false);
    random_tree(random, &c, true);
    check_case<Half>(c, random);
  }
}

// A batch in which every sequence has its own rule.
void check_batch() {
  Random random(4);
  Case c{static_cast<int64_t>(std::size(kRules)), 12, 257, 5,
         std::vector<SamplingRule>(std::begin(kRules), std::end(kRules))};
  normal_logits(random, &c, 2.0f, false);
  random_tree(random, &c, true);
  check_case<float>(c, random);
  check_case<Bf16>(c, random);
}

// Rows with nothing to draw from, or with one bad logit, at the last node of the walk.
void check_bad_rows() {
  Random random(5);
  for (const SamplingRule& rule : kRules) {
    for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
      Case c{2, 5, 700, 4, {rule}};
      c.spoil = false;
      normal_logits(random, &c, 2.0f, false);
      random_tree(random, &c, true);
      Run<float> run(c, random);
      run.plant(random);
      const Acceptance acceptance = run.wanted();
      for (int64_t b = 0; b < c.batch; ++b) {
        const int32_t last = acceptance.path[b * (c.max_depth + 1) + acceptance.path_len[b] - 1];
        float* row = run.logits.data() + (b * c.nodes + last) * run.stride;
        if (bad == -kInfinity) std::fill(row, row + c.vocab, bad);
        row[below(random, c.vocab)] = bad;
      }
      for (const int64_t token : run.wanted().next_token) {
        expect(token == hivis::kNoToken, "bad row: the CPU drew token %d", static_cast<int>(token));
      }
      run.check();
    }
  }
}

// The smallest logits get the largest noise: each draw but the last is no candidate, and every
// climb is short. Equal logits, of both signs of zero, are all candidates or none.
void check_hostile_rows() {
  Random random(6);
  for (const SamplingRule rule : {SamplingRule{1.0f, 1, 1.0f, 0.0f},
                                  {1.0f, 0, 0.01f, 0.0f},
                                  {1.0f, 40, 0.5f, 0.0f},
                                  {1.0f, 0, 1.0f, 0.99f}}) {
    for (const float step : {1e-2f, 1e-4f}) {
      Case c{1, 2, 500, 1, {rule}};
      random_tree(random, &c, false);
      Run<float> run(c, random);
      for (int64_t node = 0; node < c.nodes; ++node) {
        std::vector<float> noise(c.vocab);
        const int64_t position = run.position[0] + node;
        hivis::cpu::shared_noise({1, 1, c.vocab, run.seed.data(), &position, noise.data()});
        std::vector<int> order(c.vocab);
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int a, int b) { return noise[a] < noise[b]; });
        for (int i = 0; i < c.vocab; ++i) {
          run.logits[node * run.stride + order[i]] = 2.0f - step * static_cast<float>(i);
        }
      }
      run.plant(random);
      run.check();
    }
  }
  for (const SamplingRule& rule : kRules) {
    Case c{1, 1, 3000, 0, {rule}};
    for (float& x : c.logits) x = random() % 2 == 0 ? 0.0f : -0.0f;
    check_case<float>(c, random);
    for (float& x : c.logits) x = random() % 3 == 0 ? 1.0f : 1.5f;
    check_case<Half>(c, random);
  }
}

// Values that the CPU body would reject: a result of no use, but one within bounds.
void check_bad_values() {
  Random random(7);
  const float nan = std::nanf("");
  for (const SamplingRule rule : {SamplingRule{-1.0f, 5, 0.9f, 0.0f},
                                  {nan, 5, 0.9f, 0.1f},
                                  {kInfinity, 0, 0.9f, 0.1f},
                                  {1.0f, -5, 0.9f, 0.0f},
                                  {1.0f, 7, 0.0f, 0.0f},
                                  {1.0f, 0, -1.0f, 0.0f},
                                  {1.0f, 7, nan, 0.0f},
                                  {1.0f, 0, 2.0f, 0.0f},
                                  {1.0f, 7, 0.5f, 2.0f},
                                  {1.0f, 0, 1.0f, nan},
                                  {1.0f, 0, 0.5f, kInfinity},
                                  {1.0f, INT_MIN, 1.0f, -1.0f}}) {
    Case c{1, 7, 300, 4, {rule}};
    normal_logits(random, &c, 2.0f, false);
    random_tree(random, &c, true);
    Run<float> run(c, random);
    run.check([&](const Results& got) {
      expect(got.path_len[0] >= 1 && got.path_len[0] <= c.max_depth + 1, "bad value: path_len %d",
             got.path_len[0]);
      expect(got.next_token[0] >= -1 && got.next_token[0] < c.vocab, "bad value: next_token %lld",
             static_cast<long long>(got.next_token[0]));
      for (const int32_t node : got.path) {
        expect(node >= 0 && node < c.nodes, "bad value: node %d", node);
      }
      for (const int64_t token : got.emitted) {
        expect(token >= -1 && token < c.vocab, "bad value: emitted %lld",
               static_cast<long long>(token));
      }
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  return emulation::run_checks(argc, argv,
                               {{"rules", check_rules},
                                {"trees", check_trees},
                                {"long_rows", check_long_rows},
                                {"batch", check_batch},
                                {"bad_rows", check_bad_rows},
                                {"hostile_rows", check_hostile_rows},
                                {"bad_values", check_bad_values}});
}
