// tree_accept: what the CPU and CUDA bodies check alike.
#pragma once

#include "core/accept.h"
#include "core/tree_bits.h"
#include "ops/check.h"

namespace hivis {

struct TreeAcceptShape {
  int64_t B, N, V;
};

inline TreeAcceptShape check_tree_accept(const at::Tensor& logits, const at::Tensor& tokens,
                                         const at::Tensor& parents, const at::Tensor& seed,
                                         const at::Tensor& position, const at::Tensor& temperature,
                                         const at::Tensor& top_k, const at::Tensor& top_p,
                                         const at::Tensor& min_p, int64_t max_depth) {
  const auto [B, N, V] = get_shape<3>("logits", logits);
  check_float("logits", logits);
  check_last_stride("logits", logits);
  TORCH_CHECK(N >= 1 && N <= kMaxNodes, "logits: wanted 1..", kMaxNodes, " nodes, got ", N);
  TORCH_CHECK(V >= 1 && V <= kMaxVocab, "logits: wanted a vocabulary of 1..", kMaxVocab, ", got ",
              V);
  TORCH_CHECK(max_depth >= 0 && max_depth <= kMaxNodes, "max_depth: wanted 0..", kMaxNodes,
              ", got ", max_depth);
  const auto check = [&](const char* name, const at::Tensor& tensor, at::ScalarType dtype,
                         std::initializer_list<int64_t> shape) {
    check_shape(name, tensor, shape);
    check_dtype(name, tensor, dtype);
    check_device(name, tensor, logits.device());
    check_contiguous(name, tensor);
  };
  check("tokens", tokens, at::kLong, {B, N});
  check("parents", parents, at::kInt, {B, N});
  check("seed", seed, at::kLong, {B});
  check("position", position, at::kLong, {B});
  check("temperature", temperature, at::kFloat, {B});
  check("top_k", top_k, at::kInt, {B});
  check("top_p", top_p, at::kFloat, {B});
  check("min_p", min_p, at::kFloat, {B});
  return {B, N, V};
}

}  // namespace hivis
