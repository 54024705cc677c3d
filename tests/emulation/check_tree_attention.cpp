// tree_attention against a sum in double precision: every head dim, row shape and type, splits that
// are many, one and none, masks that no tree has, and memory that punishes every stray access.
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "core/tree_bits.h"
#include "cuda/ptx.h"
#include "cuda/tree_attention.h"

namespace {

using emulation::expect;
using emulation::Guarded;
using namespace hivis;
using namespace hivis::cuda;

// How nodes see each other: along a random tree, or as random bits please (a node need not see
// itself, nor the root).
enum class Mask { kTree, kRandom };

struct Case {
  int nodes, heads, kv_heads, head_dim;
  std::vector<int> kv_len;
  int multiprocessors;
  Mask mask = Mask::kTree;
  int spare = 0;       // unused elements between rows of K and V, and of q
  float scale = 0.3f;  // times 1 / sqrt(D)
};

uint16_t round_to(DType type, float x) {
  return static_cast<uint16_t>(type == DType::kBFloat16 ? pack<Bf16>(x, 0.0f)
                                                        : pack<Half>(x, 0.0f));
}

double value_of(DType type, uint16_t bits) {
  return type == DType::kBFloat16 ? to_float(Bf16{bits}) : to_float(Half{bits});
}

// [row][D] elements with `spare` unused ones behind each row. All poison at first.
struct Rows {
  Rows(int64_t rows, int head_dim, int spare)
      : pitch(head_dim + spare), bits(rows * pitch - spare, "rows", 16) {}
  uint16_t& at(int64_t row, int d) { return bits[row * pitch + d]; }

  int64_t pitch;
  Guarded<uint16_t> bits;
};

struct Problem {
  Problem(const Case& c, DType type, unsigned seed)
      : c(c),
        type(type),
        batch(static_cast<int>(c.kv_len.size())),
        words(word_count(c.nodes)),
        rows(*std::max_element(c.kv_len.begin(), c.kv_len.end()) + c.nodes),
        q(int64_t{batch} * c.nodes * c.heads, c.head_dim, c.spare),
        k(int64_t{batch} * c.kv_heads * rows, c.head_dim, c.spare),
        v(int64_t{batch} * c.kv_heads * rows, c.head_dim, c.spare),
        kv_len(batch, "kv_len", 4),
        ancestors(int64_t{batch} * c.nodes * words, "ancestors", 8),
        out(int64_t{batch} * c.nodes * c.heads * c.head_dim, "out", 16) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (uint16_t& x : q.bits) x = round_to(type, 2.0f * normal(random));
    for (int b = 0; b < batch; ++b) {
      kv_len[b] = c.kv_len[b];
      const std::vector<bool> seen = make_mask(b, random);
      for (int head = 0; head < c.kv_heads; ++head) {
        for (int row = 0; row < kv_len[b] + c.nodes; ++row) {
          const int node = row - kv_len[b];
          if (node >= 0 && !seen[node]) continue;  // stays NaN
          const int64_t at = (int64_t{b} * c.kv_heads + head) * rows + row;
          for (int d = 0; d < c.head_dim; ++d) {
            k.at(at, d) = round_to(type, normal(random));
            // Every node leaves a trace of its own in the result.
            const float own = node >= 0 ? 2.0f + 0.5f * static_cast<float>(node % 61) : 0.0f;
            v.at(at, d) = round_to(type, normal(random) + own);
          }
        }
      }
    }
  }

  // Fills in sequence b's ancestor words, garbage in the bits of no node included; which nodes are
  // seen by anybody?
  std::vector<bool> make_mask(int b, std::mt19937& random) {
    std::vector<bool> seen(c.nodes);
    for (int n = 0; n < c.nodes; ++n) {
      uint64_t* mine = &ancestors[(int64_t{b} * c.nodes + n) * words];
      for (int w = 0; w < words; ++w) mine[w] = 0;
      const bool padding = c.nodes > 4 && n % 5 == 3;
      if (!padding && c.mask == Mask::kRandom) {
        for (int w = 0; w < words; ++w) mine[w] = (uint64_t{random()} << 32) | random();
      } else if (!padding) {
        int parent = n > 0 ? static_cast<int>(random() % n) : -1;
        if (parent >= 0 && parent % 5 == 3 && c.nodes > 4) --parent;
        for (int w = 0; w < words && parent >= 0; ++w) {
          mine[w] = ancestors[(int64_t{b} * c.nodes + parent) * words + w];
        }
        mine[n / 64] |= uint64_t{1} << (n % 64);
      }
      for (int j = 0; j < c.nodes; ++j) seen[j] = seen[j] || sees(mine, j);
      if (c.nodes % 64 != 0) mine[words - 1] |= ~node_bits(words - 1, c.nodes);
    }
    return seen;
  }

