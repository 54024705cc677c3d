#include "cpu/tree_accept.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>

#include "core/accept.h"
#include "cpu/logit_block.h"
#include "cpu/noise_block.h"
#include "cpu/parallel.h"
#include "cpu/tree_accept_candidates.h"

namespace hivis::cpu {
namespace {

constexpr int64_t kGrain = 256;  // blocks a thread takes at least: 16384 tokens, 10 us or more
static_assert(kRowBlock == kNoiseBlock, "a block's noise and its logits are taken together");

// --- One node's draw
struct Best {
  float score = -kInfinity;
  int64_t token = kNoToken;

  // A total order: the result does not depend on who is compared first.
  void take(const Best& other) {
    const bool tie = other.score == score && other.token < token;
    if (other.score > score || tie) *this = other;
  }
};

// Takes the first maximum of a block. -inf is never taken, nor is a block with a NaN in its
// maximum.
inline void take_block(const float score[kRowBlock], int64_t block, Best* best) {
  const float maximum = block_maximum(score);
  if (!(maximum >= best->score) || maximum == -kInfinity) return;
  int j = 0;
  while (score[j] != maximum) ++j;
  best->take({maximum, block * kRowBlock + j});
}

// Best over [0, blocks): visit(block, best) is called for each block, on several threads if many.
template <class Visit>
Best best_of(int64_t blocks, const Best& start, const Visit& visit) {
  Best best = start;
  std::mutex mutex;
  parallel_for(blocks, kGrain, [&](int64_t begin, int64_t end) {
    Best mine = start;
    for (int64_t block = begin; block < end; ++block) visit(block, &mine);
    const std::lock_guard<std::mutex> lock(mutex);
    best.take(mine);
  });
  return best;
}

template <class T>
int64_t draw_greedy(const T* row, int64_t vocab) {
  constexpr int64_t kGroup = 16;  // blocks whose maxima are looked at together
  const int64_t blocks = (vocab + kRowBlock - 1) / kRowBlock;
  Best best;
  std::atomic<bool> nan{false};
  std::mutex mutex;
  parallel_for((blocks + kGroup - 1) / kGroup, kGrain / kGroup, [&](int64_t begin, int64_t end) {
    Best mine;
    NanWatch watch;
    for (int64_t group = begin; group < end; ++group) {
      const int64_t first = group * kGroup, last = std::min(first + kGroup, blocks);
      float x[kRowBlock], most[kRowBlock];
      for (int j = 0; j < kRowBlock; ++j) most[j] = -kInfinity;
      for (int64_t block = first; block < last; ++block) {
        load_block(row, vocab, block, x);
        watch.see(x);
        for (int j = 0; j < kRowBlock; ++j) most[j] = x[j] > most[j] ? x[j] : most[j];
      }
      if (!(block_maximum(most) > mine.score)) continue;
      for (int64_t block = first; block < last; ++block) {
        load_block(row, vocab, block, x);
        take_block(x, block, &mine);
      }
    }
    if (watch.found()) nan = true;
    const std::lock_guard<std::mutex> lock(mutex);
    best.take(mine);
  });
  return nan || best.score == kInfinity ? kNoToken : best.token;
}

// Fills `row`; false if there is nothing to draw from.
template <class T>
bool scale_row(const T* logits, int64_t vocab, float temperature, Row* row) {
  const int64_t blocks = (vocab + kRowBlock - 1) / kRowBlock;
  row->x.resize(blocks * kRowBlock);
  row->block_max.resize(blocks);
  std::atomic<bool> nan{false};
  parallel_for(blocks, kGrain, [&](int64_t begin, int64_t end) {
    NanWatch watch;
    for (int64_t block = begin; block < end; ++block) {
      float* x = row->x.data() + block * kRowBlock;
      load_block(logits, vocab, block, x);
      for (int j = 0; j < kRowBlock; ++j) x[j] = div_rn(x[j], temperature);
      watch.see(x);
      row->block_max[block] = block_maximum(x);
    }
    if (watch.found()) nan = true;
  });
  if (nan) return false;
  row->top = *std::max_element(row->block_max.begin(), row->block_max.end());
  return row->top > -kInfinity && row->top < kInfinity;
}

float candidate_threshold(const Row& row, int64_t vocab, const SamplingRule& rule) {
  float threshold = -kInfinity;
  if (rule.top_k > 0 && rule.top_k < vocab) threshold = top_k_threshold(row, rule.top_k);
  if (rule.top_p < 1.0f)
    threshold = std::max(threshold, top_p_threshold(row, threshold, rule.top_p));
  if (rule.min_p > 0.0f) threshold = std::max(threshold, min_p_threshold(row.top, rule.min_p));
  return threshold;
}

// Upper bound of the random words that can lift some x <= block_max to a score of `best`. The noise
// falls as the word grows: g >= d needs u <= 1 - exp(-exp(-d)) <= exp(-d). The slack covers every
// rounding.
inline uint32_t word_limit(float best, float block_max) {
  const float slack = 1e-3f + 1e-6f * (std::abs(best) + std::abs(block_max));
  const float d = best - block_max - slack;
  if (!(d > 0.0f)) return 0xffffffffu;
  return static_cast<uint32_t>(std::min(exp_f32(std::max(-d, -80.0f)) * 0x1p32f, 0x1.fffffep31f));
}

// Argmax over the candidates of x + g. Most blocks cannot win, and end after a comparison or after
// their random words: only the others pay for logarithms.
int64_t draw_sampled(const Row& row, float threshold, const NoiseKey& key) {
  const auto visit = [&](int64_t block, Best* best) {
    const float block_max = row.block_max[block];
    if (block_max < threshold || block_max + kGumbelBound < best->score) return;
    uint32_t words[kNoiseBlock];
    noise_words(key, static_cast<uint32_t>(block), words);
    const uint32_t limit = word_limit(best->score, block_max);
    int able = 0;
    for (int j = 0; j < kNoiseBlock; ++j) able += words[j] <= limit;
    if (able == 0) return;
    const float* x = row.x.data() + block * kRowBlock;
    float score[kRowBlock];
    for (int j = 0; j < kRowBlock; ++j) {
      const float s = add_rn(x[j], gumbel_from_word(words[j]));
      score[j] = x[j] >= threshold ? s : -kInfinity;
    }
    take_block(score, block, best);
  };
  // The block of the largest logit likely holds the winner: after it the others are soon dismissed.
  Best start;
  visit(std::find(row.block_max.begin(), row.block_max.end(), row.top) - row.block_max.begin(),
        &start);
  return best_of(static_cast<int64_t>(row.block_max.size()), start, visit).token;
}

template <class T>
void accept_sequence(const TreeAcceptParams& params, int64_t b) {
  const T* logits = static_cast<const T*>(params.logits) + b * params.logits_batch_stride;
  const SamplingRule rule{params.temperature[b], params.top_k[b], params.top_p[b], params.min_p[b]};
  thread_local Row row;
  const auto draw = [&](int node, int depth) {
    const T* node_logits = logits + node * params.logits_node_stride;
    if (rule.temperature == 0.0f) return draw_greedy(node_logits, params.vocab);
    if (!scale_row(node_logits, params.vocab, rule.temperature, &row)) return kNoToken;
    const float threshold = candidate_threshold(row, params.vocab, rule);
    return draw_sampled(row, threshold, noise_key(params.seed[b], params.position[b], depth));
  };
  const int64_t first = b * (params.max_depth + 1);
  accept_walk(params.tokens + b * params.nodes, params.parents + b * params.nodes,
              static_cast<int>(params.nodes), static_cast<int>(params.max_depth), draw,
              params.path + first, params.path_len + b, params.next_token + b,
              params.emitted + first);
}

}  // namespace

void tree_accept(const TreeAcceptParams& params) {
  parallel_for(params.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      switch (params.dtype) {
        case DType::kFloat:
          accept_sequence<float>(params, b);
          break;
        case DType::kBFloat16:
          accept_sequence<Bf16>(params, b);
          break;
        case DType::kHalf:
          accept_sequence<Half>(params, b);
          break;
      }
    }
  });
}

}  // namespace hivis::cpu
