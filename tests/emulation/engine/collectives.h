// Meeting of the lanes of a warp.
#pragma once

#include "engine/grid.h"

namespace emulation {

// The running lane arrives at `operation` with its arguments; when all lanes of `mask` have, the
// last one combines, and all of them go on.
void meet(const Operation& operation, unsigned mask, Where where, void* arguments);

// f(lane, arguments of that lane)
template <class Arguments, class F>
void for_each_lane(void* const* arguments, unsigned mask, F f) {
  for (unsigned left = mask; left != 0; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    f(lane, *static_cast<Arguments*>(arguments[lane]));
  }
}

}  // namespace emulation