  bool visible(int b, int n, int row) const {
    const uint64_t* mine = &ancestors[(int64_t{b} * c.nodes + n) * words];
    if (!sees_any(mine, c.nodes)) return false;
    return row < kv_len[b] || sees(mine, row - kv_len[b]);
  }

  TreeAttentionParams params() {
    TreeAttentionParams p{};
    p.batch = batch;
    p.nodes = c.nodes;
    p.heads = c.heads;
    p.kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.rows = rows;
    p.dtype = type;
    p.scale = c.scale / std::sqrt(static_cast<float>(c.head_dim));
    p.q = q.bits.data();
    p.k = k.bits.data();
    p.v = v.bits.data();
    p.kv_len = kv_len.data();
    p.ancestors = ancestors.data();
    p.out = out.data();
    p.q_head = q.pitch;
    p.q_node = p.q_head * c.heads;
    p.q_batch = p.q_node * c.nodes;
    p.k_row = p.v_row = k.pitch;
    p.k_head = p.v_head = k.pitch * rows;
    p.k_batch = p.v_batch = p.k_head * c.kv_heads;
    return p;
  }

  // One row's result, and the bound of its error: what rounding the weights and the result to 16
  // bits can do.
  void check_row(int b, int n, int h) {
    const int64_t head_row = (int64_t{b} * c.kv_heads + h / (c.heads / c.kv_heads)) * rows;
    const int64_t q_row = (int64_t{b} * c.nodes + n) * c.heads + h;
    std::vector<double> score(kv_len[b] + c.nodes, -INFINITY);
    double most = -INFINITY, sum = 0.0;
    for (int row = 0; row < kv_len[b] + c.nodes; ++row) {
      if (!visible(b, n, row)) continue;
      double dot = 0.0;
      for (int d = 0; d < c.head_dim; ++d) {
        dot += value_of(type, q.at(q_row, d)) * value_of(type, k.at(head_row + row, d));
      }
      score[row] = dot * params().scale;
      most = std::max(most, score[row]);
    }
    std::vector<double> o(c.head_dim), size(c.head_dim);
    for (int row = 0; row < kv_len[b] + c.nodes; ++row) {
      if (score[row] == -INFINITY) continue;
      const double weight = std::exp(score[row] - most);
      sum += weight;
      for (int d = 0; d < c.head_dim; ++d) {
        const double x = value_of(type, v.at(head_row + row, d));
        o[d] += weight * x;
        size[d] += weight * std::abs(x);
      }
    }
    for (int d = 0; d < c.head_dim; ++d) {
      const double got = value_of(type, out[q_row * c.head_dim + d]);
      const double wanted = sum > 0.0 ? o[d] / sum : 0.0;
      const double unit = type == DType::kBFloat16 ? 1.0 / 256 : 1.0 / 2048;
      const double bound = sum > 0.0 ? (std::abs(wanted) + size[d] / sum) * unit : 0.0;
      expect(std::abs(got - wanted) <= bound,
             "N %d H %d/%d D %d kv_len %d scale %g: out[%d, %d, %d, %d]: wanted %g +- %g, got %g",
             c.nodes, c.heads, c.kv_heads, c.head_dim, kv_len[b], c.scale, b, n, h, d, wanted,
             bound, got);
    }
  }

  void check() {
    TreeAttentionLaunch p = plan_tree_attention(params(), c.multiprocessors);
    Guarded<float> partials(std::max<int64_t>(p.partials_size, 1), "partials", 16);
    Guarded<uint32_t> tickets(std::max<int64_t>(p.tickets_size, 1), "tickets", 4);
    std::fill(tickets.begin(), tickets.end(), 0u);
    p.partials = partials.data();
    p.tickets = tickets.data();
    std::vector<uint16_t> first;
    for (int launch = 0; launch < 2; ++launch) {
      out.fill_poison();
      partials.fill_poison();
      expect(launch_tree_attention(p, nullptr) == cudaSuccess, "launch failed");
      for (const uint32_t ticket : tickets) expect(ticket == 0, "a ticket is left at %u", ticket);
      if (launch == 1) {
        expect(std::equal(first.begin(), first.end(), out.begin()), "two launches differ in bits");
      }
      first.assign(out.begin(), out.end());
    }
    for (int b = 0; b < batch; ++b) {
      for (int n = 0; n < c.nodes; ++n) {
        for (int h = 0; h < c.heads; ++h) check_row(b, n, h);
      }
    }
  }

