// The root and the best entries of a pool, as a draft tree.
//
// tree_prune_kernel: grid (B), a block per sequence. The least key that is kept is found bit by
// bit, by a vote of the block on each. The kept ones then find their places in the pool's order,
// their parents among themselves, and their ancestors by walking up.
//
// Floor: 4 bytes per entry and 16 more per node, nothing; bound by latency. A vote takes some 70
// cycles as long as every entry has a thread of its own, and ends the search as soon as it splits
// the entries as wanted: after 15 to 25 of them, 64 at most. An estimate for P = 711, N = 60 on an
// H100, not measured: 3 us.
#include "core/grow.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/tree_prune.h"

namespace hivis::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int64_t kKept = 4096;  // entries whose keys fit into shared memory

struct PruneShared {
  unsigned kept;
  int32_t best[kMaxNodes];    // places of the kept entries
  int32_t node[kMaxNodes];    // the same in the pool's order
  int32_t parent[kMaxNodes];  // nodes
  uint64_t key[kKept];        // only as many as there are take up memory
};

// The least of the `enough` greatest keys behind the root's, or a number between it and the next
// lower one. key(i) is that of an entry; all of them differ.
template <class Key>
__device__ __forceinline__ uint64_t least_kept(const Key& key, int entries, int enough) {
  const int own = 1 + threadIdx.x;
  const uint64_t mine = own < entries ? key(own) : 0;
  uint64_t least = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t tried = least | uint64_t{1} << bit;
    int found = __syncthreads_count(mine >= tried);
    for (int first = own + kThreads; first - own < entries - 1; first += kThreads) {
      found += __syncthreads_count(first < entries && key(first) >= tried);
    }
    if (found < enough) continue;
    least = tried;
    if (found == enough) break;
  }
  return least;
}

// Places of the root and of the N - 1 best others, in any order.
template <class Key>
__device__ __forceinline__ void choose_entries(const TreePruneParams& p, const Key& key,
                                               PruneShared* shared) {
  const int entries = static_cast<int>(p.entries), enough = static_cast<int>(p.nodes) - 1;
  if (enough == 0) return;
  const uint64_t least = least_kept(key, entries, enough);
  for (int i = 1 + threadIdx.x; i < entries; i += kThreads) {
    if (key(i) >= least) shared->best[1 + atomicAdd(&shared->kept, 1u)] = i;
  }
}

// How many of the first `count` numbers are at most `bound`.
__device__ __forceinline__ int count_up_to(const int32_t* numbers, int count, int bound) {
  int found = 0;
  for (int i = 0; i < count; ++i) found += numbers[i] <= bound ? 1 : 0;
  return found;
}

// budget: tree_prune_kernel: registers <= 40
__global__ void __launch_bounds__(kThreads) tree_prune_kernel(const TreePruneParams p) {
  auto& shared = *reinterpret_cast<PruneShared*>(dynamic_shared());
  const int64_t b = blockIdx.x;
  const int nodes = static_cast<int>(p.nodes), words = static_cast<int>(p.words);
  const float* scores = p.pool_scores + b * p.pool;

  // Who is kept.
  if (threadIdx.x == 0) {
    shared.kept = 0;
    shared.best[0] = 0;
  }
  if (p.entries <= kKept) {
    for (int i = threadIdx.x; i < p.entries; i += kThreads) shared.key[i] = rank_key(scores[i], i);
    __syncthreads();
    choose_entries(p, [&](int i) { return shared.key[i]; }, &shared);
  } else {
    choose_entries(p, [&](int i) { return rank_key(scores[i], i); }, &shared);
  }
  __syncthreads();

  // In the pool's order, in which the root is the first.
  for (int n = threadIdx.x; n < nodes; n += kThreads) {
    const int32_t place = shared.best[n];
    shared.node[count_up_to(shared.best, nodes, place) - 1] = place;
  }
  __syncthreads();

  // A node's parent is kept as well: it is the last node up to the parent's place.
  for (int n = threadIdx.x; n < nodes; n += kThreads) {
    const int64_t to = b * nodes + n, from = b * p.pool + shared.node[n];
    const int before = n == 0 ? 0 : count_up_to(shared.node, n, p.pool_parents[from]);
    const int parent = n == 0 ? -1 : before > 0 ? before - 1 : 0;
    shared.parent[n] = parent;
    p.tokens[to] = p.pool_tokens[from];
    p.parents[to] = parent;
    p.depths[to] = pool_depth(shared.node[n], p.children);
    p.scores[to] = scores[shared.node[n]];
  }
  __syncthreads();

  // Ancestors, a thread per word.
  for (int i = threadIdx.x; i < nodes * words; i += kThreads) {
    uint64_t word = 0;
    for (int n = i / words; n >= 0; n = shared.parent[n]) {
      if (n / kWordBits == i % words) word |= uint64_t{1} << n % kWordBits;
    }
    p.ancestors[b * nodes * words + i] = static_cast<int64_t>(word);
  }
}

}  // namespace

cudaError_t launch_tree_prune(const TreePruneParams& p, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  const int64_t keys = p.entries <= kKept ? p.entries : 0;
  const size_t shared = sizeof(PruneShared) - (kKept - keys) * sizeof(uint64_t);
  return launch(tree_prune_kernel, dim3(static_cast<unsigned>(p.batch)), dim3(kThreads), shared,
                stream, p);
}

}  // namespace hivis::cuda
