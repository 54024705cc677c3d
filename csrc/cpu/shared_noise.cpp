#include "cpu/shared_noise.h"

#include <algorithm>
#include <cstring>

#include "cpu/noise_block.h"
#include "cpu/parallel.h"

namespace hivis::cpu {

void shared_noise(const SharedNoiseParams& params) {
  const int64_t blocks = (params.vocab + kNoiseBlock - 1) / kNoiseBlock;
  constexpr int64_t kGrain = 512;  // blocks a thread takes at least: about 50 us of work
  parallel_for(params.batch * params.count * blocks, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / blocks, block = i % blocks, b = row / params.count;
      const NoiseKey key = noise_key(params.seed[b], params.position[b], row % params.count);
      const int64_t first = block * kNoiseBlock;
      const int64_t size = std::min<int64_t>(kNoiseBlock, params.vocab - first);
      float* out = params.noise + row * params.vocab + first;
      if (size == kNoiseBlock) {
        noise_block(key, static_cast<uint32_t>(block), out);
      } else {
        float last[kNoiseBlock];
        noise_block(key, static_cast<uint32_t>(block), last);
        std::memcpy(out, last, size * sizeof(float));
      }
    }
  });
}

}  // namespace hivis::cpu
