// Writes the shared noise g(seed, position + i, v) of core/gumbel.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hivis::cuda {

struct SharedNoiseParams {
  // sizes
  int64_t batch;  // B
  int64_t count;  // positions per sequence
  int64_t vocab;  // V, 1..2^20

  // inputs, device memory
  const int64_t* seed;      // [B]
  const int64_t* position;  // [B], of the first row

  // output, device memory
  float* noise;  // [B, count, V], contiguous
};

cudaError_t launch_shared_noise(const SharedNoiseParams& params, cudaStream_t stream);

}  // namespace hivis::cuda
