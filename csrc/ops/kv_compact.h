// kv_compact_: what the CPU and CUDA bodies check alike.
#pragma once

#include "ops/check.h"

namespace hivis {

constexpr char kKvCompactSchema[] =
    "kv_compact_(Tensor(a!) kv, Tensor(b!) kv_len, Tensor path, Tensor path_len) -> ()";

struct KvCompactShape {
  int64_t L, B, Hkv, S, D, M;
};

inline KvCompactShape check_kv_compact(const at::Tensor& kv, const at::Tensor& kv_len,
                                       const at::Tensor& path, const at::Tensor& path_len) {
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
  return {L, B, Hkv, S, D, M};
}

}  // namespace hivis
