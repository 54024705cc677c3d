// tree_attention of any type, head dim (up to 256) and alignment, without tensor cores: the way for
// fp32 and for views that rows of 16 bytes cannot be copied from.
//
// Grid (rows / kWarps, B). A warp owns a row (node, head) and walks over all its keys, 32 at a
// time: first lanes are keys (a score each), then lanes are columns of the result. Keys that the
// node does not see are never read. Bound by the reads of K, a row per lane, from the caches; the
// floor is that of tree_attention.cu, and this kernel stays far from it.
//
// budget: tree_attention_any_kernel: registers <= 64
#include "core/tree_bits.h"
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda/tree_attention_launch.h"

namespace hivis::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kColumns = 256 / kWarp;  // of a lane, for the largest D

__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(Bf16* to, float x) {
  to->bits = static_cast<uint16_t>(pack<Bf16>(x, 0.0f));
}
__device__ __forceinline__ void store(Half* to, float x) {
  to->bits = static_cast<uint16_t>(pack<Half>(x, 0.0f));
}

__device__ __forceinline__ float max_over_warp(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  }
  return x;
}

__device__ __forceinline__ float sum_over_warp(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    tree_attention_any_kernel(const TreeAttentionParams p) {
  const int lane = threadIdx.x % kWarp;
  const int row = blockIdx.x * kWarps + threadIdx.x / kWarp, b = blockIdx.y;
  if (row >= p.nodes * p.heads) return;
  const int node = row / p.heads, head = row % p.heads, kv_head = head / (p.heads / p.kv_heads);
  const int64_t last = p.rows - p.nodes, len = p.kv_len[b];
  const int kv_len = static_cast<int>(len < 0 ? 0 : len > last ? last : len);
  const uint64_t* words = p.ancestors + (int64_t{b} * p.nodes + node) * word_count(p.nodes);
  const T* q = static_cast<const T*>(p.q) + b * p.q_batch + node * p.q_node + head * p.q_head;
  const T* k = static_cast<const T*>(p.k) + b * p.k_batch + kv_head * p.k_head;
  const T* v = static_cast<const T*>(p.v) + b * p.v_batch + kv_head * p.v_head;
  const float scale_log2 = p.scale * 1.4426950408889634f;

  float o[kColumns] = {}, most = -HUGE_VALF, sum = 0.0f;
  const int total = sees_any(words, p.nodes) ? kv_len + p.nodes : 0;
  for (int first = 0; first < total; first += kWarp) {
    const int key = first + lane;
    const bool visible = key < kv_len || (key < total && sees(words, key - kv_len));
    float score = -HUGE_VALF;
    if (visible) {
      score = 0.0f;
      for (int d = 0; d < p.head_dim; ++d) score += to_float(q[d]) * to_float(k[key * p.k_row + d]);
      score *= scale_log2;
    }
    const float next = fmaxf(most, max_over_warp(score));
    const float base = next == -HUGE_VALF ? 0.0f : next;
    const float alpha = exp2_approx(most - base), weight = exp2_approx(score - base);
    most = next;
    sum = sum * alpha + weight;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) o[i] *= alpha;
    for (unsigned left = __ballot_sync(kAllLanes, visible); left != 0; left &= left - 1) {
      const int at = __ffs(left) - 1;
      const float factor = __shfl_sync(kAllLanes, weight, at);
      const T* value = v + (first + at) * p.v_row;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int d = i * kWarp + lane;
        if (d < p.head_dim) o[i] += factor * to_float(value[d]);
      }
    }
  }

  sum = sum_over_warp(sum);
  const float factor = total == 0 ? 0.0f : 1.0f / sum;
  T* out = static_cast<T*>(p.out) + ((int64_t{b} * p.nodes + node) * p.heads + head) * p.head_dim;
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int d = i * kWarp + lane;
    if (d < p.head_dim) store(out + d, o[i] * factor);
  }
}

template <class T>
cudaError_t launch_any(const TreeAttentionParams& p, cudaStream_t stream) {
  const dim3 grid((p.nodes * p.heads + kWarps - 1) / kWarps, static_cast<unsigned>(p.batch));
  return launch(tree_attention_any_kernel<T>, grid, dim3(kWarps * kWarp), 0, stream, p);
}

}  // namespace

cudaError_t launch_tree_attention_any(const TreeAttentionParams& p, cudaStream_t stream) {
  switch (p.dtype) {
    case DType::kFloat:
      return launch_any<float>(p, stream);
    case DType::kBFloat16:
      return launch_any<Bf16>(p, stream);
    case DType::kHalf:
      return launch_any<Half>(p, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace hivis::cuda
