// noise[b, i, v] = g(seed[b], position[b] + i, v), bit for bit as on the CPU.
//
// Grid (counters / kThreads), over all rows. A thread owns one Philox counter, that is four
// neighboring tokens of one row, which it stores as one word where rows begin at multiples of 16
// bytes.
// Floor: 4 * B * count * V bytes written, at about 70 instructions per token, which bind first: on
// an H100 some 400 tokens per nanosecond, 3 us for 8 rows of V = 152064 (an estimate).
#include "core/gumbel.h"
#include "cuda/launch.h"
#include "cuda/shared_noise.h"

namespace hivis::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWords = 4;  // of a counter

// Counters of one row.
HIVIS_HD int64_t counters_of(int64_t vocab) { return (vocab + kWords - 1) / kWords; }

// budget: shared_noise_kernel: registers <= 64
__global__ void __launch_bounds__(kThreads) shared_noise_kernel(const SharedNoiseParams p) {
  const int64_t counters = counters_of(p.vocab);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = index / counters, counter = index % counters;
  if (row >= p.batch * p.count) return;
  const int64_t b = row / p.count;
  const NoiseKey key = noise_key(p.seed[b], p.position[b], row % p.count);
  const PhiloxWords words = philox4x32(
      {{static_cast<uint32_t>(counter), 0, key.position0, key.position1}}, key.key0, key.key1);
  float4 noise;
  noise.x = gumbel_from_word(words.x[0]);
  noise.y = gumbel_from_word(words.x[1]);
  noise.z = gumbel_from_word(words.x[2]);
  noise.w = gumbel_from_word(words.x[3]);

  const int64_t token = counter * kWords;
  float* out = p.noise + row * p.vocab + token;
  if (p.vocab % kWords == 0 && reinterpret_cast<uintptr_t>(p.noise) % sizeof(float4) == 0) {
    *reinterpret_cast<float4*>(out) = noise;
    return;
  }
  out[0] = noise.x;
  if (token + 1 < p.vocab) out[1] = noise.y;
  if (token + 2 < p.vocab) out[2] = noise.z;
  if (token + 3 < p.vocab) out[3] = noise.w;
}

}  // namespace

cudaError_t launch_shared_noise(const SharedNoiseParams& p, cudaStream_t stream) {
  const int64_t threads = p.batch * p.count * counters_of(p.vocab);
  if (threads == 0) return cudaSuccess;
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(blocks));
  return launch(shared_noise_kernel, grid, dim3(kThreads), 0, stream, p);
}

}  // namespace hivis::cuda
