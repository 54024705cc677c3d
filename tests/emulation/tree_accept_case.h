// A case of tree_accept in device memory, for the CPU body and for the kernels.
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "check.h"
#include "core/accept.h"
#include "cpu/tree_accept.h"
#include "cuda/ptx.h"
#include "cuda/tree_accept.h"

namespace emulation {

using hivis::SamplingRule;
using hivis::cuda::Bf16;
using hivis::cuda::Half;
using Random = std::mt19937;

inline int below(Random& random, int64_t bound) {
  return static_cast<int>(random() % static_cast<uint64_t>(bound));
}

struct Case {
  int64_t batch, nodes, vocab;
  int max_depth;
  std::vector<SamplingRule> rules;  // one, or one per sequence
  int64_t gap = 0;                  // elements between rows
  bool aligned = false;             // rows begin at multiples of 16 bytes if their stride allows it
  bool spoil = true;                // unvisited nodes

  std::vector<float> logits = std::vector<float>(batch * nodes * vocab);
  std::vector<int32_t> parents = std::vector<int32_t>(batch * nodes);
  std::vector<int64_t> tokens = std::vector<int64_t>(batch * nodes);
};

inline void normal_logits(Random& random, Case* c, float scale, bool rounded) {
  std::normal_distribution<float> normal(0.0f, scale);
  for (float& x : c->logits) x = rounded ? std::round(normal(random)) : normal(random);
}

// Any parent before the node; or one of the last few, which makes deep trees.
inline void random_tree(Random& random, Case* c, bool deep) {
  for (int64_t i = 0; i < c->batch * c->nodes; ++i) {
    const int64_t n = i % c->nodes;
    const int64_t back = deep ? std::min<int64_t>(n, 3) : n;
    c->parents[i] = n == 0 ? -1 : static_cast<int32_t>(n - 1 - below(random, back));
    c->tokens[i] = below(random, c->vocab + 1) - 1;
  }
}

template <class T>
T encode(float x) {
  if constexpr (std::is_same_v<T, float>)
    return x;
  else if constexpr (std::is_same_v<T, Bf16>)
    return {emulation::float_to_bf16(x)};
  else
    return {emulation::float_to_half(x)};
}

template <class T>
hivis::DType dtype_of() {
  if (std::is_same_v<T, float>) return hivis::DType::kFloat;
  return std::is_same_v<T, Bf16> ? hivis::DType::kBFloat16 : hivis::DType::kHalf;
}

struct Acceptance {
  std::vector<int32_t> path, path_len;
  std::vector<int64_t> next_token, emitted;
};

// What a launch wrote.
struct Results {
  explicit Results(const Case& c)
      : path(c.batch * (c.max_depth + 1), "path", 4),
        path_len(c.batch, "path_len", 4),
        next_token(c.batch, "next_token", 8),
        emitted(c.batch * (c.max_depth + 1), "emitted", 8) {}
  Guarded<int32_t> path, path_len;
  Guarded<int64_t> next_token, emitted;
};

// One case in device memory, for both bodies.
template <class T>
class Run {
 public:
  Run(const Case& the_case, Random& random)
      : c(the_case),
        stride(c.vocab + c.gap),
        logits((c.batch * c.nodes - 1) * stride + c.vocab, "logits", c.aligned ? 16 : sizeof(T)),
        tokens(c.batch * c.nodes, "tokens", 8),
        parents(c.batch * c.nodes, "parents", 4),
        seed(c.batch, "seed", 8),
        position(c.batch, "position", 8),
        temperature(c.batch, "temperature", 4),
        top_k(c.batch, "top_k", 4),
        top_p(c.batch, "top_p", 4),
        min_p(c.batch, "min_p", 4) {
    for (int64_t row = 0; row < c.batch * c.nodes; ++row) {
      for (int64_t v = 0; v < c.vocab; ++v) {
        logits[row * stride + v] = encode<T>(c.logits[row * c.vocab + v]);
      }
    }
    std::copy(c.tokens.begin(), c.tokens.end(), tokens.begin());
    std::copy(c.parents.begin(), c.parents.end(), parents.begin());
    for (int64_t b = 0; b < c.batch; ++b) {
      const SamplingRule& rule = c.rules[b % c.rules.size()];
      temperature[b] = rule.temperature;
      top_k[b] = rule.top_k;
      top_p[b] = rule.top_p;
      min_p[b] = rule.min_p;
      seed[b] = static_cast<int64_t>(random()) << 20 ^ b;
      position[b] = b % 2 == 0 ? below(random, 5000) : int64_t{INT_MAX} * 2 - below(random, 5);
    }
  }

  Acceptance wanted() const {
    const auto entries = static_cast<size_t>(c.batch * (c.max_depth + 1));
    Acceptance acceptance{std::vector<int32_t>(entries), std::vector<int32_t>(c.batch),
                          std::vector<int64_t>(c.batch), std::vector<int64_t>(entries)};
    hivis::TreeAcceptParams params = inputs();
    params.path = acceptance.path.data();
    params.path_len = acceptance.path_len.data();
    params.next_token = acceptance.next_token.data();
    params.emitted = acceptance.emitted.data();
    hivis::cpu::tree_accept(params);
    return acceptance;
  }

