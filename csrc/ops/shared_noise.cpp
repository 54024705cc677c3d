#include "ops/shared_noise.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu/shared_noise.h"

namespace hivis {
namespace {

at::Tensor shared_noise_cpu(const at::Tensor& seed, const at::Tensor& position, int64_t count,
                            int64_t vocab) {
  const int64_t B = check_shared_noise(seed, position, count, vocab);
  at::Tensor noise = at::empty({B, count, vocab}, seed.options().dtype(at::kFloat));

  cpu::SharedNoiseParams params{};
  params.batch = B;
  params.count = count;
  params.vocab = vocab;
  params.seed = seed.const_data_ptr<int64_t>();
  params.position = position.const_data_ptr<int64_t>();
  params.noise = noise.data_ptr<float>();
  cpu::shared_noise(params);
  return noise;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kSharedNoiseSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("shared_noise", &shared_noise_cpu); }

}  // namespace hivis
