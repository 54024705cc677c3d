// tree_accept: what the CPU and CUDA bodies check alike.
#pragma once

#include "core/accept.h"
#include "core/tree_bits.h"
#include "ops/check.h"

namespace hivis {

constexpr char kTreeAcceptSchema[] =
    "tree_accept(Tensor logits, Tensor tokens, Tensor parents, Tensor seed, Tensor position, "
    "Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, int max_depth) "
    "-> (Tensor path, Tensor path_len, Tensor next_token, Tensor emitted)";

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

// Fills in sizes, inputs and outputs, whose fields have the same names in both bodies' params.
template <class LogitType, class Params>
void set_tree_accept(const TreeAcceptShape& shape, const at::Tensor& logits,
                     const at::Tensor& tokens, const at::Tensor& parents, const at::Tensor& seed,
                     const at::Tensor& position, const at::Tensor& temperature,
                     const at::Tensor& top_k, const at::Tensor& top_p, const at::Tensor& min_p,
                     int64_t max_depth, const at::Tensor& path, const at::Tensor& path_len,
                     const at::Tensor& next_token, const at::Tensor& emitted, Params* params) {
  const at::ScalarType dtype = logits.scalar_type();
  params->batch = shape.B;
  params->nodes = shape.N;
  params->vocab = shape.V;
  params->max_depth = max_depth;
  params->logits = logits.const_data_ptr();
  params->type = dtype == at::kBFloat16 ? LogitType::kBFloat16
                 : dtype == at::kHalf   ? LogitType::kHalf
                                        : LogitType::kFloat;
  params->logits_batch_stride = logits.stride(0);
  params->logits_node_stride = logits.stride(1);
  params->tokens = tokens.const_data_ptr<int64_t>();
  params->parents = parents.const_data_ptr<int32_t>();
  params->seed = seed.const_data_ptr<int64_t>();
  params->position = position.const_data_ptr<int64_t>();
  params->temperature = temperature.const_data_ptr<float>();
  params->top_k = top_k.const_data_ptr<int32_t>();
  params->top_p = top_p.const_data_ptr<float>();
  params->min_p = min_p.const_data_ptr<float>();
  params->path = path.data_ptr<int32_t>();
  params->path_len = path_len.data_ptr<int32_t>();
  params->next_token = next_token.data_ptr<int64_t>();
  params->emitted = emitted.data_ptr<int64_t>();
}

}  // namespace hivis
