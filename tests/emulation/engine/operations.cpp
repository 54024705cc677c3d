// Fences, atomics and asynchronous copies.
#include <algorithm>
#include <cstring>

#include "engine/race.h"

namespace emulation {
namespace {

constexpr size_t kCopyBytes = 16;
constexpr uint32_t kWindowOffset = 1024;  // of shared memory: what the hardware keeps for itself
constexpr int kPatience = 16;             // atomics in a row before a thread counts as spinning

// At fences and atomics others may come in between.
void maybe_yield() {
  const Strategy strategy = schedule().strategy;
  const bool by_lot = strategy == Strategy::kRandom || strategy == Strategy::kPriority;
  if (by_lot && random_below(4) == 0) yield(false);
}

template <class T, class F>
T atomic(T* address, Where where, F change) {
  Thread& thread = *current;
  if (is_stack(address)) fail("atomic: wanted shared or global memory, got a local variable");
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    fail("atomic: wanted an address aligned to %zu bytes, got %p, %s", sizeof(T),
         static_cast<void*>(address), describe(where).c_str());
  }
  maybe_yield();
  if (race != nullptr) {
    race->access(thread, address, sizeof(T), Access::kAtomic, static_cast<uintptr_t>(where.line));
    race->atomic(thread, address);
  }
  const T before = *address;
  *address = change(before);
  if (++thread.atomics > kPatience) yield(true);
  return before;
}

void land(Thread& thread, const Copy& copy) {
  if (copy.valid) {
    std::memcpy(copy.shared, copy.global, kCopyBytes);
  } else {
    std::memset(copy.shared, 0, kCopyBytes);
  }
  if (race != nullptr) race->end_copy(thread, copy);
}

}  // namespace

void fence() {
  if (race != nullptr) race->fence(*current);
  maybe_yield();
}

uint32_t atomic_add(uint32_t* address, uint32_t value, Where where) {
  return atomic(address, where, [=](uint32_t x) { return x + value; });
}
uint64_t atomic_add(uint64_t* address, uint64_t value, Where where) {
  return atomic(address, where, [=](uint64_t x) { return x + value; });
}
uint32_t atomic_max(uint32_t* address, uint32_t value, Where where) {
  return atomic(address, where, [=](uint32_t x) { return std::max(x, value); });
}
uint32_t atomic_min(uint32_t* address, uint32_t value, Where where) {
  return atomic(address, where, [=](uint32_t x) { return std::min(x, value); });
}

char* dynamic_shared() { return current->block->shared; }

uint32_t shared_address(const void* shared) {
  const Block& block = *current->block;
  const ptrdiff_t offset = static_cast<const char*>(shared) - block.shared;
  if (offset < 0 || offset > static_cast<ptrdiff_t>(block.shared_bytes)) {
    fail("shared_address: wanted an address in the block's %zu bytes of shared memory, got %p",
         block.shared_bytes, shared);
  }
  return kWindowOffset + static_cast<uint32_t>(offset);
}

void check_shared(const char* operation, const void* shared, size_t bytes, Where where) {
  const Block& block = *current->block;
  const ptrdiff_t offset = static_cast<const char*>(shared) - block.shared;
  if (offset < 0 || offset + bytes > block.shared_bytes || offset % bytes != 0) {
    fail("%s: wanted %zu aligned bytes within %zu bytes of shared memory, got offset %td, %s",
         operation, bytes, block.shared_bytes, offset, describe(where).c_str());
  }
}

void copy_async(void* shared, const void* global, bool valid, Where where) {
  check_shared("cp_async", shared, kCopyBytes, where);
  if (reinterpret_cast<uintptr_t>(global) % kCopyBytes != 0) {
    fail("cp_async: wanted a source aligned to 16 bytes, got %p, %s", global,
         describe(where).c_str());
  }
  if (valid && (shared_arena.holds(global) || is_stack(global))) {
    fail("cp_async: wanted a source in global memory, %s", describe(where).c_str());
  }
  Thread& thread = *current;
  const Copy copy{static_cast<char*>(shared), static_cast<const char*>(global), valid,
                  thread.commits, where};
  if (race != nullptr) race->start_copy(thread, copy);
  // Neither what was there before nor what will come may be used before the wait.
  std::memset(shared, 0xff, kCopyBytes);
  thread.copies.push_back(copy);
}

void commit_copies() { ++current->commits; }

void wait_copies(int pending) {
  Thread& thread = *current;
  size_t landed = 0;
  while (landed < thread.copies.size() &&
         thread.copies[landed].group + static_cast<uint32_t>(pending) < thread.commits) {
    land(thread, thread.copies[landed++]);
  }
  thread.copies.erase(thread.copies.begin(),
                      thread.copies.begin() + static_cast<ptrdiff_t>(landed));
}

void finish_copies(Thread& thread) {
  if (!thread.copies.empty()) {
    fail("thread exits with %zu asynchronous copies under way, the first from %s",
         thread.copies.size(), describe(thread.copies.front().where).c_str());
  }
}

}  // namespace emulation
