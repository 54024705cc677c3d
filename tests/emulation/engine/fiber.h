// Switching between call stacks, in a few nanoseconds.
#pragma once

#include <cstddef>

namespace emulation {

using Fiber = void*;  // a stack that is not running: where it goes on

// A fiber that will call entry() on this stack. entry must not return.
Fiber make_fiber(char* stack, size_t bytes, void (*entry)());

// Leaves the running stack, whose place goes to *from, and goes on with `to`.
void switch_fiber(Fiber* from, Fiber to);

}  // namespace emulation
