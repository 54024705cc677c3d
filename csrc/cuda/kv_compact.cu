// For each sequence, in every layer, side (K, V) and head: row kv_len + path[i] goes to row
// kv_len + i, for i < path_len; then kv_len += path_len.
//
// Grid (columns / kThreads, B). A column is one word (16 bytes where alignment allows) of every row
// of one (layer, side, head); a thread owns a column, so nobody else reads or writes what it moves.
// path increases, hence path[i] >= i: a store to row i never hits a row that a later i still has to
// read. So up to kInFlight loads go out before their stores.
// Bound by memory, and at the usual few rows by latency: the floor is 2 * L * 2 * B * Hkv * moved *
// row_bytes bytes, where rows that are in place already (path[i] == i) do not count.
//
// Every block needs the old kv_len and one must write the new one: the block that draws the last
// ticket of its sequence does, when all the others have read it, and puts the ticket back to 0.
//
// budget: kv_compact_kernel: registers <= 64
#include "cuda/kv_compact.h"
#include "cuda/launch.h"
#include "cuda/ticket.h"

namespace hivis::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kInFlight = 4;

template <class Word>
__global__ void __launch_bounds__(kThreads)
    kv_compact_kernel(const KvCompactParams p, uint32_t* tickets) {
  const int64_t b = blockIdx.y;
  const int64_t old_len = p.kv_len[b];
  // Values out of range are the caller's mistake; they must not become accesses out of bounds.
  const int64_t wanted = p.path_len[b];
  const int count = static_cast<int>(wanted < p.path_width ? wanted : p.path_width);

  // This thread's column.
  const int64_t words = p.row_bytes / static_cast<int64_t>(sizeof(Word));
  const int64_t column = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t slab = words > 0 ? column / words : 0;
  if (words > 0 && slab < p.layers * 2 * p.heads) {
    const int64_t head = slab % p.heads;
    const int64_t side = slab / p.heads % 2;
    const int64_t layer = slab / p.heads / 2;
    char* base = p.kv + layer * p.layer_stride + side * p.side_stride + b * p.batch_stride +
                 head * p.head_stride + old_len * p.row_stride +
                 column % words * static_cast<int64_t>(sizeof(Word));
    const int32_t* path = p.path + b * p.path_width;

    // Moves, kInFlight at a time.
    for (int first = 0; first < count; first += kInFlight) {
      Word value[kInFlight];
      bool move[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int to = first + i;
        const int64_t from = to < count ? path[to] : to;
        move[i] = from > to && old_len >= 0 && old_len + from < p.rows;
        if (move[i]) value[i] = *reinterpret_cast<const Word*>(base + from * p.row_stride);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (move[i]) *reinterpret_cast<Word*>(base + (first + i) * p.row_stride) = value[i];
      }
    }
  }

  // The last block of the sequence advances its length.
  auto* const flag = reinterpret_cast<int*>(dynamic_shared());
  if (!is_last_block(&tickets[b], gridDim.x, flag)) return;
  if (threadIdx.x == 0) p.kv_len[b] = static_cast<int32_t>(old_len) + count;
}

template <class Word>
cudaError_t launch_words(const KvCompactParams& p, uint32_t* tickets, cudaStream_t stream) {
  const int64_t columns = p.layers * 2 * p.heads * (p.row_bytes / sizeof(Word));
  // With nothing to move there is still a length to advance.
  const int64_t blocks = columns > 0 ? (columns + kThreads - 1) / kThreads : 1;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(p.batch));
  return launch(kv_compact_kernel<Word>, grid, dim3(kThreads), sizeof(int), stream, p, tickets);
}

}  // namespace

cudaError_t launch_kv_compact(const KvCompactParams& p, uint32_t* tickets, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  // The widest word that every row starts at and is a whole number of.
  const int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p.kv)) | p.row_bytes |
                      p.layer_stride | p.side_stride | p.batch_stride | p.head_stride |
                      p.row_stride;
  if (all % 16 == 0) return launch_words<uint4>(p, tickets, stream);
  if (all % 4 == 0) return launch_words<uint32_t>(p, tickets, stream);
  if (all % 2 == 0) return launch_words<uint16_t>(p, tickets, stream);
  return launch_words<uint8_t>(p, tickets, stream);
}

}  // namespace hivis::cuda
