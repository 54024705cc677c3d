// Which kernel serves which sizes, and its launch. One .cu per head dim holds the kernels of that
// size, so that they compile in parallel.
#pragma once

#include "cuda/tree_attention_kernel.h"

namespace hivis::cuda {

// How many rows (node, head in group) a block takes. Few rows do not fill four warps: then these
// share the keys instead. Many rows read K and V once for all of them; 128 take half the reads of
// shared memory per product that 64 do, which is what bounds grouped heads.
enum class RowShape { kFew, kMany, kMost };

constexpr RowShape row_shape(int head_dim, int rows) {
  if (rows <= (head_dim > 128 ? 32 : 16)) return RowShape::kFew;
  return rows <= 64 || head_dim > 128 ? RowShape::kMany : RowShape::kMost;
}

// Sizes of a block's tiles, for those who only plan.
struct TileSize {
  int rows, keys, key_warps;
};

// Results of 16 rows x D = 256 fill half of the registers, so there two warps share the rows.
template <class T, int kHeadDim>
using FewRows = Traits<T, kHeadDim, 1, (kHeadDim > 128 ? 2 : 1), (kHeadDim > 128 ? 2 : 4)>;
template <class T, int kHeadDim>
using ManyRows = Traits<T, kHeadDim, 1, 4, 1>;
template <class T, int kHeadDim>
using MostRows = Traits<T, kHeadDim, 2, 4, 1>;

// Budgets of shared memory. All fit sm_86 and sm_89; all but the last two fit sm_80 twice.
template <class Tr>
constexpr bool fits(int kib) {
  return Tr::kSharedBytes <= kib * 1024;
}
static_assert(fits<FewRows<Half, 64>>(51) && fits<ManyRows<Half, 64>>(57) &&
              fits<MostRows<Half, 64>>(65));
static_assert(fits<FewRows<Half, 80>>(69) && fits<ManyRows<Half, 80>>(78) &&
              fits<MostRows<Half, 80>>(67));
static_assert(fits<FewRows<Half, 96>>(56) && fits<ManyRows<Half, 96>>(66) &&
              fits<MostRows<Half, 96>>(79));
static_assert(fits<FewRows<Half, 128>>(69) && fits<ManyRows<Half, 128>>(81) &&
              fits<FewRows<Half, 256>>(81));
static_assert(fits<MostRows<Half, 128>>(97) && fits<ManyRows<Half, 256>>(97));

template <class Tr>
constexpr TileSize size_of() {
  return {Tr::kRows, Tr::kKeys, Tr::kKeyWarps};
}

constexpr TileSize tile_size(int head_dim, int rows) {
  const bool wide = head_dim > 128;
  switch (row_shape(head_dim, rows)) {
    case RowShape::kFew:
      return wide ? size_of<FewRows<Half, 256>>() : size_of<FewRows<Half, 128>>();
    case RowShape::kMany:
      return wide ? size_of<ManyRows<Half, 256>>() : size_of<ManyRows<Half, 128>>();
    default:
      return size_of<MostRows<Half, 128>>();
  }
}

template <class Tr>
cudaError_t launch_traits(const TreeAttentionLaunch& p, cudaStream_t stream) {
  const int splits =
      split_count(static_cast<int>((p.rows + Tr::kKeys - 1) / Tr::kKeys), p.max_splits);
  const dim3 grid(p.row_tiles * splits, p.kv_heads, static_cast<unsigned>(p.batch));
  return launch(tree_attention_kernel<Tr>, grid, dim3(Tr::kThreads), Tr::kSharedBytes, stream, p);
}

template <class T, int kHeadDim>
cudaError_t launch_type(const TreeAttentionLaunch& p, cudaStream_t stream) {
  switch (row_shape(kHeadDim, p.nodes * (p.heads / p.kv_heads))) {
    case RowShape::kFew:
      return launch_traits<FewRows<T, kHeadDim>>(p, stream);
    case RowShape::kMany:
      return launch_traits<ManyRows<T, kHeadDim>>(p, stream);
    case RowShape::kMost:
      if constexpr (kHeadDim <= 128) return launch_traits<MostRows<T, kHeadDim>>(p, stream);
  }
  return cudaErrorInvalidValue;
}

template <int kHeadDim>
cudaError_t launch_head_dim(const TreeAttentionLaunch& p, cudaStream_t stream) {
  return p.dtype == DType::kBFloat16 ? launch_type<Bf16, kHeadDim>(p, stream)
                                     : launch_type<Half, kHeadDim>(p, stream);
}

extern template cudaError_t launch_head_dim<64>(const TreeAttentionLaunch&, cudaStream_t);
extern template cudaError_t launch_head_dim<80>(const TreeAttentionLaunch&, cudaStream_t);
extern template cudaError_t launch_head_dim<96>(const TreeAttentionLaunch&, cudaStream_t);
extern template cudaError_t launch_head_dim<128>(const TreeAttentionLaunch&, cudaStream_t);
extern template cudaError_t launch_head_dim<256>(const TreeAttentionLaunch&, cudaStream_t);

// tree_attention_any.cu: every type, size and alignment, without tensor cores.
cudaError_t launch_tree_attention_any(const TreeAttentionParams& p, cudaStream_t stream);

}  // namespace hivis::cuda
