// The children of a level's nodes, and which of them the next level expands.
//
// Two launches. The first one looks at every token once: grow_survey_kernel, grid (spans / kWarps,
// K / kGroup, B). A warp owns a span of 256 tokens of kGroup nodes, a thread 8 neighboring tokens;
// the nodes of a level share their noise, which stays in registers. Of each span and node the warp
// leaves the best token and the integer weight of all.
//
// The second one makes children of that: grow_settle_kernel, grid (K, B), a block per node. The k
// best tokens lie in the k spans whose best tokens are the best: these are found one after the
// other, by a maximum over the block. Then one token after the other is taken, and the warp that
// owns its span looks for the span's next one. The last block of a sequence ranks all K * k
// candidates, writes the next frontier, and hands the parents' output on to it (80 KB for k = 10
// and E = 4096 in bf16).
//
// Floor: the logits once, B * K * V elements (3.0 MB for K = 10, V = 152064 in bf16: 0.9 us on an
// H100), and 16 bytes of results per 256 tokens. What binds are instructions, about 50 per token
// and 70 more per token and group for the noise (2 us there), and then the latency of the second
// launch: k rounds of one barrier, k of two, a ticket. An estimate for that case, not measured:
// 12 us.
#include "cuda/launch.h"
#include "cuda/ticket.h"
#include "cuda/tree_grow.h"
#include "cuda/tree_grow_row.h"

namespace hivis::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kGroup = 4;
constexpr int kSettleWarps = 8;
constexpr int kSettleThreads = kSettleWarps * kWarp;
constexpr int64_t kMaxSpans = kMaxVocab / kSpan;

// --- The survey

// What a span of one node leaves behind. Where there is nothing finite the weight is 0.
__device__ __forceinline__ void weigh(const float (&y)[kOctet], int first, uint64_t* best,
                                      int64_t* weight) {
  *best = warp_best(octet_best(y, first, ~uint64_t{0}));
  const float top = best_value(*best);
  int64_t sum = 0;
#pragma unroll
  for (int j = 0; j < kOctet; ++j) sum += candidate_weight(y[j], top);
  *weight = warp_total(sum);
}

// budget: grow_survey_kernel: registers <= 72
template <class T>
__global__ void __launch_bounds__(kThreads)
    grow_survey_kernel(const TreeGrowParams p, const GrowWorkspace work) {
  const int64_t b = blockIdx.z, span = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (span >= work.spans) return;
  const GrowRule rule = grow_rule_of(p, b);
  const int first_slot = blockIdx.y * kGroup, left = static_cast<int>(p.nodes) - first_slot;
  const int lane = threadIdx.x % kWarp;
  const int first = static_cast<int>(span) * kSpan + lane * kOctet;

  // The logits, then the noise while those are under way.
  Octet<T> octet[kGroup];
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if (i < left) octet[i] = grow_row_of<T>(p, b, first_slot + i).load(first);
  }
  float noise[kOctet] = {};
  if (needs_noise(rule)) octet_noise(grow_noise_of(p, b), first, noise);

#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if (i < left) {
      float y[kOctet];
      octet_values(octet[i], noise, rule, y);
      uint64_t best;
      int64_t weight;
      weigh(y, first, &best, &weight);
      const int64_t at = (b * p.nodes + first_slot + i) * work.spans + span;
      if (lane == 0) {
        work.best[at] = best;
        work.weight[at] = weight;
      }
    }
  }
}

// --- The children of one node, by one block

struct SettleShared {
  uint64_t warp_best[2][kSettleWarps];
  int64_t warp_sum[kSettleWarps];
  uint64_t current[kMaxChildren];  // of each chosen span, the best token that is not taken yet
  int32_t chosen[kMaxChildren];    // the spans whose best tokens are the k best, by rank
  uint64_t child[kMaxChildren];
  int32_t slot[kMaxChildren];  // the next frontier's parents
  int last;
  uint64_t best[kMaxSpans];  // of every span; only as many as there are take up memory
};

// The greatest of all threads' keys, for every thread. `warps` is written anew not before a barrier
// that follows.
__device__ __forceinline__ uint64_t block_best(uint64_t mine, uint64_t (&warps)[kSettleWarps]) {
  mine = warp_best(mine);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
  __syncthreads();
  for (int w = 0; w < kSettleWarps; ++w) mine = greater(mine, warps[w]);
  return mine;
}

// The best of all and the sum of the spans' weights, for every thread.
__device__ __forceinline__ uint64_t row_best(const GrowWorkspace& work, int64_t row,
                                             SettleShared* shared) {
  uint64_t best = 0;
  for (int s = threadIdx.x; s < work.spans; s += kSettleThreads) {
    const uint64_t mine = work.best[row * work.spans + s];
    shared->best[s] = mine;
    best = greater(best, mine);
  }
  return block_best(best, shared->warp_best[0]);
}

