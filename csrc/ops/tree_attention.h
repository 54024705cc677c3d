// tree_attention: its schema, and all that it does for either body.
#pragma once

#include <ATen/ops/empty.h>

#include <limits>

#include "core/tree_attention_params.h"
#include "core/tree_bits.h"
#include "ops/check.h"

namespace hivis {

constexpr char kTreeAttentionSchema[] =
    "tree_attention(Tensor q, Tensor k, Tensor v, Tensor kv_len, Tensor ancestors, float scale) "
    "-> Tensor";

// kBody: void(const TreeAttentionParams&, at::Device).
template <auto kBody>
at::Tensor tree_attention_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& kv_len, const at::Tensor& ancestors, double scale) {
  const auto [B, N, H, D] = get_shape<4>("q", q);
  const auto [k_batch, Hkv, S, k_dim] = get_shape<4>("k", k);
  TORCH_CHECK(k_batch == B && k_dim == D, "k: wanted shape [", B, ", Hkv, S, ", D, "], got ",
              k.sizes());
  check_shape("v", v, {B, Hkv, S, D});
  check_shape("kv_len", kv_len, {B});
  TORCH_CHECK(N >= 1 && N <= kMaxNodes, "q: wanted 1..", kMaxNodes, " nodes (dimension 1), got ",
              N);
  TORCH_CHECK(S >= N, "k: wanted at least ", N, " rows (dimension 2, one for each node), got ", S);
  TORCH_CHECK(Hkv >= 1, "k: wanted at least one head (dimension 1), got 0");
  TORCH_CHECK(H >= 1 && H % Hkv == 0, "q: wanted a multiple of ", Hkv, " heads (dimension 2), got ",
              H);
  constexpr int64_t kMostHeads = std::numeric_limits<int32_t>::max() / kMaxNodes;
  TORCH_CHECK(H <= kMostHeads, "q: wanted at most ", kMostHeads, " heads (dimension 2), got ", H);
  TORCH_CHECK(D >= 8 && D <= 256 && D % 8 == 0,
              "q: wanted a multiple of 8 up to 256 in the last dimension, got ", D);
  check_shape("ancestors", ancestors, {B, N, word_count(static_cast<int>(N))});
  const DType dtype = check_float("q", q);
  check_dtype("k", k, q.scalar_type());
  check_dtype("v", v, q.scalar_type());
  check_dtype("kv_len", kv_len, at::kInt);
  check_dtype("ancestors", ancestors, at::kLong);
  check_last_stride("q", q);
  check_last_stride("k", k);
  check_last_stride("v", v);
  check_contiguous("kv_len", kv_len);
  check_contiguous("ancestors", ancestors);
  check_device("k", k, q.device());
  check_device("v", v, q.device());
  check_device("kv_len", kv_len, q.device());
  check_device("ancestors", ancestors, q.device());
  at::Tensor out = at::empty({B, N, H, D}, q.options());

  TreeAttentionParams params{};
  params.batch = B;
  params.nodes = static_cast<int>(N);
  params.heads = static_cast<int>(H);
  params.kv_heads = static_cast<int>(Hkv);
  params.head_dim = static_cast<int>(D);
  params.rows = S;
  params.dtype = dtype;
  params.scale = static_cast<float>(scale);
  params.q = q.const_data_ptr();
  params.k = k.const_data_ptr();
  params.v = v.const_data_ptr();
  params.kv_len = kv_len.const_data_ptr<int32_t>();
  params.ancestors = reinterpret_cast<const uint64_t*>(ancestors.const_data_ptr<int64_t>());
  params.out = out.data_ptr();
  params.q_batch = q.stride(0);
  params.q_node = q.stride(1);
  params.q_head = q.stride(2);
  params.k_batch = k.stride(0);
  params.k_head = k.stride(1);
  params.k_row = k.stride(2);
  params.v_batch = v.stride(0);
  params.v_head = v.stride(1);
  params.v_row = v.stride(2);
  kBody(params, q.device());
  return out;
}

}  // namespace hivis