  const Case& c;
  const DType type;
  const int batch, words, rows;
  Rows q, k, v;
  Guarded<int32_t> kv_len;
  Guarded<uint64_t> ancestors;
  Guarded<uint16_t> out;
};

void run(std::initializer_list<Case> cases) {
  unsigned seed = 0;
  for (const Case& c : cases) {
    const DType type = seed % 2 == 0 ? DType::kBFloat16 : DType::kHalf;
    Problem(c, type, ++seed).check();
  }
}

// A wave of one multiprocessor gives one split, more give up to one per three tiles.
void one_split() {
  run({
      {1, 1, 1, 64, {0}, 1},
      {33, 1, 1, 64, {31}, 1, Mask::kRandom},
      {60, 2, 2, 64, {300}, 1},
      {20, 1, 1, 64, {64}, 1, Mask::kRandom, 8},
  });
}

void many_splits() {
  run({
      {60, 1, 1, 64, {900}, 20},
      {33, 1, 1, 64, {799}, 3, Mask::kRandom},
      {17, 2, 1, 64, {1000}, 4, Mask::kRandom, 8},
  });
}

void few_rows_share_keys() {
  run({
      {1, 2, 2, 64, {700}, 8},
      {1, 7, 1, 64, {130}, 1, Mask::kTree, 16},
      {16, 1, 1, 64, {577}, 6, Mask::kRandom},
      {5, 2, 1, 64, {3}, 6},
  });
}

void most_rows() {
  run({
      {60, 4, 1, 64, {500}, 12},
      {65, 3, 1, 64, {61}, 2, Mask::kRandom},
      {33, 7, 1, 64, {640}, 20, Mask::kRandom, 8},
  });
}

void many_nodes() {
  run({
      {64, 1, 1, 64, {128}, 2, Mask::kRandom},
      {100, 1, 1, 64, {37}, 4},
      {256, 1, 1, 64, {70}, 6, Mask::kRandom},
  });
}

void ragged_batch() {
  run({
      {9, 2, 1, 64, {0, 700, 1, 64, 399}, 10, Mask::kRandom},
      {33, 1, 1, 64, {63, 600, 191}, 3},
  });
}

void head_dims() {
  run({
      {20, 2, 1, 80, {300}, 3, Mask::kRandom},
      {60, 3, 1, 80, {210}, 6, Mask::kTree, 8},
      {5, 1, 1, 96, {500}, 3},
      {60, 3, 1, 96, {210}, 6, Mask::kRandom},
      {60, 1, 1, 128, {520}, 6, Mask::kRandom},
      {20, 7, 1, 128, {450}, 4, Mask::kTree, 8},
      {2, 2, 1, 128, {400}, 2},
      {20, 1, 1, 256, {250}, 3, Mask::kRandom},
      {60, 2, 1, 256, {230}, 6},
  });
}

void scales() {
  run({
      {20, 1, 1, 64, {200}, 2, Mask::kTree, 0, 8.0f},
      {20, 1, 1, 64, {200}, 2, Mask::kTree, 0, -1.0f},
      {20, 1, 1, 64, {200}, 2, Mask::kTree, 0, 0.0f},
  });
}

// Rows that do not start at a multiple of 16 bytes, and head dims of no other kernel.
void without_tensor_cores() {
  run({
      {20, 2, 1, 64, {70}, 2, Mask::kRandom, 1},
      {9, 4, 2, 24, {33, 0}, 2, Mask::kTree, 3},
      {70, 1, 1, 200, {65}, 2, Mask::kRandom},
  });
}

}  // namespace

int main(int argc, char** argv) {
  return emulation::run_checks(argc, argv,
                               {{"one_split", one_split},
                                {"many_splits", many_splits},
                                {"few_rows_share_keys", few_rows_share_keys},
                                {"most_rows", most_rows},
                                {"many_nodes", many_nodes},
                                {"ragged_batch", ragged_batch},
                                {"head_dims", head_dims},
                                {"scales", scales},
                                {"without_tensor_cores", without_tensor_cores}});
}
