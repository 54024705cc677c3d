#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/shared_noise.h"
#include "ops/shared_noise.h"
#include "ops/stream.h"

namespace hivis {
namespace {

void shared_noise_cuda(const SharedNoiseParams& p, at::Device device) {
  const c10::DeviceGuard guard(device);
  const cudaError_t status = cuda::launch_shared_noise(p, current_stream(device));
  TORCH_CHECK(status == cudaSuccess, "shared_noise: launch failed: ", cudaGetErrorString(status));
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("shared_noise", &shared_noise_op<shared_noise_cuda>); }

}  // namespace hivis
