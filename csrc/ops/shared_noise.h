// shared_noise: what the CPU and CUDA bodies check alike.
#pragma once

#include "core/accept.h"
#include "ops/check.h"

namespace hivis {

constexpr char kSharedNoiseSchema[] =
    "shared_noise(Tensor seed, Tensor position, int count, int vocab) -> Tensor";

// Returns B.
inline int64_t check_shared_noise(const at::Tensor& seed, const at::Tensor& position, int64_t count,
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
  return B;
}

}  // namespace hivis
