// shared_noise: its schema, and all that it does for either body.
#pragma once

#include <ATen/ops/empty.h>

#include "core/accept.h"
#include "core/shared_noise_params.h"
#include "ops/check.h"

namespace hivis {

constexpr char kSharedNoiseSchema[] =
    "shared_noise(Tensor seed, Tensor position, int count, int vocab) -> Tensor";

// kBody: void(const SharedNoiseParams&, at::Device).
template <auto kBody>
at::Tensor shared_noise_op(const at::Tensor& seed, const at::Tensor& position, int64_t count,
                           int64_t vocab) {
  const auto [B] = get_shape<1>("seed", seed);
  check_shape("position", position, {B});
  check_dtype("seed", seed, at::kLong);
  check_dtype("position", position, at::kLong);
  check_device("position", position, seed.device());
  check_contiguous("seed", seed);
  check_contiguous("position", position);
  TORCH_CHECK(count >= 0, "count: wanted 0 or more, got ", count);
  TORCH_CHECK(vocab >= 1 && vocab <= kMaxVocab, "vocab: wanted 1..", kMaxVocab, ", got ", vocab);
  at::Tensor noise = at::empty({B, count, vocab}, seed.options().dtype(at::kFloat));

  SharedNoiseParams params{};
  params.batch = B;
  params.count = count;
  params.vocab = vocab;
  params.seed = seed.const_data_ptr<int64_t>();
  params.position = position.const_data_ptr<int64_t>();
  params.noise = noise.template data_ptr<float>();
  kBody(params, seed.device());
  return noise;
}

}  // namespace hivis
