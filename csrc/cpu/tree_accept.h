// tree_accept on the CPU.
#pragma once

#include "core/tree_accept_params.h"

namespace hivis::cpu {

void tree_accept(const TreeAcceptParams& params);

}  // namespace hivis::cpu
