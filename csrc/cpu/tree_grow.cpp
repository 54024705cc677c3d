#include "cpu/tree_grow.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "core/grow.h"
#include "cpu/logit_block.h"
#include "cpu/noise_block.h"
#include "cpu/parallel.h"

namespace hivis::cpu {
namespace {

static_assert(kRowBlock == kNoiseBlock, "a block's noise and its logits are taken together");
constexpr int kSpanBlocks = kGrowSpan / kRowBlock;
constexpr int64_t kGrain = 32768;  // tokens a thread takes at least: 50 us of work or more
constexpr float kNoNoise[kNoiseBlock] = {};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// --- A level's rows, one after the other for all sequences

struct Span {
  float top;
  int64_t weight;  // -1: it holds a NaN or +inf
};

struct Survey {
  int64_t blocks, spans;         // of a row
  std::vector<float> block_max;  // [B, K, blocks]
  std::vector<Span> span;        // [B, K, spans]
  std::vector<float> noise;      // [B, blocks * kNoiseBlock], of sequences that need it

  float* noise_of(int64_t b, int64_t block) {
    return noise.data() + (b * blocks + block) * kNoiseBlock;
  }
};

template <class T>
const T* row_of(const TreeGrowParams& p, int64_t b, int64_t slot) {
  return static_cast<const T*>(p.logits) + b * p.logits_batch_stride + slot * p.logits_node_stride;
}

GrowRule rule_of(const TreeGrowParams& p, int64_t b) {
  return {p.temperature[b], p.sharpness, p.noise};
}

// The y of one block of a row; the sequence's noise has been made.
template <class T>
inline void block_values(const TreeGrowParams& p, int64_t b, const T* row, int64_t block,
                         Survey* survey, float y[kRowBlock]) {
  const GrowRule rule = rule_of(p, b);
  load_block(row, p.vocab, block, y);
  if (rule.temperature == 0.0f) return;
  const float* noise = needs_noise(rule) ? survey->noise_of(b, block) : kNoNoise;
  for (int j = 0; j < kRowBlock; ++j) y[j] = grow_value(y[j], noise[j], rule);
}

inline int64_t block_weight(const float y[kRowBlock], float top) {
  int64_t weight[kRowBlock], sum = 0;
  for (int j = 0; j < kRowBlock; ++j) weight[j] = candidate_weight(y[j], top);
  for (int j = 0; j < kRowBlock; ++j) sum += weight[j];
  return sum;
}

// One span of all rows of a sequence, which share its noise.
template <class T>
void survey_span(const TreeGrowParams& p, int64_t b, int64_t index, Survey* survey) {
  const int64_t first = index * kSpanBlocks;
  const int64_t count = std::min<int64_t>(kSpanBlocks, survey->blocks - first);
  if (needs_noise(rule_of(p, b))) {
    const NoiseKey key = noise_key(p.seed[b], p.position[b], p.level - 1);
    for (int64_t block = first; block < first + count; ++block) {
      noise_block(key, static_cast<uint32_t>(block), survey->noise_of(b, block));
    }
  }
  for (int64_t slot = 0; slot < p.nodes; ++slot) {
    const int64_t row = b * p.nodes + slot;
    float y[kGrowSpan], top = -kInfinity;
    NanWatch watch;
    for (int64_t i = 0; i < count; ++i) {
      float* block = y + i * kRowBlock;
      block_values(p, b, row_of<T>(p, b, slot), first + i, survey, block);
      watch.see(block);
      const float most = block_maximum(block);
      survey->block_max[row * survey->blocks + first + i] = most;
      top = std::max(top, most);
    }
    Span span{top, 0};
    if (watch.found() || top == kInfinity) {
      span.weight = -1;
    } else {  // nothing finite weighs nothing
      for (int64_t i = 0; i < count; ++i) span.weight += block_weight(y + i * kRowBlock, top);
    }
    survey->span[row * survey->spans + index] = span;
  }
}

// --- One row's children

struct Child {
  float y;
  int32_t token;

