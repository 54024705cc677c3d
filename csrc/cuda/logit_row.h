// A row of logits as a warp sees it: eight neighboring tokens a thread, and scores in the order of
// integers.
#pragma once

#include <type_traits>

#include "core/gumbel.h"
#include "cuda/ptx.h"

namespace hivis::cuda {

constexpr int kOctet = 8;                          // neighboring tokens that a thread reads at once
constexpr int kSpan = kWarp * kOctet;              // a warp's tokens
constexpr float kLowest = -__builtin_huge_valf();  // -inf

HIVIS_HD constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// --- Scores as integers

// Integers in the order of the floats; both zeros are one. NaN comes first where it is looked for.
constexpr uint32_t kNanKey = 0xffffffffu;
constexpr uint32_t kInfinityKey = 0xff800000u;
constexpr uint32_t kLowestKey = 0x007fffffu;

__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(add_rn(x, 0.0f));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// A token and its score's key in one integer, the better one greater: ties go to the lowest token.
// 0 is no token.
__device__ __forceinline__ uint64_t pack_best(uint32_t key, int token) {
  return static_cast<uint64_t>(key) << 32 | ~static_cast<uint32_t>(token);
}

__device__ __forceinline__ uint64_t greater(uint64_t a, uint64_t b) { return a > b ? a : b; }

__device__ __forceinline__ uint64_t warp_best(uint64_t best) {
  const uint32_t mine = static_cast<uint32_t>(best >> 32), key = warp_max(mine);
  const uint32_t low = warp_max(mine == key ? static_cast<uint32_t>(best) : 0u);
  return static_cast<uint64_t>(key) << 32 | low;
}

// --- A row

// Eight neighboring logits, as they lie in memory.
template <class T>
struct Octet {
  static constexpr int kWords = kOctet * sizeof(T) / 4;
  uint32_t word[kWords];

  __device__ __forceinline__ float operator[](int j) const {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(word[j]);
    } else {
      return to_float(T{static_cast<uint16_t>(word[j / 2] >> (j % 2 * 16))});
    }
  }
};

template <class T>
struct Row {
  const T* logits;
  int vocab;
  float temperature;
  bool vectors;  // may be read 16 bytes at a time

  // Tokens first..first + 7; -inf stands for those beyond the vocabulary.
  __device__ __forceinline__ Octet<T> load(int first) const {
    Octet<T> octet;
    if (vectors && first + kOctet <= vocab) {
      const uint4* from = reinterpret_cast<const uint4*>(logits + first);
#pragma unroll
      for (int i = 0; i < Octet<T>::kWords / 4; ++i) {
        const uint4 words = from[i];
        octet.word[4 * i] = words.x;
        octet.word[4 * i + 1] = words.y;
        octet.word[4 * i + 2] = words.z;
        octet.word[4 * i + 3] = words.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < Octet<T>::kWords; ++i) {
        if constexpr (sizeof(T) == 4) {
          octet.word[i] = __float_as_uint(first + i < vocab ? logits[first + i] : kLowest);
        } else {
          octet.word[i] = bits(first + 2 * i) | bits(first + 2 * i + 1) << 16;
        }
      }
    }
    return octet;
  }

  // x = logit / T; at T = 0 the logits themselves.
  __device__ __forceinline__ void scale(const Octet<T>& octet, float (&x)[kOctet]) const {
#pragma unroll
    for (int j = 0; j < kOctet; ++j) x[j] = octet[j];
    if (temperature == 0.0f || temperature == 1.0f) return;
#pragma unroll
    for (int j = 0; j < kOctet; ++j) x[j] = div_rn(x[j], temperature);
  }

  // x of one token; T > 0.
  __device__ float at(int64_t token) const { return div_rn(to_float(logits[token]), temperature); }

 private:
  __device__ __forceinline__ uint32_t bits(int token) const {
    constexpr uint32_t kLowestBits = std::is_same_v<T, Bf16> ? 0xff80u : 0xfc00u;
    return token < vocab ? logits[token].bits : kLowestBits;
  }
};

__device__ __forceinline__ void octet_noise(const NoiseKey& key, int first,
                                            float (&noise)[kOctet]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const PhiloxWords words =
        philox4x32({{static_cast<uint32_t>(first / 4 + half), 0, key.position0, key.position1}},
                   key.key0, key.key1);
#pragma unroll
    for (int j = 0; j < 4; ++j) noise[4 * half + j] = gumbel_from_word(words.x[j]);
  }
}

}  // namespace hivis::cuda
