// The second launch of tree_accept: do top-k, top-p and min-p let the draws on the path pass? At
// the first one that they may not, the walk goes on from there with draws among the candidates.
//
// confirm_kernel: grid (V / kChunk, max_depth + 1, B); sequences without filters end at once. A
// block sums one chunk of one node on the path: how many tokens lie above the drawn one, and their
// weight (core/accept.h). Being integers, the sums are the same in any order. The last block of a
// sequence judges the path. What the filters reject it draws anew, alone: FilteredDraw says how.
//
// Floor: the logits of the nodes on the path once more, largely from L2 (0.3 MB per node for V =
// 152064 in bf16, under 1 us for 8 nodes on an H100). Bound by the 35 instructions per token of a
// weight, about 2 us there, and by latency.
#include "cuda/launch.h"
#include "cuda/tree_accept_row.h"

namespace hivis::cuda {
namespace {

constexpr int kThreads = kConfirmWarps * kWarp;
constexpr int kClimbs = 8;  // draws after which the candidates' threshold is sought, too

// What is known of a node's draw from elsewhere.
struct Known {
  uint32_t out = 0;    // tokens with this key of x or a lower one are no candidates
  int64_t total = -1;  // weight of what top-k lets pass
};

__device__ __forceinline__ Sums add(const Sums& a, const Sums& b) {
  return {a.count + b.count, a.above + b.above, a.total + b.total};
}

// Takes in one token: what counts is x against `drawn`, and for the total against `from`.
__device__ __forceinline__ void take(float x, float drawn, float from, float top, Sums* sums) {
  const int64_t weight = candidate_weight(x, top);
  sums->count += x > drawn ? 1 : 0;
  sums->above += x > drawn ? weight : 0;
  sums->total += x >= from ? weight : 0;
}

__device__ __forceinline__ Sums warp_sum(Sums sums) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    sums = add(sums, {__shfl_xor_sync(kAllLanes, sums.count, lanes),
                      __shfl_xor_sync(kAllLanes, sums.above, lanes),
                      __shfl_xor_sync(kAllLanes, sums.total, lanes)});
  }
  return sums;
}

__device__ __forceinline__ Sums block_sum(Sums sums, Scratch* scratch) {
  sums = warp_sum(sums);
  __syncthreads();  // everybody has read the result of the call before
  if (threadIdx.x % kWarp == 0) scratch->sums[threadIdx.x / kWarp] = sums;
  __syncthreads();
  sums = {};
  for (int w = 0; w < kConfirmWarps; ++w) sums = add(sums, scratch->sums[w]);
  return sums;
}

// The largest x of a row.
__device__ __forceinline__ uint32_t row_top(const uint32_t* of_span, int64_t spans,
                                            Scratch* scratch) {
  uint32_t top = 0;
  for (int64_t s = threadIdx.x; s < spans; s += kThreads) top = of_span[s] > top ? of_span[s] : top;
  return static_cast<uint32_t>(block_best(top, scratch));
}

// --- One node's draw among its candidates, by one block.
//
// Climbs: the best of all tokens, if it is no candidate the best of those with a larger x, and so
// on. The first candidate found is the draw, for it beats all that are left. A draw from what is
// left falls among the candidates with their share of its weight, so with top-p few climbs are more
// than one. Spans whose largest x is too small are passed over.
template <class T>
struct FilteredDraw {
  Row<T> row;
  const uint64_t* bests;  // of the row's spans
  const uint32_t* tops;
  int spans;
  SamplingRule rule;
  NoiseKey noise;
  Scratch* scratch;
  Known known;
  float top = 0.0f;

  // visit(x, first token) for every span with keys from `floor` on; a warp's lanes stay together.
  template <class Visit>
  __device__ __forceinline__ void for_spans(uint32_t floor, const Visit& visit) const {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    for (int base = warp; base < spans; base += kThreads) {
      const int mine = base + lane * kConfirmWarps;
      unsigned found = __ballot_sync(kAllLanes, mine < spans && tops[mine] >= floor);
      for (; found != 0; found &= found - 1) {
        const int span = base + (__ffs(found) - 1) * kConfirmWarps;
        const int first = span * kSpan + lane * kOctet;
        float x[kOctet];
        row.scale(row.load(first), x);
        visit(x, first);
      }
    }
  }

  // Tokens with a key of `floor` or a higher one.
  __device__ int64_t count(uint32_t floor) const {
    Sums sums{};
    for_spans(floor, [&](const float (&x)[kOctet], int) {
      for (int j = 0; j < kOctet; ++j) sums.count += key_of(x[j]) >= floor ? 1 : 0;
    });
    return block_sum(sums, scratch).count;
  }

  // What lies above x = drawn; the total is that of the tokens from it on.
  __device__ Sums sums_from(float drawn) const {
    Sums sums{};
    for_spans(key_of(drawn), [&](const float (&x)[kOctet], int) {
#pragma unroll
      for (int j = 0; j < kOctet; ++j) take(x[j], drawn, drawn, top, &sums);
    });
    return block_sum(sums, scratch);
  }