__device__ __forceinline__ int64_t row_total(const GrowWorkspace& work, int64_t row, float top,
                                             SettleShared* shared) {
  int64_t sum = 0;
  for (int s = threadIdx.x; s < work.spans; s += kSettleThreads) {
    sum += span_share(work.weight[row * work.spans + s], best_value(shared->best[s]), top);
  }
  sum = warp_total(sum);
  if (threadIdx.x % kWarp == 0) shared->warp_sum[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kSettleWarps; ++w) sum += shared->warp_sum[w];
  return sum;
}

// How many of `keys` are greater than the one at `i`, or `enough` or more.
__device__ __forceinline__ int rank_of(const uint64_t* keys, int count, int i, int enough) {
  const uint64_t mine = keys[i];
  int rank = 0;
  for (int j = 0; j < count && rank < enough; j += 4) {
#pragma unroll
    for (int n = 0; n < 4; ++n) rank += j + n < count && keys[j + n] > mine ? 1 : 0;
  }
  return rank;
}

// The k best tokens of a sound row, in order.
template <class T>
__device__ void take_children(const TreeGrowParams& p, int64_t b, int64_t slot, int spans,
                              SettleShared* shared) {
  const int k = static_cast<int>(p.children), count = k < spans ? k : spans;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  uint64_t before = ~uint64_t{0};
  for (int rank = 0; rank < count; ++rank) {
    uint64_t mine = 0;
    for (int s = threadIdx.x; s < spans; s += kSettleThreads) {
      if (shared->best[s] < before) mine = greater(mine, shared->best[s]);
    }
    // In turn, so that a barrier a round is enough.
    before = block_best(mine, shared->warp_best[(rank + 1) % 2]);
    if (threadIdx.x == 0) {
      shared->chosen[rank] = best_token(before) / kSpan;
      shared->current[rank] = before;
    }
  }
  __syncthreads();

  const GrowRule rule = grow_rule_of(p, b);
  const Row<T> row = grow_row_of<T>(p, b, slot);
  float y[kOctet];
  int first = 0, held = -1;  // which chosen span this warp has the scores of
  const auto hold = [&](int index) {
    held = index;
    first = shared->chosen[index] * kSpan + lane * kOctet;
    float noise[kOctet] = {};
    if (needs_noise(rule)) octet_noise(grow_noise_of(p, b), first, noise);
    octet_values(row.load(first), noise, rule, y);
  };
  if (warp < count) hold(warp);
  for (int round = 0;; ++round) {
    // The best of the chosen spans' best: every warp finds the same.
    uint64_t mine = 0;
    int index = 0;
    for (int i = lane; i < count; i += kWarp) {
      if (shared->current[i] > mine) {
        mine = shared->current[i];
        index = i;
      }
    }
    const uint64_t taken = warp_best(mine);
    index = __shfl_sync(kAllLanes, index, __ffs(__ballot_sync(kAllLanes, mine == taken)) - 1);
    if (threadIdx.x == 0) shared->child[round] = taken;
    __syncthreads();  // everybody has read what stands in current
    if (round == k - 1) return;
    if (index % kSettleWarps == warp) {
      if (held != index) hold(index);
      const uint64_t next = warp_best(octet_best(y, first, taken - 1));
      if (lane == 0) shared->current[index] = next;
    }
    __syncthreads();
  }
}

// --- The next frontier, by the last block of a sequence

__device__ void choose_frontier(const TreeGrowParams& p, int64_t b, const uint64_t* keys,
                                int64_t spans, SettleShared* shared) {
  const int k = static_cast<int>(p.children), count = static_cast<int>(p.nodes) * k;
  const int64_t first = pool_first(p.level, k);
  if (p.level > 1 && count <= spans) {  // every key is read by all
    for (int i = threadIdx.x; i < count; i += kSettleThreads) shared->best[i] = keys[i];
    __syncthreads();
    keys = shared->best;
  }
  for (int i = threadIdx.x; i < count; i += kSettleThreads) {
    const int rank = p.level == 1 ? i : rank_of(keys, count, i, k);
    if (rank >= k) continue;
    const int64_t to = b * k + rank, from = b * p.pool + first + i, token = p.pool_tokens[from];
    p.frontier_nodes[to] = static_cast<int32_t>(first + i);
    p.frontier_slots[to] = shared->slot[rank] = i / k;
    p.frontier_tokens[to] = token;
    p.frontier_scores[to] = is_end(token, p.ends, p.end_count) ? kLowest : p.pool_scores[from];
    const int64_t row = (p.level - 1) * k + rank;
    for (int64_t w = 0; w < p.words; ++w) {
      const uint64_t own = w == row / kWordBits ? uint64_t{1} << row % kWordBits : 0;
      const int64_t above = p.level > 1 ? p.above_words[(b * k + i / k) * p.words + w] : 0;
      p.frontier_words[to * p.words + w] = above | static_cast<int64_t>(own);
    }
  }
}

