// What the stand-ins for CUDA's headers call. Every function here acts for the thread (fiber) that
// is running; all of them live out of line, so that kernels compile quickly and no race checker
// instruments the emulator.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulation {

struct Index3 {
  unsigned x, y, z;
};

// Where in the kernel an operation stands: a default argument takes the caller's place.
struct Where {
  const char* file;
  int line;
  constexpr Where(const char* f = __builtin_FILE(), int l = __builtin_LINE()) : file(f), line(l) {}
};

// --- Launch

// Calls body(context) once per thread of the grid, and returns when all have finished. Returns a
// cudaError_t: 0, or 1 (cudaErrorInvalidValue) if the hardware has no such launch, or
// kFailedLaunch.
constexpr int kFailedLaunch = 719;
int run_grid(Index3 grid, Index3 block, size_t shared_bytes, void (*body)(void*), void* context);

const char* error_text(int error);

// Picks the schedule, and what fresh shared memory holds, of the launches to come.
void set_schedule(uint64_t seed);

// --- Shared memory

char* dynamic_shared();
uint32_t shared_address(const void* shared);

// --- Synchronization

int sync_block(Where where, bool vote = false);  // returns how many threads voted
void sync_warp(unsigned mask, Where where);
void fence();

// --- Warp collectives: each waits until every lane of `mask` has called the same one

enum class Shuffle { kIndex, kXor, kDown };
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int selector, int width, Where where);

unsigned ballot(unsigned mask, bool predicate, Where where);

enum class Reduce { kMax, kMin, kSum };
uint32_t reduce(Reduce kind, uint32_t value, Where where);

void load_matrix(uint32_t* matrix, const void* row, bool transposed, Where where);

enum class Float16 { kBf16, kHalf };
void multiply(Float16 type, float* c, const uint32_t* a, uint32_t b0, uint32_t b1, Where where);

// --- Asynchronous copies

void copy_async(void* shared, const void* global, bool valid, Where where);
void commit_copies();
void wait_copies(int pending);

// --- Atomics; each returns what was there before

uint32_t atomic_add(uint32_t* address, uint32_t value, Where where);
uint64_t atomic_add(uint64_t* address, uint64_t value, Where where);
uint32_t atomic_max(uint32_t* address, uint32_t value, Where where);
uint32_t atomic_min(uint32_t* address, uint32_t value, Where where);

// --- Arithmetic

float half_to_float(uint16_t bits);
uint16_t float_to_half(float x);  // nearest, ties to even; NaN is 0x7fff, as on the hardware
uint16_t float_to_bf16(float x);
float exp2_flushed(float x);  // subnormal arguments and results count as zero

}  // namespace emulation
