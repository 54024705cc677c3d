// Vectors for the CPU kernels, in the compiler's own vector types: one source for AVX-512, AVX2 and
// anything else. Intrinsics appear only for the bf16 dot product, which has no portable spelling.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#define HIVIS_BF16_DOT 1
#else
#define HIVIS_BF16_DOT 0
#endif

namespace hivis::cpu {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));

template <class V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

template <class V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

inline Vec splat(float x) { return x - Vec{}; }
inline VecU splat(uint32_t x) { return x + VecU{}; }

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// 2^x for x <= 0, relative error 1e-7; exactly 0 below 2^-126, NaN for NaN.
inline Vec exp2(Vec x) {
  // Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits.
  const Vec shifted = x + 12582912.f;
  const Vec f = x - (shifted - 12582912.f);
  Vec p = f * 1.326472731307149e-3f + 9.671512991189957e-3f;
  p = p * f + 5.550733581185341e-2f;
  p = p * f + 2.4022242426872253e-1f;
  p = p * f + 6.931470036506653e-1f;
  p = p * f + 1.f;
  const Vec scaled = (Vec)((VecU)p + ((VecU)shifted << 23));
  return x < -126.f ? Vec{} : scaled;
}

// --- Moves across lanes

template <int kStep, class V, size_t... I>
inline V zip(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(
      a, b, static_cast<int>((I & 1) * kLanes + I / 2 + kStep * kLanes / 2)...);
}

// a[0], b[0], a[1], b[1], ... from the lower halves (kHigh = 0) or the upper halves (kHigh = 1).
template <int kHigh, class V>
inline V zip(V a, V b) {
  return zip<kHigh>(a, b, std::make_index_sequence<kLanes>());
}

// Turns kLanes rows into kLanes columns: log2(kLanes) perfect shuffles.
template <class V>
inline void transpose(V (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    V next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = zip<0>(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = zip<1>(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// Lane i of the result is the sum over the lanes of rows[i]. The order of the sum is fixed.
inline Vec sum_each(Vec (&rows)[kLanes]) {
  // Each round interleaves row i with row i + half and adds the two halves of the result, so that
  // the lanes end up in the order of the rows.
#pragma GCC unroll 4
  for (int half = kLanes / 2; half >= 1; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      rows[i] = zip<0>(rows[i], rows[i + half]) + zip<1>(rows[i], rows[i + half]);
    }
  }
  return rows[0];
}

inline float max_lane(Vec v) {
  float most = v[0];
  for (int i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

inline float sum_lanes(Vec v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// --- Units: what one multiply-add contracts. One fp32 number, or two neighboring bf16 numbers.

struct Bf16 {
  uint16_t bits;
};

inline float to_float(Bf16 x) {
  const uint32_t bits = uint32_t{x.bits} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline Bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {
      static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // nearest, ties to even
}

struct Fp16 {
  _Float16 value;
};

inline float to_float(Fp16 x) { return static_cast<float>(x.value); }
inline float to_float(float x) { return x; }

inline void from_float(float x, float* to) { *to = x; }
inline void from_float(float x, Bf16* to) { *to = to_bf16(x); }
inline void from_float(float x, Fp16* to) { to->value = static_cast<_Float16>(x); }

inline Vec multiply_add(Vec sum, Vec a, Vec b) { return sum + a * b; }

#if HIVIS_BF16_DOT
inline void store_bf16(Bf16* to, Vec value) {
  store(to, (__m256i)_mm512_cvtneps_pbh((__m512)value));
}

// sum + a.low * b.low + a.high * b.high in every lane.
inline Vec multiply_add(Vec sum, VecU a, VecU b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// Lane i: bf16 of low[i] in the low half, bf16 of high[i] in the high half.
inline VecU pack_bf16(Vec low, Vec high) {
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (VecU)_mm512_permutexvar_epi16(order, halves);
}
#else
inline void store_bf16(Bf16* to, Vec value) {
  for (int i = 0; i < kLanes; ++i) to[i] = to_bf16(value[i]);
}
#endif

inline void store_as(float* to, Vec value) { store(to, value); }
inline void store_as(Bf16* to, Vec value) { store_bf16(to, value); }
inline void store_as(Fp16* to, Vec value) {
  for (int i = 0; i < kLanes; ++i) from_float(value[i], to + i);
}

}  // namespace hivis::cpu
