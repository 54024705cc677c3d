// tree_grow_ on the CPU.
#pragma once

#include "core/tree_grow_params.h"

namespace hivis::cpu {

void tree_grow(const TreeGrowParams& params);

}  // namespace hivis::cpu
