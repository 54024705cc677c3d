#include "engine/race_places.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace emulation {
namespace {

constexpr uint32_t kLines = 1u << 20;

// Kernels go from one buffer to another and back, so the last few are at hand.
constexpr size_t kAtHand = 4;
Region at_hand[kAtHand];
size_t next_at_hand = 0;

// The buffer that holds this byte, or the gap behind it; null: none.
const Region* region_of(const void* address) {
  const char* byte = static_cast<const char*>(address);
  for (const Region& region : at_hand) {
    if (byte >= region.begin && byte < region.page) return &region;
  }
  const Region* region = region_near(address);
  if (region == nullptr || byte >= region->page) return nullptr;
  at_hand[next_at_hand] = *region;
  return &at_hand[std::exchange(next_at_hand, (next_at_hand + 1) % kAtHand)];
}

}  // namespace

void forget_regions() { std::fill(std::begin(at_hand), std::end(at_hand), Region{}); }

std::string place_text(uint32_t place) {
  if (place < kLines) return text("line %u", place);
  // All code lies within 2 GiB of this function.
  const char* const here = reinterpret_cast<const char*>(&place_text);
  const auto low = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(here));
  // The place is where a call returned to; the call itself is before it.
  return describe_code(here + static_cast<int32_t>(place - low) - 1);
}

std::string memory_text(const Thread& thread, const void* address) {
  const char* const byte = static_cast<const char*>(address);
  if (shared_arena.holds(address)) {
    return text("offset %td of shared memory", byte - thread.block->shared);
  }
  const Region* region = region_of(address);
  return text("byte %td of %s", byte - region->begin, region->name);
}

bool check_bounds(const Thread& thread, const void* address, size_t bytes, uint32_t place) {
  const char* begin = nullptr;
  size_t size = 0;
  const char* name = "shared memory";
  if (shared_arena.holds(address)) {
    begin = thread.block->shared;
    size = thread.block->shared_bytes;
  } else if (const Region* region = region_of(address)) {
    begin = region->begin;
    size = region->bytes;
    name = region->name;
  } else {
    return false;
  }
  const ptrdiff_t offset = static_cast<const char*>(address) - begin;
  if (offset < 0 || static_cast<size_t>(offset) + bytes > size) {
    fail("out of bounds: %zu bytes at offset %td of %zu bytes of %s, %s", bytes, offset, size, name,
         place_text(place).c_str());
  }
  return true;
}

}  // namespace emulation
