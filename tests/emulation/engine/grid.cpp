// Runs a grid: some blocks at a time, each thread on a stack of its own.
#include "engine/grid.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>

#include "engine/race.h"

emulation::Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

Thread* current = nullptr;
uint64_t switches = 0;
RaceChecker* race = nullptr;

namespace {

// Garbage that a new thread finds on its stack, where variables without a value will lie.
constexpr size_t kStackGarbage = 6 * 1024;
constexpr uint64_t kCanary = 0x5afe57ac5afe57acu;

struct Abandoned {};

struct Grid {
  Index3 size, block_size;
  size_t shared_bytes;
  void (*body)(void*);
  void* context;

  std::vector<uint64_t> order;  // of the blocks
  size_t started = 0;
  uint32_t first_serial;
  std::vector<std::unique_ptr<Block>> blocks;  // one per slot
  std::vector<Block*> resident;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Block* finished = nullptr;  // its slot is free
  bool abandoned = false;
};

Grid* grid = nullptr;
Fiber main_fiber;
uint32_t blocks_ever = 0;

void resume(Thread* next) {
  Thread* const before = current;
  current = next;
  ++switches;
  threadIdx = next->index;
  blockIdx = next->block->index;
  switch_fiber(before != nullptr ? &before->fiber : &main_fiber, next->fiber);
}

void leave_for_main() {
  Thread* const before = current;
  current = nullptr;
  switch_fiber(&before->fiber, main_fiber);
}

void finish_thread() {
  Thread& thread = *current;
  Warp& warp = *thread.warp;
  Block& block = *thread.block;
  for (int i = 0; i < warp.gatherings; ++i) {
    const Gathering& g = warp.gathering[i];
    if ((g.mask >> thread.lane & 1) != 0) {
      fail("thread exits while lanes %08x of its warp wait for it at %s, %s", g.arrived,
           g.operation->name, describe(g.where).c_str());
    }
  }
  if (block.arrived > 0) {
    fail("thread exits while %d threads of its block wait for it at __syncthreads, %s",
         block.arrived, describe(block.barrier).c_str());
  }
  finish_copies(thread);
  if (*reinterpret_cast<uint64_t*>(thread.stack) != kCanary) fail("stack overflow");
  warp.exited |= 1u << thread.lane;
  made_progress();
  if (--block.live == 0) {
    grid->finished = &block;
    leave_for_main();
  } else if (Thread* next = next_thread()) {
    resume(next);
  }
  __builtin_unreachable();
}

void thread_entry() {
  grid->body(grid->context);
  finish_thread();
}

void start_block(Block& block) {
  const uint64_t number = grid->order[grid->started++];
  const Index3& size = grid->size;
  block.index = {static_cast<unsigned>(number % size.x),
                 static_cast<unsigned>(number / size.x % size.y),
                 static_cast<unsigned>(number / size.x / size.y)};
  block.serial = ++blocks_ever;
  block.live = block.size;
  block.arrived = block.votes = block.voted = 0;
  block.shared_bytes = grid->shared_bytes;
  block.shared = shared_window(block.slot, (grid->shared_bytes + 15) / 16 * 16);
  std::memset(block.shared, schedule().fill, grid->shared_bytes);
  for (int w = 0; w < block.warp_count; ++w) {
    Warp& warp = block.warps[w];
    warp.exited = warp.ready = warp.yielded = 0;
    warp.gatherings = 0;
    make_ready(warp, warp.lanes);
  }
  for (int i = 0; i < block.size; ++i) {
    Thread& thread = block.threads[i];
    thread.operation = nullptr;
    thread.atomics = 0;
    thread.commits = 0;
    thread.copies.clear();
    std::memcpy(thread.stack, &kCanary, sizeof kCanary);
    // Tops of stacks at different places of the pages: they would all share a few cache sets.
    const size_t bytes = kStackBytes - static_cast<size_t>(i) * 192 % 4096;
    std::memset(thread.stack + bytes - kStackGarbage, 0xff, kStackGarbage);
    thread.fiber = make_fiber(thread.stack, bytes, thread_entry);
  }
  if (race != nullptr) race->start_block(block);
}

void set_up_slots() {
  const Index3& b = grid->block_size;
  const int threads = static_cast<int>(b.x * b.y * b.z);
  const int warps = (threads + kWarpSize - 1) / kWarpSize;
  const int room = std::clamp(4096 / (warps * kWarpSize), 4, kMaxSlots);
  const int slots = static_cast<int>(std::min<uint64_t>(room, grid->order.size()));
  grid->threads.resize(static_cast<size_t>(slots * threads));
  grid->warps.resize(static_cast<size_t>(slots * warps));
  for (int slot = 0; slot < slots; ++slot) {
    auto block = std::make_unique<Block>();
    block->slot = slot;
    block->size = threads;
    block->live = 0;
    block->threads = &grid->threads[static_cast<size_t>(slot * threads)];
    block->warps = &grid->warps[static_cast<size_t>(slot * warps)];
    block->warp_count = warps;
    for (int w = 0; w < warps; ++w) {
      Warp& warp = block->warps[w];
      warp = Warp{};
      warp.block = block.get();
      warp.number = w;
      warp.threads = block->threads + w * kWarpSize;
      const int lanes = std::min(kWarpSize, threads - w * kWarpSize);
      warp.lanes = lanes == kWarpSize ? kAllLanes : (1u << lanes) - 1;
    }
    for (int i = 0; i < threads; ++i) {
      Thread& thread = block->threads[i];
      const unsigned number = static_cast<unsigned>(i);
      thread.block = block.get();
      thread.warp = &block->warps[i / kWarpSize];
      thread.number = i;
      thread.lane = i % kWarpSize;
      thread.index = {number % b.x, number / b.x % b.y, number / b.x / b.y};
      thread.stack = stack_of(slot, i, threads);
    }
    grid->resident.push_back(block.get());
    grid->blocks.push_back(std::move(block));
  }
}

void order_blocks() {
  const Strategy strategy = schedule().strategy;
  if (strategy == Strategy::kDescending) {
    std::reverse(grid->order.begin(), grid->order.end());
  } else if (strategy != Strategy::kAscending) {
    for (size_t i = grid->order.size() - 1; i > 0; --i) {
      std::swap(grid->order[i], grid->order[random_below(i + 1)]);
    }
  }
}

void run_to_the_end() {
  const Index3& size = grid->size;
  grid->order.resize(uint64_t{size.x} * size.y * size.z);
  std::iota(grid->order.begin(), grid->order.end(), uint64_t{0});
  set_up_slots();
  start_schedule(grid->warps.data(), static_cast<int>(grid->warps.size()));
  order_blocks();
  for (Block* block : grid->resident) start_block(*block);
  while (Thread* next = next_thread()) {
    resume(next);
    if (grid->abandoned) throw Abandoned{};
    if (grid->started < grid->order.size()) start_block(*grid->finished);
  }
}

bool possible(const Index3& size, const Index3& block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return size.x > 0 && size.y > 0 && size.z > 0 && size.x <= 0x7fffffffu && size.y <= 65535 &&
         size.z <= 65535 && threads > 0 && threads <= kMaxThreads && block.x <= kMaxThreads &&
         block.y <= kMaxThreads && block.z <= 64 && shared_bytes <= kMaxSharedBytes;
}

}  // namespace

