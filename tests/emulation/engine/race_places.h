// Where accesses are, in memory and in the source.
#pragma once

#include "engine/grid.h"

namespace emulation {

// `place`: a line number below 2^20, or the low half of an address in the code.
std::string place_text(uint32_t place);
std::string memory_text(const Thread& thread, const void* address);

// Fails if the bytes are not all in the block's shared memory or in one buffer. Returns false for
// memory that is neither, which is of no matter.
bool check_bounds(const Thread& thread, const void* address, size_t bytes, uint32_t place);
void forget_regions();  // buffers come and go between grids

}  // namespace emulation