// Hands the output of each parent on, by the same block, in units of one type. A warp takes a row,
// and loads much of it before it stores any.
template <class Unit>
__device__ __forceinline__ void carry_units(const TreeGrowParams& p, int64_t b,
                                            const int32_t* slots) {
  constexpr int kBatch = 8;
  const int64_t units = p.row_bytes / static_cast<int64_t>(sizeof(Unit));
  const int lane = threadIdx.x % kWarp;
  for (int64_t j = threadIdx.x / kWarp; j < p.children; j += kSettleWarps) {
    const auto* const from = reinterpret_cast<const Unit*>(p.output + b * p.output_batch_stride +
                                                           slots[j] * p.output_node_stride);
    auto* const to =
        reinterpret_cast<Unit*>(p.frontier_carried + (b * p.children + j) * p.row_bytes);
    int64_t unit = lane;
    for (; unit + (kBatch - 1) * kWarp < units; unit += kBatch * kWarp) {
      Unit part[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) part[n] = from[unit + n * kWarp];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) to[unit + n * kWarp] = part[n];
    }
    for (; unit < units; unit += kWarp) to[unit] = from[unit];
  }
}

__device__ __forceinline__ void carry(const TreeGrowParams& p, int64_t b,
                                      const SettleShared* shared) {
  const int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p.output)) |
                      static_cast<int64_t>(reinterpret_cast<uintptr_t>(p.frontier_carried)) |
                      p.output_batch_stride | p.output_node_stride | p.row_bytes;
  if (all % static_cast<int64_t>(sizeof(uint4)) == 0) {
    carry_units<uint4>(p, b, shared->slot);
  } else {
    carry_units<char>(p, b, shared->slot);
  }
}

// budget: grow_settle_kernel: registers <= 64
template <class T>
__global__ void __launch_bounds__(kSettleThreads)
    grow_settle_kernel(const TreeGrowParams p, const GrowWorkspace work) {
  auto& shared = *reinterpret_cast<SettleShared*>(dynamic_shared());
  const int64_t slot = blockIdx.x, b = blockIdx.y, row = b * p.nodes + slot;
  const uint64_t best = row_best(work, row, &shared);
  const float top = best_value(best);
  float log_sum = 0.0f;
  if (is_sound(best)) {
    log_sum = log_total(row_total(work, row, top, &shared));
    take_children<T>(p, b, slot, static_cast<int>(work.spans), &shared);
  }

  const bool root = p.level == 1;
  const float score = root ? 0.0f : p.above_scores[b * p.children + slot];
  const int64_t at = b * p.pool + pool_first(p.level, p.children) + slot * p.children;
  for (int j = threadIdx.x; j < p.children; j += kSettleThreads) {
    float total = kLowest;
    int token = j;
    if (is_sound(best)) {
      total = add_rn(child_gain(best_value(shared.child[j]), top, log_sum), score);
      token = best_token(shared.child[j]);
    }
    p.pool_scores[at + j] = total;
    p.pool_tokens[at + j] = token;
    p.pool_parents[at + j] = root ? 0 : p.above_nodes[b * p.children + slot];
    const int place = static_cast<int>(slot * p.children) + j;
    work.keys[b * p.nodes * p.children + place] =
        rank_key(is_end(token, p.ends, p.end_count) ? kLowest : total, place);
  }
  if (p.frontier_nodes == nullptr) return;
  if (!is_last_block(&work.tickets[b], gridDim.x, &shared.last)) return;
  choose_frontier(p, b, work.keys + b * p.nodes * p.children, work.spans, &shared);
  __syncthreads();
  carry(p, b, &shared);
}

template <class T>
cudaError_t launch_grow(const TreeGrowParams& p, const GrowWorkspace& work, cudaStream_t stream) {
  const dim3 survey(static_cast<unsigned>(divide_up(work.spans, kWarps)),
                    static_cast<unsigned>(divide_up(p.nodes, kGroup)),
                    static_cast<unsigned>(p.batch));
  const cudaError_t status =
      launch(grow_survey_kernel<T>, survey, dim3(kThreads), 0, stream, p, work);
  if (status != cudaSuccess) return status;
  const dim3 settle(static_cast<unsigned>(p.nodes), static_cast<unsigned>(p.batch));
  const size_t shared = sizeof(SettleShared) - (kMaxSpans - work.spans) * sizeof(uint64_t);
  return launch(grow_settle_kernel<T>, settle, dim3(kSettleThreads), shared, stream, p, work);
}

}  // namespace

int64_t tree_grow_workspace(const TreeGrowParams& p) {
  return make_grow_workspace(p, nullptr, nullptr).bytes;
}

cudaError_t launch_tree_grow(const TreeGrowParams& p, void* workspace, uint32_t* tickets,
                             cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  const GrowWorkspace work = make_grow_workspace(p, workspace, tickets);
  switch (p.dtype) {
    case DType::kFloat:
      return launch_grow<float>(p, work, stream);
    case DType::kBFloat16:
      return launch_grow<Bf16>(p, work, stream);
    case DType::kHalf:
      return launch_grow<Half>(p, work, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace hivis::cuda
