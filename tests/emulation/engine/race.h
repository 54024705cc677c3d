// The race checker, linked into some programs only; the emulator tells it what happens. Accesses by
// the kernel itself come from the compiler's instrumentation (race_hooks.cpp).
#pragma once

#include "engine/grid.h"

namespace emulation {

enum class Access { kRead, kWrite, kAtomic };

class RaceChecker {
 public:
  virtual ~RaceChecker() = default;
  virtual void start_grid() = 0;
  virtual void start_block(Block& block) = 0;
  virtual void sync_block(Block& block) = 0;
  virtual void sync_warp(Warp& warp, unsigned mask) = 0;
  virtual void fence(Thread& thread) = 0;
  // After the access of kind kAtomic.
  virtual void atomic(Thread& thread, const void* address) = 0;
  // `place`: an address in the code, or the line number if it is below 2^20.
  virtual void access(Thread& thread, const void* address, size_t bytes, Access kind,
                      uintptr_t place) = 0;
  // From start_copy to end_copy nobody may touch these 16 bytes; then they are written.
  virtual void start_copy(Thread& thread, const Copy& copy) = 0;
  virtual void end_copy(Thread& thread, const Copy& copy) = 0;
};

extern RaceChecker* race;  // null: not linked in

}  // namespace emulation
