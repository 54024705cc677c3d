// Checks shared by the ops. Each failure is one line: name, wanted, got.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <initializer_list>

namespace hivis {

// Sizes of `tensor`, which must have rank `kRank`: const auto [B, N] = get_shape<2>("tokens", t).
template <size_t kRank>
std::array<int64_t, kRank> get_shape(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.dim() == static_cast<int64_t>(kRank), name, ": wanted ", kRank,
              " dimensions, got ", tensor.dim());
  std::array<int64_t, kRank> shape{};
  for (size_t i = 0; i < kRank; ++i) shape[i] = tensor.size(static_cast<int64_t>(i));
  return shape;
}

inline void check_shape(const char* name, const at::Tensor& tensor,
                        std::initializer_list<int64_t> wanted) {
  const at::IntArrayRef shape(wanted);
  TORCH_CHECK(tensor.sizes() == shape, name, ": wanted shape ", shape, ", got ", tensor.sizes());
}

inline void check_dtype(const char* name, const at::Tensor& tensor, at::ScalarType wanted) {
  TORCH_CHECK(tensor.scalar_type() == wanted, name, ": wanted ", wanted, ", got ",
              tensor.scalar_type());
}

inline void check_float(const char* name, const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf, name,
              ": wanted Float, BFloat16 or Half, got ", type);
}

inline void check_device(const char* name, const at::Tensor& tensor, at::Device wanted) {
  TORCH_CHECK(tensor.device() == wanted, name, ": wanted device ", wanted, ", got ",
              tensor.device());
}

inline void check_contiguous(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous(), name, ": wanted a contiguous tensor, got strides ",
              tensor.strides());
}

inline void check_last_stride(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.size(-1) <= 1 || tensor.stride(-1) == 1, name,
              ": wanted stride 1 in the last dimension, got ", tensor.stride(-1));
}

}  // namespace hivis
