// The shared noise: standard Gumbel variates g(seed, position, token), a pure function of its
// arguments.
//
// Token v takes word v % 4 of philox4x32(counter = (v / 4, 0, position low, position high), key =
// seed), so its noise depends neither on the vocabulary's size nor on the batch nor on what was
// drafted. argmax_v(logits[v] / T + g(seed, position, v)) is then an exact sample of softmax(logits
// / T).
#pragma once

#include <cstdint>

#include "core/fastmath.h"
#include "core/philox.h"

namespace hivis {

// Greater than every value of gumbel_from_word: the largest one is -log(2^-33) = 22.87.
constexpr float kGumbelBound = 22.875f;

// u = (word + 1/2) / 2^32 in (0, 1), E = -log(1 - u) is exponential, g = -log(E).
// A draw's winners have a small E, hence a small u, where fp32 is finest. Large words round to
// 1, for which E would be infinite: they are pulled down to the largest float below 1.
HIVIS_HD float gumbel_from_word(uint32_t word) {
  const float u = add_rn(mul_rn(static_cast<float>(word), 0x1p-32f), 0x1p-33f);
  constexpr float kBelowOne = 1.0f - 0x1p-24f;
  return -log_f32(neg_log1m_f32(u < kBelowOne ? u : kBelowOne));
}

struct NoiseKey {
  uint32_t key0, key1;            // the seed's low and high words
  uint32_t position0, position1;  // the position's
};

// Of the position `ahead` of `position`; behind the last of 2^64 positions comes the first.
HIVIS_HD NoiseKey noise_key(int64_t seed, int64_t position, int64_t ahead) {
  const uint64_t s = static_cast<uint64_t>(seed);
  const uint64_t p = static_cast<uint64_t>(position) + static_cast<uint64_t>(ahead);
  return {static_cast<uint32_t>(s), static_cast<uint32_t>(s >> 32), static_cast<uint32_t>(p),
          static_cast<uint32_t>(p >> 32)};
}

}  // namespace hivis
