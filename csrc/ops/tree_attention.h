// tree_attention: what the CPU and CUDA bodies check alike.
#pragma once

#include "core/tree_bits.h"
#include "ops/check.h"

namespace hivis {

constexpr char kTreeAttentionSchema[] =
    "tree_attention(Tensor q, Tensor k, Tensor v, Tensor kv_len, Tensor ancestors, float scale) "
    "-> Tensor";

struct TreeAttentionShape {
  int64_t B, N, H, Hkv, S, D;
};

inline TreeAttentionShape check_tree_attention(const at::Tensor& q, const at::Tensor& k,
                                               const at::Tensor& v, const at::Tensor& kv_len,
                                               const at::Tensor& ancestors) {
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
  TORCH_CHECK(D >= 8 && D <= 256 && D % 8 == 0,
              "q: wanted a multiple of 8 up to 256 in the last dimension, got ", D);
  check_shape("ancestors", ancestors, {B, N, word_count(static_cast<int>(N))});
  check_float("q", q);
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
  return {B, N, H, Hkv, S, D};
}

}  // namespace hivis
