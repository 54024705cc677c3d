#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "toy.h"

namespace toy {
namespace {

using namespace hivis::cuda;

__global__ void __launch_bounds__(kThreads) sum_kernel(const SumParams p) {
  auto* warp_sums = reinterpret_cast<float*>(dynamic_shared());
  auto* last = reinterpret_cast<uint32_t*>(warp_sums + kThreads / kWarp);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);

  float x = i < p.count ? p.values[i] : 0.0f;
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  if (lane == 0) warp_sums[warp] = x;
  __syncthreads();
  if (threadIdx.x == kWarp) {
    float sum = 0.0f;
    for (int w = 0; w < kThreads / kWarp; ++w) sum += warp_sums[w];
    p.partials[blockIdx.x] = sum;
  }

  // The last block adds up the partial sums.
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    *last = atomicAdd(p.tickets, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (*last != 0 && threadIdx.x == kThreads - 1) {
    float sum = 0.0f;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += p.partials[b];
    *p.sum = sum;
    *p.tickets = 0;
  }
}

constexpr int kStages = 3;

__device__ void load_tile(const PipelineParams& p, int tile, char* shared) {
  const int offset = static_cast<int>(threadIdx.x) * 16;
  if (tile < p.tiles) {
    const bool valid = tile < p.valid;
    cp_async(shared + tile % kStages * kTileBytes + offset,
             reinterpret_cast<const char*>(p.in) + (valid ? tile * kTileBytes + offset : 0), valid);
  }
  cp_async_commit();
}

__global__ void __launch_bounds__(kThreads) pipeline_kernel(const PipelineParams p) {
  char* shared = dynamic_shared();
  for (int stage = 0; stage < kStages - 1; ++stage) load_tile(p, stage, shared);
  uint4 sum = make_uint4(0, 0, 0, 0);
  for (int tile = 0; tile < p.tiles; ++tile) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    load_tile(p, tile + kStages - 1, shared);
    const auto* row = reinterpret_cast<const uint4*>(shared + tile % kStages * kTileBytes);
    const uint4 x = row[kThreads - 1 - threadIdx.x];
    sum = make_uint4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
  }
  reinterpret_cast<uint4*>(p.out)[threadIdx.x] = sum;
}

constexpr int kPitch = 16;  // bytes from row to row of an 8 x 8 matrix

__global__ void __launch_bounds__(kWarp) matrix_kernel(const MatrixParams p) {
  const int lane = threadIdx.x;
  char* row = dynamic_shared() + lane * kPitch;
  const auto* in = reinterpret_cast<const uint4*>(p.matrices);
  *reinterpret_cast<uint4*>(row) = in[lane];
  __syncwarp();

  uint32_t matrix[4];
  ldmatrix(matrix, row);
  for (int i = 0; i < 4; ++i) p.loaded[lane * 4 + i] = matrix[i];
  ldmatrix_transposed(matrix, row);
  for (int i = 0; i < 4; ++i) p.transposed[lane * 4 + i] = matrix[i];

  uint32_t a[4];
  float c[4];
  for (int i = 0; i < 4; ++i) a[i] = p.a[lane * 4 + i];
  for (int i = 0; i < 4; ++i) c[i] = p.c[lane * 4 + i];
  if (p.half) {
    mma<Half>(c, a, p.b[lane * 2], p.b[lane * 2 + 1]);
  } else {
    mma<Bf16>(c, a, p.b[lane * 2], p.b[lane * 2 + 1]);
  }
  for (int i = 0; i < 4; ++i) p.c[lane * 4 + i] = c[i];
}

__global__ void vote_kernel(const VoteParams p) {
  const unsigned i = threadIdx.x, lane = i % kWarp;
  const unsigned all = i < kWarp ? kAllLanes : 0xffu;
  uint32_t* out = p.out + i * 12;
  // Neighbors exchange through shared memory.
  auto* shared = reinterpret_cast<uint32_t*>(dynamic_shared());
  shared[i] = i * i;
  __syncwarp(all);
  out[0] = shared[i ^ 1];

  out[1] = __ballot_sync(all, i % 3 == 0);
  out[2] = static_cast<uint32_t>(__any_sync(all, i == 33) + 2 * __all_sync(all, i < 32));
  out[3] = static_cast<uint32_t>(__shfl_sync(all, int64_t{i} << 33, 5) >> 33);
  out[4] = static_cast<uint32_t>(__shfl_down_sync(all, static_cast<float>(i), 2, 8));
  // Halves of a warp in different branches.
  if (lane < 4) {
    out[5] = __shfl_xor_sync(0x0fu, i, 3);
  } else {
    out[5] = __shfl_xor_sync(all & ~0x0fu, i, 1, 4);
  }
  out[6] = i < kWarp ? warp_sum(i) : 0;
  out[7] = i < kWarp ? warp_max(i ^ 21) * 100 + warp_min(i | 6) : 0;
  out[8] = static_cast<uint32_t>(__popc(i) + 100 * __ffs(static_cast<int>(i)));
  out[9] = static_cast<uint32_t>(__clz(static_cast<int>(i)) + 100 * __clzll(int64_t{i} << 30));

  out[10] = atomicAdd(&p.counters[0], i) <= 780 - i;
  atomicMax(&p.counters[1], i);
  atomicMin(&p.counters[2], i);
  out[11] = atomicAdd(p.wide, 1ull << 31) >> 31 < 40;
}

__global__ void relay_kernel(const RelayParams p) {
  const unsigned b = blockIdx.x;
  if (threadIdx.x != 0) return;
  int number = 0;
  if (b > 0) {
    while (atomicAdd(&p.flags[b - 1], 0u) == 0) {
    }
    __threadfence();
    number = p.numbers[b - 1];
  }
  p.numbers[b] = number + static_cast<int>(b);
  __threadfence();
  atomicAdd(&p.flags[b], 1u);
}

}  // namespace

cudaError_t launch_sum(const SumParams& p, int blocks, cudaStream_t stream) {
  constexpr size_t kShared = (kThreads / kWarp + 1) * sizeof(float);
  return launch(sum_kernel, dim3(blocks), dim3(kThreads), kShared, stream, p);
}

cudaError_t launch_pipeline(const PipelineParams& p, cudaStream_t stream) {
  return launch(pipeline_kernel, dim3(1), dim3(kThreads), kStages * kTileBytes, stream, p);
}

cudaError_t launch_matrix(const MatrixParams& p, cudaStream_t stream) {
  return launch(matrix_kernel, dim3(1), dim3(kWarp), kWarp * kPitch, stream, p);
}

cudaError_t launch_vote(const VoteParams& p, cudaStream_t stream) {
  return launch(vote_kernel, dim3(1), dim3(40), 40 * sizeof(uint32_t), stream, p);
}

cudaError_t launch_relay(const RelayParams& p, int blocks, cudaStream_t stream) {
  return launch(relay_kernel, dim3(blocks), dim3(2), 0, stream, p);
}

}  // namespace toy