const std::vector<Block*>& resident_blocks() { return grid->resident; }
uint32_t first_serial() { return grid->first_serial; }

int run_grid(Index3 size, Index3 block, size_t shared_bytes, void (*body)(void*), void* context) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  if (!possible(size, block, shared_bytes)) return 1;
  Grid the_grid{};
  the_grid.size = gridDim = size;
  the_grid.block_size = blockDim = block;
  the_grid.first_serial = blocks_ever + 1;
  the_grid.shared_bytes = shared_bytes;
  the_grid.body = body;
  the_grid.context = context;
  grid = &the_grid;
  if (race != nullptr) race->start_grid();
  const SignalGuard signals;
  int result = 0;
  try {
    run_to_the_end();
  } catch (const Abandoned&) {
    result = kFailedLaunch;
  }
  grid = nullptr;
  return result;
}

void wait_for_others() {
  Thread* const next = next_thread();
  if (next != current) resume(next);
}

void yield(bool behind_others) {
  const unsigned lane = 1u << current->lane;
  if (behind_others) {
    current->warp->yielded |= lane;
  } else {
    make_ready(*current->warp, lane);
  }
  wait_for_others();
}

void abandon_grid() {
  if (current == nullptr) throw Abandoned{};
  grid->abandoned = true;
  leave_for_main();
  __builtin_unreachable();
}

}  // namespace emulation