  bool operator<(const Child& other) const {
    return y > other.y || (y == other.y && token < other.token);
  }
};

// The k best tokens of a row, in order. The k-th largest block maximum is a lower bound of the k-th
// largest y, usually a close one: only the blocks that reach it are looked at once more.
template <class T>
void best_tokens(const TreeGrowParams& p, int64_t b, int64_t slot, Survey* survey,
                 std::vector<Child>* found) {
  thread_local std::vector<float> values;
  const int64_t blocks = survey->blocks;
  const float* block_max = survey->block_max.data() + (b * p.nodes + slot) * blocks;
  float bound = -kInfinity;
  if (p.children <= blocks) {
    values.assign(block_max, block_max + blocks);
    std::nth_element(values.begin(), values.begin() + (p.children - 1), values.end(),
                     std::greater<>());
    bound = values[p.children - 1];
  }
  found->clear();
  for (int64_t block = 0; block < blocks; ++block) {
    if (block_max[block] < bound) continue;
    float y[kRowBlock];
    block_values(p, b, row_of<T>(p, b, slot), block, survey, y);
    const int64_t first = block * kRowBlock;
    const int64_t size = std::min<int64_t>(kRowBlock, p.vocab - first);
    for (int64_t j = 0; j < size; ++j) {
      if (y[j] >= bound) found->push_back({y[j], static_cast<int32_t>(first + j)});
    }
  }
  std::partial_sort(found->begin(), found->begin() + p.children, found->end());
}

// Writes a row's children into the pool. A row that is no distribution has the first k tokens for
// children, at -inf.
template <class T>
void grow_row(const TreeGrowParams& p, int64_t b, int64_t slot, Survey* survey) {
  thread_local std::vector<Child> found;
  const Span* spans = survey->span.data() + (b * p.nodes + slot) * survey->spans;
  float top = -kInfinity;
  bool broken = false;
  for (int64_t i = 0; i < survey->spans; ++i) {
    broken |= spans[i].weight < 0;
    top = std::max(top, spans[i].top);
  }
  broken |= top == -kInfinity;
  float log_sum = 0.0f;
  if (!broken) {
    int64_t total = 0;
    for (int64_t i = 0; i < survey->spans; ++i) {
      total += span_share(spans[i].weight, spans[i].top, top);
    }
    log_sum = log_total(total);
    best_tokens<T>(p, b, slot, survey, &found);
  }
  const bool root = p.level == 1;
  const float score = root ? 0.0f : p.above_scores[b * p.children + slot];
  const int64_t at = b * p.pool + pool_first(p.level, p.children) + slot * p.children;
  for (int64_t j = 0; j < p.children; ++j) {
    p.pool_scores[at + j] =
        broken ? -kInfinity : add_rn(child_gain(found[j].y, top, log_sum), score);
    p.pool_tokens[at + j] = broken ? j : found[j].token;
    p.pool_parents[at + j] = root ? 0 : p.above_nodes[b * p.children + slot];
  }
}

// --- The next frontier

// The k best of the level's candidates that do not end the sequence; at level 1 all of them, as
// they are.
void choose_frontier(const TreeGrowParams& p, int64_t b) {
  thread_local std::vector<uint64_t> order;
  const int64_t k = p.children, first = pool_first(p.level, k), count = p.nodes * k;
  const float* scores = p.pool_scores + b * p.pool + first;
  const int64_t* tokens = p.pool_tokens + b * p.pool + first;
  order.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    const bool end = is_end(tokens[i], p.ends, p.end_count);
    order[i] = rank_key(end ? -kInfinity : scores[i], static_cast<int32_t>(i));
  }
  if (p.level > 1) {
    std::partial_sort(order.begin(), order.begin() + k, order.end(), std::greater<>());
  }
  for (int64_t j = 0; j < k; ++j) {
    const int64_t i = place_of(order[j]), to = b * k + j;
    p.frontier_nodes[to] = static_cast<int32_t>(first + i);
    p.frontier_slots[to] = i / k;
    p.frontier_tokens[to] = tokens[i];
    p.frontier_scores[to] = is_end(tokens[i], p.ends, p.end_count) ? -kInfinity : scores[i];
    if (p.row_bytes > 0)
      std::memcpy(p.frontier_carried + to * p.row_bytes,
                  p.output + b * p.output_batch_stride + i / k * p.output_node_stride, p.row_bytes);
    const int64_t row = (p.level - 1) * k + j;
    for (int64_t w = 0; w < p.words; ++w) {
      const uint64_t own = w == row / kWordBits ? uint64_t{1} << row % kWordBits : 0;
      const int64_t above = p.level > 1 ? p.above_words[(b * k + i / k) * p.words + w] : 0;
      p.frontier_words[to * p.words + w] = above | static_cast<int64_t>(own);
    }
  }
}

template <class T>
void grow(const TreeGrowParams& p) {
  thread_local Survey buffer;
  Survey* survey = &buffer;  // the caller's, whichever thread looks at it
  const int64_t rows = p.batch * p.nodes;
  survey->blocks = divide_up(p.vocab, kRowBlock);
  survey->spans = divide_up(p.vocab, kGrowSpan);
  survey->block_max.resize(rows * survey->blocks);
  survey->span.resize(rows * survey->spans);
  if (p.noise) survey->noise.resize(p.batch * survey->blocks * kNoiseBlock);
  parallel_for(p.batch * survey->spans, divide_up(kGrain, kGrowSpan * p.nodes),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   survey_span<T>(p, i / survey->spans, i % survey->spans, survey);
                 }
               });
  parallel_for(rows, divide_up(8 * kGrain, p.vocab), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      grow_row<T>(p, row / p.nodes, row % p.nodes, survey);
    }
  });
  if (p.frontier_nodes == nullptr) return;
  for (int64_t b = 0; b < p.batch; ++b) choose_frontier(p, b);
}

}  // namespace

void tree_grow(const TreeGrowParams& params) {
  switch (params.dtype) {
    case DType::kFloat:
      return grow<float>(params);
    case DType::kBFloat16:
      return grow<Bf16>(params);
    case DType::kHalf:
      return grow<Half>(params);
  }
}

}  // namespace hivis::cpu