  // The same among the spans' largest keys alone: a lower bound of count.
  __device__ int64_t count_tops(uint32_t floor) const {
    Sums sums{};
    for (int s = threadIdx.x; s < spans; s += kThreads) sums.count += tops[s] >= floor ? 1 : 0;
    return block_sum(sums, scratch).count;
  }

  // The highest key, `low` or above, that rule.top_k or more keys reach; at least as many reach
  // `low`.
  template <class Count>
  __device__ uint32_t highest_key(uint32_t low, const Count& reached) const {
    uint32_t high = key_of(top);
    while (low < high) {
      const uint32_t middle = high - (high - low) / 2;
      if (reached(middle) >= rule.top_k) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  // Weight of what top-k lets pass. Its lowest key is not below the k-th largest of the spans'
  // largest; looking for that first leaves about k spans to read.
  __device__ int64_t total() const {
    uint32_t lowest = kLowestKey;
    if (has_top_k(rule, row.vocab)) {
      lowest = highest_key(0, [&](uint32_t key) { return count_tops(key); });
      lowest = highest_key(lowest, [&](uint32_t key) { return count(key); });
    }
    return sums_from(value_of(lowest)).total;
  }

  // Do top-k and top-p keep x = drawn? They always keep the largest x.
  __device__ bool keeps(float drawn) {
    const Sums sums = sums_from(drawn);
    if (sums.count == 0) return true;
    if (has_top_k(rule, row.vocab) && sums.count >= rule.top_k) return false;
    if (!(rule.top_p < 1.0f)) return true;
    // If top-p keeps it among fewer tokens, then among all: mostly the total is not needed.
    if (top_p_keeps(sums.above, top_p_limit(rule.top_p, sums.total))) return true;
    if (known.total < 0) known.total = total();
    return top_p_keeps(sums.above, top_p_limit(rule.top_p, known.total));
  }

  // The best of the tokens that are not out.
  __device__ uint64_t best() const {
    uint64_t best = 0;
    for_spans(known.out + 1, [&](const float (&x)[kOctet], int first) {
      bool any = false;
      for (int j = 0; j < kOctet; ++j) any |= key_of(x[j]) > known.out;
      if (!__any_sync(kAllLanes, any)) return;
      float g[kOctet];
      octet_noise(noise, first, g);
      for (int j = 0; j < kOctet; ++j) {
        const uint64_t other = pack_best(key_of(add_rn(x[j], g[j])), first + j);
        if (key_of(x[j]) > known.out) best = greater(best, other);
      }
    });
    return block_best(best, scratch);
  }

  __device__ int64_t draw() {
    int64_t token = token_of(row_best(bests, spans, scratch));
    if (token < 0) return kNoToken;
    uint32_t kept = row_top(tops, spans, scratch);  // top-k and top-p keep this key
    top = value_of(kept);
    if (rule.min_p > 0.0f) {
      const uint32_t lowest = key_of(min_p_threshold(top, rule.min_p));
      known.out = known.out < lowest ? lowest - 1 : known.out;
    }
    for (int climbs = 0; token >= 0; ++climbs) {
      const uint32_t key = key_of(row.at(token));
      if (key > known.out) {
        if (keeps(value_of(key))) return token;
        known.out = key;
      }
      // However the logits lie, the threshold is found in 32 halvings.
      if (climbs >= kClimbs && known.out + 1 < kept) {
        const uint32_t middle = known.out + (kept - known.out) / 2;
        const bool keep = keeps(value_of(middle));
        kept = keep ? middle : kept;
        known.out = keep ? known.out : middle;
      }
      token = token_of(best());
    }
    return kNoToken;
  }
};

// --- The path

// A draw on the first kernel's path. The token is kNoToken where the walk ended for want of one.
template <class T>
struct PathEntry {
  int node;
  int64_t token;
  float x;

  __device__ PathEntry(const TreeAcceptParams& p, int64_t b, int entry, float temperature) {
    node = p.path[b * (p.max_depth + 1) + entry];
    token = p.emitted[b * (p.max_depth + 1) + entry];
    x = token >= 0 ? row_of<T>(p, b, node, temperature).at(token) : 0.0f;
  }
};

// Sums of one entry, by one warp.
__device__ __forceinline__ Sums entry_sums(const TreeAcceptParams& p, const Workspace& work,
                                           int64_t b, int entry) {
  const Sums* of_chunk = work.sums + (b * (p.max_depth + 1) + entry) * work.chunks;
  Sums sums{};
  for (int64_t c = threadIdx.x % kWarp; c < work.chunks; c += kWarp) sums = add(sums, of_chunk[c]);
  return warp_sum(sums);
}

// The sums of one chunk of one entry. Where min-p rejects the draw, all tokens count as above it.
template <class T>
__device__ __forceinline__ void sum_chunk(const TreeAcceptParams& p, const Workspace& work,
                                          int64_t b, int entry, const SamplingRule& rule,
                                          Scratch* scratch) {
  const PathEntry<T> drawn(p, b, entry, rule.temperature);
  if (drawn.token < 0) return;
  const uint32_t* tops = work.top + (b * p.nodes + drawn.node) * work.spans;
  const float top = value_of(row_top(tops, work.spans, scratch));
  // With top-k the total is not known: its part from the drawn token on must do.
  const float from = has_top_k(rule, p.vocab) ? drawn.x : kLowest;
  const Row<T> row = row_of<T>(p, b, drawn.node, rule.temperature);
  const int first = static_cast<int>(blockIdx.x) * kChunk + threadIdx.x * kOctet;
  Octet<T> octet[kConfirmSpans];
#pragma unroll
  for (int i = 0; i < kConfirmSpans; ++i) octet[i] = row.load(first + i * kThreads * kOctet);
  Sums sums{};
#pragma unroll
  for (int i = 0; i < kConfirmSpans; ++i) {
    float x[kOctet];
    row.scale(octet[i], x);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) take(x[j], drawn.x, from, top, &sums);
  }
  sums = block_sum(sums, scratch);
  if (rule.min_p > 0.0f && drawn.x < min_p_threshold(top, rule.min_p)) sums.count = p.vocab;
  if (threadIdx.x == 0) {
    work.sums[(b * (p.max_depth + 1) + entry) * work.chunks + blockIdx.x] = sums;
  }
}

// Do the filters keep a draw with these sums for certain?
__device__ __forceinline__ bool confirmed(const Sums& sums, const SamplingRule& rule,
                                          int64_t vocab) {
  if (sums.count >= (has_top_k(rule, vocab) ? rule.top_k : vocab)) return false;
  return sums.count == 0 || !(rule.top_p < 1.0f) ||
         top_p_keeps(sums.above, top_p_limit(rule.top_p, sums.total));
}

// Looks for the first entry that is not confirmed, and walks anew from there.
template <class T>
__device__ __forceinline__ void judge(const TreeAcceptParams& p, const Workspace& work, int64_t b,
                                      const SamplingRule& rule, int length, Scratch* scratch) {
  for (int entry = threadIdx.x / kWarp; entry < length; entry += kConfirmWarps) {
    if (entry + 1 == length && p.next_token[b] < 0) break;
    const bool keep = confirmed(entry_sums(p, work, b, entry), rule, p.vocab);
    if (!keep && threadIdx.x % kWarp == 0) atomicMin(&scratch->first, static_cast<uint32_t>(entry));
  }
  __syncthreads();
  const int first = static_cast<int>(scratch->first);
  if (first == length) return;

  const PathEntry<T> rejected(p, b, first, rule.temperature);
  const Sums sums = entry_sums(p, work, b, first);
  const bool top_k = has_top_k(rule, p.vocab);
  walk(p, b, rejected.node, first, scratch, [&](int node, int depth) {
    const int64_t at = (b * p.nodes + node) * work.spans;
    FilteredDraw<T> filtered{row_of<T>(p, b, node, rule.temperature),
                             work.best + at,
                             work.top + at,
                             static_cast<int>(work.spans),
                             rule,
                             noise_key(p.seed[b], p.position[b], depth),
                             scratch,
                             Known{}};
    if (depth == first) {
      if (!top_k) filtered.known.total = sums.total;
      // With top-k, top-p may keep it after all: its total is not known yet.
      if (!top_k || sums.count >= rule.top_k) filtered.known.out = key_of(rejected.x);
    }
    return filtered.draw();
  });
}

// budget: confirm_kernel: registers <= 128
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    confirm_kernel(const TreeAcceptParams p, const Workspace work) {
  auto& scratch = *reinterpret_cast<Scratch*>(dynamic_shared());
  const int64_t b = blockIdx.z;
  const SamplingRule rule = rule_of(p, b);
  if (!has_filters(rule, p.vocab)) return;
  const int length = p.path_len[b], entry = blockIdx.y;
  if (threadIdx.x == 0) scratch.first = static_cast<uint32_t>(length);
  if (entry < length) sum_chunk<T>(p, work, b, entry, rule, &scratch);
  if (!is_last_block(&work.tickets[b], gridDim.x * gridDim.y, &scratch.last)) return;
  judge<T>(p, work, b, rule, length, &scratch);
}

template <class T>
cudaError_t launch_type(const TreeAcceptParams& p, const Workspace& work, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(work.chunks), static_cast<unsigned>(p.max_depth + 1),
                  static_cast<unsigned>(p.batch));
  return launch(confirm_kernel<T>, grid, dim3(kThreads), sizeof(Scratch), stream, p, work);
}

}  // namespace

cudaError_t launch_confirm(const TreeAcceptParams& p, const Workspace& work, cudaStream_t stream) {
  switch (p.dtype) {
    case DType::kFloat:
      return launch_type<float>(p, work, stream);
    case DType::kBFloat16:
      return launch_type<Bf16>(p, work, stream);
    case DType::kHalf:
      return launch_type<Half>(p, work, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace hivis::cuda
