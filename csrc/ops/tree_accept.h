// tree_accept: its schema, and all that it does for either body.
#pragma once

#include <ATen/ops/empty.h>

#include <tuple>

#include "core/accept.h"
#include "core/tree_accept_params.h"
#include "core/tree_bits.h"
#include "ops/check.h"

namespace hivis {

constexpr char kTreeAcceptSchema[] =
    "tree_accept(Tensor logits, Tensor tokens, Tensor parents, Tensor seed, Tensor position, "
    "Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, int max_depth) "
    "-> (Tensor path, Tensor path_len, Tensor next_token, Tensor emitted)";

// kBody: void(const TreeAcceptParams&, at::Device).
template <auto kBody>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> tree_accept_op(
    const at::Tensor& logits, const at::Tensor& tokens, const at::Tensor& parents,
    const at::Tensor& seed, const at::Tensor& position, const at::Tensor& temperature,
    const at::Tensor& top_k, const at::Tensor& top_p, const at::Tensor& min_p, int64_t max_depth) {
  const auto [B, N, V] = get_shape<3>("logits", logits);
  const DType dtype = check_float("logits", logits);
  check_last_stride("logits", logits);
  TORCH_CHECK(N >= 1 && N <= kMaxNodes, "logits: wanted 1..", kMaxNodes, " nodes, got ", N);
  TORCH_CHECK(V >= 1 && V <= kMaxVocab, "logits: wanted a vocabulary of 1..", kMaxVocab, ", got ",
              V);
  TORCH_CHECK(max_depth >= 0 && max_depth <= kMaxNodes, "max_depth: wanted 0..", kMaxNodes,
              ", got ", max_depth);
  const at::Device device = logits.device();
  check_plain("tokens", tokens, at::kLong, device, {B, N});
  check_plain("parents", parents, at::kInt, device, {B, N});
  check_plain("seed", seed, at::kLong, device, {B});
  check_plain("position", position, at::kLong, device, {B});
  check_plain("temperature", temperature, at::kFloat, device, {B});
  check_plain("top_k", top_k, at::kInt, device, {B});
  check_plain("top_p", top_p, at::kFloat, device, {B});
  check_plain("min_p", min_p, at::kFloat, device, {B});
  at::Tensor path = at::empty({B, max_depth + 1}, parents.options());
  at::Tensor path_len = at::empty({B}, parents.options());
  at::Tensor next_token = at::empty({B}, tokens.options());
  at::Tensor emitted = at::empty({B, max_depth + 1}, tokens.options());

  TreeAcceptParams params{};
  params.batch = B;
  params.nodes = N;
  params.vocab = V;
  params.max_depth = max_depth;
  params.logits = logits.const_data_ptr();
  params.dtype = dtype;
  params.logits_batch_stride = logits.stride(0);
  params.logits_node_stride = logits.stride(1);
  params.tokens = tokens.const_data_ptr<int64_t>();
  params.parents = parents.const_data_ptr<int32_t>();
  params.seed = seed.const_data_ptr<int64_t>();
  params.position = position.const_data_ptr<int64_t>();
  params.temperature = temperature.const_data_ptr<float>();
  params.top_k = top_k.const_data_ptr<int32_t>();
  params.top_p = top_p.const_data_ptr<float>();
  params.min_p = min_p.const_data_ptr<float>();
  params.path = path.template data_ptr<int32_t>();
  params.path_len = path_len.template data_ptr<int32_t>();
  params.next_token = next_token.template data_ptr<int64_t>();
  params.emitted = emitted.template data_ptr<int64_t>();
  kBody(params, device);
  return {path, path_len, next_token, emitted};
}

}  // namespace hivis
