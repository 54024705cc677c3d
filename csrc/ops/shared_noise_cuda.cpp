#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/shared_noise.h"
#include "ops/shared_noise.h"
#include "ops/stream.h"

namespace hivis {
namespace {

at::Tensor shared_noise_cuda(const at::Tensor& seed, const at::Tensor& position, int64_t count,
                             int64_t vocab) {
  const int64_t B = check_shared_noise(seed, position, count, vocab);
  const c10::DeviceGuard guard(seed.device());
  at::Tensor noise = at::empty({B, count, vocab}, seed.options().dtype(at::kFloat));

  cuda::SharedNoiseParams params{};
  params.batch = B;
  params.count = count;
  params.vocab = vocab;
  params.seed = seed.const_data_ptr<int64_t>();
  params.position = position.const_data_ptr<int64_t>();
  params.noise = noise.data_ptr<float>();
  const cudaError_t status = cuda::launch_shared_noise(params, current_stream(seed.device()));
  TORCH_CHECK(status == cudaSuccess, "shared_noise: launch failed: ", cudaGetErrorString(status));
  return noise;
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("shared_noise", &shared_noise_cuda); }

}  // namespace hivis
