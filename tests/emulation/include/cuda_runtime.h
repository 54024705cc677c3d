// Stand-in for CUDA's header of this name: exactly those built-ins that the kernels may use. What
// is missing here is missing on purpose, and must not compile.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>  // some standard headers use the name __noinline__ themselves: they come first
#include <type_traits>

#include "emulation/device.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

// --- Types

struct __align__(8) uint2 {
  unsigned x, y;
};
struct __align__(16) uint4 {
  unsigned x, y, z, w;
};
struct __align__(8) float2 {
  float x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using uint3 = emulation::Index3;
struct dim3 : uint3 {
  constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : uint3{nx, ny, nz} {}
};

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
template <class T>
cudaError_t cudaGetSymbolAddress(void** address, T& symbol) {
  *address = &symbol;
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) { return emulation::error_text(error); }

// --- Who am I: set whenever another thread starts to run

extern uint3 threadIdx, blockIdx, blockDim, gridDim;

// --- Synchronization

inline void __syncthreads(emulation::Where where = {}) { emulation::sync_block(where); }
inline int __syncthreads_count(int predicate, emulation::Where where = {}) {
  return emulation::sync_block(where, predicate != 0);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, emulation::Where where = {}) {
  emulation::sync_warp(mask, where);
}
inline void __threadfence() { emulation::fence(); }

// --- Warp collectives

namespace emulation {

template <class T>
T shuffle_bits(Shuffle kind, unsigned mask, T value, int selector, int width, Where where) {
  static_assert(std::is_same_v<T, float> || (std::is_integral_v<T> && sizeof(T) >= 4),
                "shuffle: wanted a 32-bit or 64-bit integer or a float");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(kind, mask, bits, selector, width, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, emulation::Where where = {}) {
  return emulation::shuffle_bits(emulation::Shuffle::kIndex, mask, value, lane, width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, emulation::Where where = {}) {
  return emulation::shuffle_bits(emulation::Shuffle::kXor, mask, value, lanes, width, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emulation::Where where = {}) {
  return emulation::shuffle_bits(emulation::Shuffle::kDown, mask, value, static_cast<int>(delta),
                                 width, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, emulation::Where where = {}) {
  return emulation::ballot(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, emulation::Where where = {}) {
  return emulation::ballot(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emulation::Where where = {}) {
  return emulation::ballot(mask, predicate != 0, where) == mask;
}

// --- Atomics

inline unsigned atomicAdd(unsigned* address, unsigned value, emulation::Where where = {}) {
  return emulation::atomic_add(address, value, where);
}
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value,
                                    emulation::Where where = {}) {
  return emulation::atomic_add(reinterpret_cast<uint64_t*>(address), uint64_t{value}, where);
}
inline unsigned atomicMax(unsigned* address, unsigned value, emulation::Where where = {}) {
  return emulation::atomic_max(address, value, where);
}
inline unsigned atomicMin(unsigned* address, unsigned value, emulation::Where where = {}) {
  return emulation::atomic_min(address, value, where);
}

// --- Bits

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline float __uint_as_float(unsigned x) {
  float result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}
inline unsigned __float_as_uint(float x) {
  unsigned result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}
