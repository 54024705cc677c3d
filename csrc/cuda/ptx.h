// Every instruction that CUDA C++ has no plain name for, one function each. Only kernels include
// this file, and they contain no assembly of their own: to run them elsewhere, replace this file
// and launch.h.
//
// Fragment layouts are those of the PTX manual, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".
// With lane = 4 * group + member (group 0..7, member 0..3):
//   A  16 x 16   a[0]: row group, a[1]: row group + 8, columns 2 * member, + 1;
//                a[2], a[3]: the same rows, columns 2 * member + 8, + 9
//   B  16 x 8    b[0]: rows 2 * member, + 1, b[1]: rows 2 * member + 8, + 9; column group
//   C  16 x 8    c[0], c[1]: row group, c[2], c[3]: row group + 8; columns 2 * member, + 1
// The lower half of a 32-bit register holds the element with the lower index.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hivis::cuda {

// 16-bit floats as they lie in memory.
struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

// --- Shared memory

// The block's dynamic shared memory, aligned to 16 bytes. Kernels use no other kind.
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// --- Order in memory

// With a relaxed atomic before or after it: what this thread has seen and written before is seen by
// whoever finds the atomic's value. __threadfence orders all threads' fences among each other, too,
// which nobody here needs and every caller would wait for.
__device__ __forceinline__ void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// --- Asynchronous copies, global to shared

// Copies 16 bytes, or writes 16 zero bytes and reads nothing if `valid` is false. Both addresses
// are multiples of 16.
__device__ __forceinline__ void cp_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}

// Closes this thread's current group of copies.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most kPending of this thread's groups are under way. Other threads' copies are
// visible after a barrier that follows their wait.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- Tensor cores

// Four 8 x 8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8
// (16 bytes, aligned), and gets row lane / 4, elements 2 * (lane % 4), + 1 of each matrix.
__device__ __forceinline__ void ldmatrix(uint32_t (&matrix)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, each matrix transposed: a lane gets column lane / 4, rows 2 * (lane % 4), + 1.
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&matrix)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += A B, with A 16 x 16, B 16 x 8 (b0, b1) and c 16 x 8 in fp32.
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1);

template <>
__device__ __forceinline__ void mma<Bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<Half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- Conversions

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(Bf16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
__device__ __forceinline__ float to_float(Half x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}

// Two values rounded to nearest, ties to even, packed into one word: `low` in the lower half.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<Bf16>(float low, float high) {
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

template <>
__device__ __forceinline__ uint32_t pack<Half>(float low, float high) {
  uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

// 2^x within two units in the last place; 2^-inf = 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// --- Reductions over all 32 lanes of a warp, in one instruction; every lane gets the result

__device__ __forceinline__ uint32_t warp_max(uint32_t x) { return __reduce_max_sync(kAllLanes, x); }
__device__ __forceinline__ uint32_t warp_min(uint32_t x) { return __reduce_min_sync(kAllLanes, x); }
__device__ __forceinline__ uint32_t warp_sum(uint32_t x) { return __reduce_add_sync(kAllLanes, x); }

}  // namespace hivis::cuda
