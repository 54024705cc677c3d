// kv_compact_: its schema, and all that it does for either body.
#pragma once

#include "core/kv_compact_params.h"
#include "ops/check.h"

namespace hivis {

constexpr char kKvCompactSchema[] =
    "kv_compact_(Tensor(a!) kv, Tensor(b!) kv_len, Tensor path, Tensor path_len) -> ()";

inline void check_kv_compact(const at::Tensor& kv, const at::Tensor& kv_len, const at::Tensor& path,
                             const at::Tensor& path_len) {
  const auto [L, sides, B, Hkv, S, D] = get_shape<6>("kv", kv);
  TORCH_CHECK(sides == 2, "kv: wanted 2 in dimension 1 (K and V), got ", sides);
  const auto [path_batch, M] = get_shape<2>("path", path);
  TORCH_CHECK(path_batch == B, "path: wanted ", B, " rows (as in kv), got ", path_batch);
  check_shape("kv_len", kv_len, {B});
  check_shape("path_len", path_len, {B});
  check_dtype("kv_len", kv_len, at::kInt);
  check_dtype("path", path, at::kInt);
  check_dtype("path_len", path_len, at::kInt);
  check_last_stride("kv", kv);
  check_no_overlap("kv", kv);
  check_contiguous("kv_len", kv_len);
  check_contiguous("path", path);
  check_contiguous("path_len", path_len);
  check_device("kv_len", kv_len, kv.device());
  check_device("path", path, kv.device());
  check_device("path_len", path_len, kv.device());
  // What is written may not be what is read to know where to write.
  check_apart("kv_len", kv_len, "kv", kv);
  check_apart("path", path, "kv", kv);
  check_apart("path_len", path_len, "kv", kv);
  check_apart("path", path, "kv_len", kv_len);
  check_apart("path_len", path_len, "kv_len", kv_len);
}

// kBody: void(const KvCompactParams&, at::Device).
template <auto kBody>
void kv_compact_op(const at::Tensor& kv, const at::Tensor& kv_len, const at::Tensor& path,
                   const at::Tensor& path_len) {
  check_kv_compact(kv, kv_len, path, path_len);
  const auto item = static_cast<int64_t>(kv.element_size());
  KvCompactParams params{};
  params.layers = kv.size(0);
  params.batch = kv.size(2);
  params.heads = kv.size(3);
  params.rows = kv.size(4);
  params.path_width = path.size(1);
  params.row_bytes = kv.size(5) * item;
  params.kv = static_cast<char*>(kv.data_ptr());
  params.kv_len = kv_len.data_ptr<int32_t>();
  params.path = path.const_data_ptr<int32_t>();
  params.path_len = path_len.const_data_ptr<int32_t>();
  params.layer_stride = kv.stride(0) * item;
  params.side_stride = kv.stride(1) * item;
  params.batch_stride = kv.stride(2) * item;
  params.head_stride = kv.stride(3) * item;
  params.row_stride = kv.stride(4) * item;
  kBody(params, kv.device());
}

}  // namespace hivis
