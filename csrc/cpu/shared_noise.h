// shared_noise on the CPU.
#pragma once

#include "core/shared_noise_params.h"

namespace hivis::cpu {

void shared_noise(const SharedNoiseParams& params);

}  // namespace hivis::cpu
