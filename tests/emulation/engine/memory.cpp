// Where everything lies: the arenas of stacks and of shared memory, and the buffers of check
// programs. Each ends at an inaccessible page.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "engine/grid.h"

namespace emulation {

Arena shared_arena;

namespace {

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t whole_pages(size_t bytes) {
  return (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

char* map_pages(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "emulation: wanted %zu bytes of memory, got none\n", bytes);
    std::abort();
  }
  return static_cast<char*>(memory);
}

Arena stack_arena;

size_t window_bytes() { return whole_pages(kMaxSharedBytes) + page_bytes(); }

std::map<const void*, Region>& regions() {
  static std::map<const void*, Region> the_regions;
  return the_regions;
}

}  // namespace

Region map_region(size_t bytes, size_t alignment, const char* name) {
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  const size_t pages = whole_pages(rounded + 1);
  char* const memory = map_pages(pages + page_bytes());
  mprotect(memory + pages, page_bytes(), PROT_NONE);
  const Region region{memory + pages - rounded, bytes, memory + pages, name};
  regions()[region.begin] = region;
  return region;
}

Region region_at(const void* begin) { return regions().at(begin); }

void unmap_region(const Region& region) {
  const size_t pages = whole_pages(static_cast<size_t>(region.page - region.begin) + 1);
  munmap(const_cast<char*>(region.page) - pages, pages + page_bytes());
  regions().erase(region.begin);
}

char* shared_window(int slot, size_t bytes) {
  if (shared_arena.memory == nullptr) {
    shared_arena.bytes = kMaxSlots * window_bytes();
    shared_arena.memory = map_pages(shared_arena.bytes);
    for (int i = 1; i <= kMaxSlots; ++i) {
      mprotect(shared_arena.memory + static_cast<size_t>(i) * window_bytes() - page_bytes(),
               page_bytes(), PROT_NONE);
    }
  }
  return shared_arena.memory + static_cast<size_t>(slot + 1) * window_bytes() - page_bytes() -
         bytes;
}

char* stack_of(int slot, int thread, int threads_per_block) {
  const size_t wanted = kMaxSlots * size_t{kMaxThreads} / 2 * kStackBytes;
  if (stack_arena.memory == nullptr) stack_arena = {map_pages(wanted), wanted};
  return stack_arena.memory + static_cast<size_t>(slot * threads_per_block + thread) * kStackBytes;
}

bool is_stack(const void* address) { return stack_arena.holds(address); }

int slot_of_shared(const void* address) {
  return static_cast<int>(
      static_cast<size_t>(static_cast<const char*>(address) - shared_arena.memory) /
      window_bytes());
}

const Region* region_near(const void* address) {
  auto next = regions().upper_bound(address);
  if (next == regions().begin()) return nullptr;
  const Region& region = std::prev(next)->second;
  constexpr ptrdiff_t kNear = 1 << 24;
  return static_cast<const char*>(address) - region.page < kNear ? &region : nullptr;
}

}  // namespace emulation
