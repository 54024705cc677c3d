// Shared noise of 64 consecutive tokens, laid out so that the compiler vectorizes it: 16 Philox
// counters at a time.
#pragma once

#include <cstring>

#include "core/gumbel.h"

namespace hivis::cpu {

constexpr int kNoiseBlock = 64;  // tokens per block: 16 counters of four words

// Eight 64-bit lanes. A Philox word sits in the lower half of a lane; the upper half holds
// leftovers, which the widening multiplication ignores, so that nothing need be repacked between
// rounds.
typedef uint64_t Lanes __attribute__((vector_size(64)));

inline Lanes mul_low(Lanes a, uint64_t b) { return (a & 0xffffffffu) * b; }

// words[j] = the random word of token 64 * block + j.
inline void noise_words(const NoiseKey& key, uint32_t block, uint32_t words[kNoiseBlock]) {
  constexpr int kCounters = 8;
  for (int half = 0; half < 2; ++half) {
    const uint64_t first = block * (kNoiseBlock / 4) + half * kCounters;
    Lanes c0 = Lanes{0, 1, 2, 3, 4, 5, 6, 7} + first;
    Lanes c1 = {}, c2 = Lanes{} + key.position0, c3 = Lanes{} + key.position1;
    uint64_t key0 = key.key0, key1 = key.key1;
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const Lanes p0 = mul_low(c0, kPhiloxM0), p1 = mul_low(c2, kPhiloxM1);
      c0 = (p1 >> 32) ^ c1 ^ key0;
      c1 = p1;
      c2 = (p0 >> 32) ^ c3 ^ key1;
      c3 = p0;
      key0 += kPhiloxW0;
      key1 += kPhiloxW1;
    }
    // Four words of a counter are neighbors in the result: pair them, then interleave the pairs.
    const Lanes front = (c0 & 0xffffffffu) | (c1 << 32), back = (c2 & 0xffffffffu) | (c3 << 32);
    const Lanes low = __builtin_shufflevector(front, back, 0, 8, 1, 9, 2, 10, 3, 11);
    const Lanes high = __builtin_shufflevector(front, back, 4, 12, 5, 13, 6, 14, 7, 15);
    std::memcpy(words + half * kNoiseBlock / 2, &low, sizeof low);
    std::memcpy(words + half * kNoiseBlock / 2 + kNoiseBlock / 4, &high, sizeof high);
  }
}

// noise[j] = g(seed, position, 64 * block + j).
inline void noise_block(const NoiseKey& key, uint32_t block, float noise[kNoiseBlock]) {
  uint32_t words[kNoiseBlock];
  noise_words(key, block, words);
  for (int j = 0; j < kNoiseBlock; ++j) noise[j] = gumbel_from_word(words[j]);
}

}  // namespace hivis::cpu
