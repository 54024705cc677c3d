// shared_noise on CUDA, in one launch.
#pragma once

#include <cuda_runtime.h>

#include "core/shared_noise_params.h"

namespace hivis::cuda {

cudaError_t launch_shared_noise(const SharedNoiseParams& params, cudaStream_t stream);

}  // namespace hivis::cuda
