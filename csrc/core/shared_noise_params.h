// Parameters of shared_noise, which writes g(seed, position + i, v) of core/gumbel.h. Pointers lead
// to memory of the device that runs the op.
#pragma once

#include <cstdint>

namespace hivis {

struct SharedNoiseParams {
  // sizes
  int64_t batch;  // B
  int64_t count;  // positions per sequence
  int64_t vocab;  // V, 1..2^20

  // inputs
  const int64_t* seed;      // [B]
  const int64_t* position;  // [B], of the first row

  // output
  float* noise;  // [B, count, V], contiguous
};

}  // namespace hivis
