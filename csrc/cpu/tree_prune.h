// tree_prune on the CPU.
#pragma once

#include "core/tree_prune_params.h"

namespace hivis::cpu {

void tree_prune(const TreePruneParams& params);

}  // namespace hivis::cpu
