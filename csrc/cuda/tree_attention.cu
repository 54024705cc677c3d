// Attention of every tree node over the cached prefix and its own ancestors, in one launch.
//
// Rows (node, head in group) of one K/V head are packed into tiles of 16, 64 or 128, so that
// K and V are read once for all of them. The keys of a sequence are split over blocks:
//   grid (row tile + row tiles * split, K/V head, sequence)
// Blocks of the same keys are neighbors in the grid, and find each other's K and V in the L2. How
// many splits a sequence has follows from its own length, read on the device; blocks beyond that
// leave at once. So the grid is fixed for (B, N, S), and a sequence's result depends neither on its
// neighbors in the batch nor on S.
//
// A block streams tiles of 64 keys (32 for D = 256) through 2 or 3 stages of shared memory and
// keeps results and softmax sums in registers (online softmax, fp32). Tiles of the prefix are not
// masked. In the last tiles each lane takes its rows' ancestor bits, one 64-bit window per row and
// tile. The last block of a unit merges the splits in the order of the keys.
//
// Floor: K and V once, 2 * (kv_len + N) * Hkv * D * 2 bytes per sequence, plus q and out once. Few
// and 64 rows are bound by these bytes; at few keys by latency: a launch, two rounds through
// memory, and the merge, which reads splits * rows * D * 4 bytes from the L2. Grouped heads with
// many nodes are bound by arithmetic, 4 * N * H * (kv_len + N) * D operations at the rate of
// mma.sync, about two thirds of what the newest tensor cores reach with wgmma.
//
// What this kernel cannot take goes to tree_attention_any.cu: fp32, other head dims, and views of
// which a row does not start at a multiple of 16 bytes.
#include "cuda/tree_attention_launch.h"

namespace hivis::cuda {
namespace {

constexpr int kMostSplits = 32;

bool is_served(int head_dim) {
  return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

bool is_aligned(const void* start, int64_t a, int64_t b, int64_t c) {
  return reinterpret_cast<uintptr_t>(start) % 16 == 0 && (a | b | c) % kChunk == 0;
}

// Can rows be copied 16 bytes at a time, and multiplied on tensor cores?
bool on_tensor_cores(const TreeAttentionParams& p) {
  return p.dtype != DType::kFloat && is_served(p.head_dim) &&
         is_aligned(p.q, p.q_batch, p.q_node, p.q_head) &&
         is_aligned(p.k, p.k_batch, p.k_head, p.k_row) &&
         is_aligned(p.v, p.v_batch, p.v_head, p.v_row);
}

}  // namespace

TreeAttentionLaunch plan_tree_attention(const TreeAttentionParams& params, int multiprocessors) {
  TreeAttentionLaunch p{params};
  if (!on_tensor_cores(p)) return p;
  const int rows = p.nodes * (p.heads / p.kv_heads);
  const TileSize size = tile_size(p.head_dim, rows);
  p.row_tiles = (rows + size.rows - 1) / size.rows;
  // One wave of blocks where two fit a multiprocessor (sm_90; sm_80 but for the largest tiles; not
  // sm_86 and sm_89, where it is two waves). But 128 rows have so many partial results that
  // more splits would cost more than they bring.
  const int blocks = multiprocessors * (size.rows > 64 ? 1 : 2);
  const int splits = blocks / (p.kv_heads * p.row_tiles);
  p.max_splits = splits < 1 ? 1 : splits < kMostSplits ? splits : kMostSplits;
  const int64_t tiles = (p.rows + size.keys - 1) / size.keys;
  p.max_slots = split_count(static_cast<int>(tiles), p.max_splits) * size.key_warps;
  if (p.max_slots > 1) {
    p.tickets_size = p.batch * p.kv_heads * p.row_tiles;
    p.partials_size = p.tickets_size * p.max_slots * size.rows * (p.head_dim + 2);
  }
  return p;
}

cudaError_t launch_tree_attention(const TreeAttentionLaunch& p, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  if (!on_tensor_cores(p)) return launch_tree_attention_any(p, stream);
  switch (p.head_dim) {
    case 64:
      return launch_head_dim<64>(p, stream);
    case 80:
      return launch_head_dim<80>(p, stream);
    case 96:
      return launch_head_dim<96>(p, stream);
    case 128:
      return launch_head_dim<128>(p, stream);
    default:
      return launch_head_dim<256>(p, stream);
  }
}

}  // namespace hivis::cuda
