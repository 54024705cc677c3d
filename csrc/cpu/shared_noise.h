// Writes the shared noise g(seed, position + i, v) of core/gumbel.h.
#pragma once

#include <cstdint>

namespace hivis::cpu {

struct SharedNoiseParams {
  // sizes
  int64_t batch;  // B
  int64_t count;  // positions per sequence
  int64_t vocab;  // V

  // inputs
  const int64_t* seed;      // [B]
  const int64_t* position;  // [B], of the first row

  // output
  float* noise;  // [B, count, V], contiguous
};

void shared_noise(const SharedNoiseParams& params);

}  // namespace hivis::cpu
