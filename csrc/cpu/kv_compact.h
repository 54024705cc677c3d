// kv_compact_ on the CPU.
#pragma once

#include "core/kv_compact_params.h"

namespace hivis::cpu {

void kv_compact_(const KvCompactParams& params);

}  // namespace hivis::cpu