  // Children get the drawn tokens, so that the walks are long; then other nodes may hold anything.
  void plant(Random& random) {
    for (int round = 0; round <= c.max_depth; ++round) {
      const Acceptance acceptance = wanted();
      for (int64_t b = 0; b < c.batch; ++b) {
        const int32_t last = acceptance.path[b * (c.max_depth + 1) + acceptance.path_len[b] - 1];
        std::vector<int64_t> children;
        for (int64_t n = last + 1; n < c.nodes; ++n) {
          if (parents[b * c.nodes + n] == last) children.push_back(n);
        }
        if (children.empty() || acceptance.path_len[b] > c.max_depth) continue;
        const int64_t child = children[below(random, static_cast<int64_t>(children.size()))];
        tokens[b * c.nodes + child] = acceptance.next_token[b];
      }
    }
    if (!c.spoil) return;
    const Acceptance acceptance = wanted();
    for (int64_t row = 0; row < c.batch * c.nodes; ++row) {
      const int32_t* path = acceptance.path.data() + row / c.nodes * (c.max_depth + 1);
      if (std::count(path, path + c.max_depth + 1, row % c.nodes) != 0) continue;
      if (random() % 2 == 0) std::memset(&logits[row * stride], 0xff, c.vocab * sizeof(T));
      if (random() % 4 == 0) spoil_parent(random, row);
    }
  }

  // Launches twice, and hands what came out to `judge`.
  template <class Judge>
  void check(const Judge& judge) {
    hivis::TreeAcceptParams params = inputs();
    Results got(c);
    Guarded<char> workspace(hivis::cuda::tree_accept_workspace(params), "workspace", 8);
    Guarded<uint32_t> tickets(c.batch, "tickets", 4);
    params.path = got.path.data();
    params.path_len = got.path_len.data();
    params.next_token = got.next_token.data();
    params.emitted = got.emitted.data();
    std::fill(tickets.begin(), tickets.end(), 0u);
    for (const char before : {'\xff', '\0'}) {
      got.path.fill_poison();
      got.path_len.fill_poison();
      got.next_token.fill_poison();
      got.emitted.fill_poison();
      std::fill(workspace.begin(), workspace.end(), before);
      const cudaError_t status =
          hivis::cuda::launch_tree_accept(params, workspace.data(), tickets.data(), nullptr);
      expect(status == cudaSuccess, "launch failed");
      judge(got);
      for (const uint32_t ticket : tickets)
        expect(ticket == 0, "tickets: wanted 0, got %u", ticket);
    }
  }

  void check() {
    const Acceptance acceptance = wanted();
    check([&](const Results& got) {
      for (int64_t b = 0; b < c.batch; ++b) same(acceptance, got, b);
    });
  }

  const Case& c;
  const int64_t stride;
  Guarded<T> logits;
  Guarded<int64_t> tokens;
  Guarded<int32_t> parents;
  Guarded<int64_t> seed, position;
  Guarded<float> temperature;
  Guarded<int32_t> top_k;
  Guarded<float> top_p, min_p;

 private:
  // A node that comes after one on the path would be found as its child.
  void spoil_parent(Random& random, int64_t row) {
    const int32_t hostile[] = {INT_MIN, -2, INT_MAX, static_cast<int32_t>(row % c.nodes),
                               static_cast<int32_t>(row % c.nodes + 1)};
    parents[row] = hostile[below(random, 5)];
  }

  hivis::TreeAcceptParams inputs() const {
    hivis::TreeAcceptParams params{};
    params.batch = c.batch;
    params.nodes = c.nodes;
    params.vocab = c.vocab;
    params.max_depth = c.max_depth;
    params.logits = logits.data();
    params.dtype = dtype_of<T>();
    params.logits_batch_stride = c.nodes * stride;
    params.logits_node_stride = stride;
    params.tokens = tokens.data();
    params.parents = parents.data();
    params.seed = seed.data();
    params.position = position.data();
    params.temperature = temperature.data();
    params.top_k = top_k.data();
    params.top_p = top_p.data();
    params.min_p = min_p.data();
    return params;
  }

  void same(const Acceptance& acceptance, const Results& got, int64_t b) const {
    char what[200];
    std::snprintf(what, sizeof what, "N %d, V %d, T %g, top-k %d, top-p %g, min-p %g",
                  static_cast<int>(c.nodes), static_cast<int>(c.vocab), double{temperature[b]},
                  top_k[b], double{top_p[b]}, double{min_p[b]});
    expect(got.path_len[b] == acceptance.path_len[b], "%s: path_len[%d]: wanted %d, got %d", what,
           static_cast<int>(b), acceptance.path_len[b], got.path_len[b]);
    expect(got.next_token[b] == acceptance.next_token[b], "%s: next_token[%d]: wanted %d, got %d",
           what, static_cast<int>(b), static_cast<int>(acceptance.next_token[b]),
           static_cast<int>(got.next_token[b]));
    for (int64_t i = b * (c.max_depth + 1); i < (b + 1) * (c.max_depth + 1); ++i) {
      expect(got.path[i] == acceptance.path[i], "%s: path[%d]: wanted %d, got %d", what,
             static_cast<int>(i), acceptance.path[i], got.path[i]);
      expect(got.emitted[i] == acceptance.emitted[i], "%s: emitted[%d]: wanted %d, got %d", what,
             static_cast<int>(i), static_cast<int>(acceptance.emitted[i]),
             static_cast<int>(got.emitted[i]));
    }
  }
};

}  // namespace emulation
