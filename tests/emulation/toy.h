// Small kernels that use each thing that the emulator offers, for its self test.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace toy {

constexpr int kThreads = 64;
constexpr int kTileBytes = kThreads * 16;

// *sum = values[0] + ... + values[count - 1], added in a fixed order: lanes, warps, blocks.
struct SumParams {
  int count;
  const float* values;
  float* sum;
  float* partials;    // [blocks]
  uint32_t* tickets;  // [1]: 0 before and after
};
cudaError_t launch_sum(const SumParams& params, int blocks, cudaStream_t stream);

// out[i] = sum over tiles of tile[t][kThreads - 1 - i], with tiles of kThreads times 4 integers
// going through three stages of shared memory.
struct PipelineParams {
  int tiles;
  int valid;      // tiles behind this one are zeros
  const int* in;  // [valid, kThreads, 4]
  int* out;       // [kThreads, 4]
};
cudaError_t launch_pipeline(const PipelineParams& params, cudaStream_t stream);

// One warp. Fragments as registers hold them, lane after lane.
struct MatrixParams {
  bool half;                 // else bf16
  const uint16_t* matrices;  // [4, 8, 8], for ldmatrix
  const uint32_t* a;         // [32, 4]
  const uint32_t* b;         // [32, 2]
  float* c;                  // [32, 4]: c += a b
  uint32_t* loaded;          // [32, 4]
  uint32_t* transposed;      // [32, 4]
};
cudaError_t launch_matrix(const MatrixParams& params, cudaStream_t stream);

// Every collective and atomic once. One block of 40 threads: its second warp has 8 lanes.
struct VoteParams {
  uint32_t* out;       // [40, 12]
  uint32_t* counters;  // [3]
  unsigned long long* wide;
};
cudaError_t launch_vote(const VoteParams& params, cudaStream_t stream);

// Block b hands a number on to block b + 1 as soon as it has it, and each adds b to it.
struct RelayParams {
  uint32_t* flags;  // [blocks]: 0 before
  int* numbers;     // [blocks]
};
cudaError_t launch_relay(const RelayParams& params, int blocks, cudaStream_t stream);

}  // namespace toy
