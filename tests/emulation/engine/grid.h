// The state of a running grid, and what the parts of the emulator ask of each other.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "emulation/device.h"
#include "engine/fiber.h"

namespace emulation {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxSharedBytes = 99 * 1024;
constexpr int kMaxSlots = 8;  // blocks that are resident at once
constexpr int kMaxWarps = 4 * 1024 / kWarpSize;

struct Block;
struct Warp;

// What threads wait for. Lanes of a warp meet at one operation with one mask, and in one place of
// the source unless it is of no matter.
struct Operation {
  const char* name;
  void (*combine)(void* const* arguments, unsigned mask);  // arguments of lane 0..31
  bool one_place;
};

// An asynchronous copy under way.
struct Copy {
  char* shared;
  const char* global;
  bool valid;
  uint32_t group;  // of its thread, counted by commits
  Where where;
};

// What every switch needs comes first, and shares as few cache lines as possible.
struct alignas(64) Thread {
  Fiber fiber;
  Block* block;
  Warp* warp;
  Index3 index;
  int lane;

  // What it waits for; null: nothing.
  const Operation* operation;
  void* arguments;
  Where where;
  unsigned mask;

  int atomics;  // since it last waited for others
  uint32_t commits;
  int number;  // in its block
  char* stack;
  std::vector<Copy> copies;
};

// Lanes that have arrived at an operation which others have not reached yet.
struct Gathering {
  const Operation* operation;
  unsigned mask;
  unsigned arrived;
  Where where;
};

struct Warp {
  Block* block;
  Thread* threads;
  int number;  // in its block
  int rank;    // in the schedule: small goes first
  unsigned lanes;
  unsigned exited;
  unsigned ready;
  unsigned yielded;  // go on when nobody is ready
  int gatherings;
  Gathering gathering[kWarpSize];
};

struct Block {
  Index3 index;
  uint32_t serial;  // of all blocks ever started
  int slot;
  int size;  // threads
  int live;
  int arrived;  // at the barrier
  int votes;    // of those who have arrived
  int voted;    // at the last barrier
  Where barrier;
  char* shared;
  size_t shared_bytes;
  Thread* threads;
  Warp* warps;
  int warp_count;
};

extern Thread* current;  // the running thread; null outside of a kernel

// --- schedule.cpp: who runs next

enum class Strategy { kRandom, kStraggler, kDescending, kPriority, kAscending };

struct Schedule {
  Strategy strategy;
  unsigned char fill;  // byte of fresh shared memory
};
const Schedule& schedule();
uint64_t random_below(uint64_t bound);
void start_schedule(Warp* warps, int count);
void make_ready(Warp& warp, unsigned lanes);
void made_progress();  // whoever spins may spin on
void passed_barrier(const Block& block);
Thread* next_thread();  // null: all have finished. Reports deadlock and livelock.

// --- grid.cpp: threads and blocks

void wait_for_others();            // the running thread goes on when somebody has made it ready
void yield(bool behind_others);    // the running thread goes on later
[[noreturn]] void abandon_grid();  // after a failure: run_grid returns kFailedLaunch
const std::vector<Block*>& resident_blocks();
uint32_t first_serial();  // of the blocks of this grid

// --- memory.cpp: memory whose end is an inaccessible page

// A buffer. Between its end and the inaccessible page is what its alignment leaves over.
struct Region {
  const char* begin;
  size_t bytes;
  const char* page;
  const char* name;
};
Region map_region(size_t bytes, size_t alignment, const char* name);
Region region_at(const void* begin);
void unmap_region(const Region& region);
const Region* region_near(const void* address);  // whose bytes end at or before it, and not far

// No power of two, which would let all stacks fight for the same few sets of the caches.
constexpr size_t kStackBytes = 68 * 1024;

char* shared_window(int slot, size_t bytes);  // a multiple of 16 bytes
char* stack_of(int slot, int thread, int threads_per_block);
bool is_stack(const void* address);
struct Arena {
  char* memory = nullptr;
  size_t bytes = 0;
  bool holds(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - memory) < bytes;
  }
};
extern Arena shared_arena;  // of all slots
int slot_of_shared(const void* address);

// --- operations.cpp: copies and atomics

// Fails unless these bytes lie in the block's shared memory, aligned to their number.
void check_shared(const char* operation, const void* shared, size_t bytes, Where where);
void finish_copies(Thread& thread);  // fails if there are any

// --- report.cpp, signals.cpp

extern bool exit_on_failure;
extern std::string occasion;  // what is being checked; part of reports
extern uint64_t switches;     // between threads, ever
// Reports what the running thread did, and ends the grid or, with exit_on_failure, the program.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...);
__attribute__((format(printf, 1, 2))) std::string text(const char* format, ...);
std::string describe(Where where);
std::string describe(const Thread& thread);
std::string describe_code(const void* code_address);
void report_deadlock();

// Signals while a grid runs: bad addresses, and threads that never give way.
class SignalGuard {
 public:
  SignalGuard();
  ~SignalGuard();
};

}  // namespace emulation
