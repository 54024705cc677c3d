// Stand-in for csrc/cuda/ptx.h: the same functions, emulated.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hivis::cuda {

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

// --- Shared memory

inline char* dynamic_shared() { return emulation::dynamic_shared(); }
inline uint32_t shared_address(const void* shared) { return emulation::shared_address(shared); }

// --- Order in memory

inline void fence() { emulation::fence(); }

// --- Asynchronous copies

inline void cp_async(void* shared, const void* global, bool valid, emulation::Where where = {}) {
  emulation::copy_async(shared, global, valid, where);
}
inline void cp_async_commit() { emulation::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  static_assert(kPending >= 0);
  emulation::wait_copies(kPending);
}

// --- Tensor cores

inline void ldmatrix(uint32_t (&matrix)[4], const void* row, emulation::Where where = {}) {
  emulation::load_matrix(matrix, row, false, where);
}
inline void ldmatrix_transposed(uint32_t (&matrix)[4], const void* row,
                                emulation::Where where = {}) {
  emulation::load_matrix(matrix, row, true, where);
}

template <class T>
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
         emulation::Where where = {}) {
  static_assert(std::is_same_v<T, Bf16> || std::is_same_v<T, Half>);
  constexpr auto kType =
      std::is_same_v<T, Bf16> ? emulation::Float16::kBf16 : emulation::Float16::kHalf;
  emulation::multiply(kType, c, a, b0, b1, where);
}

// --- Conversions

inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(Half x) { return emulation::half_to_float(x.bits); }

template <class T>
uint32_t pack(float low, float high) {
  static_assert(std::is_same_v<T, Bf16> || std::is_same_v<T, Half>);
  const auto round = std::is_same_v<T, Bf16> ? emulation::float_to_bf16 : emulation::float_to_half;
  return round(low) | static_cast<uint32_t>(round(high)) << 16;
}

inline float exp2_approx(float x) { return emulation::exp2_flushed(x); }

// --- Reductions

inline uint32_t warp_max(uint32_t x, emulation::Where where = {}) {
  return emulation::reduce(emulation::Reduce::kMax, x, where);
}
inline uint32_t warp_min(uint32_t x, emulation::Where where = {}) {
  return emulation::reduce(emulation::Reduce::kMin, x, where);
}
inline uint32_t warp_sum(uint32_t x, emulation::Where where = {}) {
  return emulation::reduce(emulation::Reduce::kSum, x, where);
}

}  // namespace hivis::cuda
