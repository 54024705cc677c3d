// Checks shared by the ops. Each failure is one line: name, wanted, got.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "core/dtype.h"

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

// Returns the bodies' name of the dtype.
inline DType check_float(const char* name, const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type();
  if (type == at::kFloat) return DType::kFloat;
  if (type == at::kBFloat16) return DType::kBFloat16;
  TORCH_CHECK(type == at::kHalf, name, ": wanted Float, BFloat16 or Half, got ", type);
  return DType::kHalf;
}

inline void check_device(const char* name, const at::Tensor& tensor, at::Device wanted) {
  TORCH_CHECK(tensor.device() == wanted, name, ": wanted device ", wanted, ", got ",
              tensor.device());
}

inline void check_contiguous(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_contiguous(), name, ": wanted a contiguous tensor, got strides ",
              tensor.strides());
}

// A tensor whose memory is read or written as a plain array.
inline void check_plain(const char* name, const at::Tensor& tensor, at::ScalarType dtype,
                        at::Device device, std::initializer_list<int64_t> shape) {
  check_shape(name, tensor, shape);
  check_dtype(name, tensor, dtype);
  check_device(name, tensor, device);
  check_contiguous(name, tensor);
}

inline void check_last_stride(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.size(-1) <= 1 || tensor.stride(-1) == 1, name,
              ": wanted stride 1 in the last dimension, got ", tensor.stride(-1));
}

// Every element in a place of its own: each stride, from the smallest on, leads past all that the
// smaller ones reach. Slices and permutations of a contiguous tensor do; `expand` and overlapping
// windows do not.
inline void check_no_overlap(const char* name, const at::Tensor& tensor) {
  if (tensor.numel() == 0) return;
  c10::SmallVector<std::pair<int64_t, int64_t>, 8> dims;  // stride, size
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1) dims.emplace_back(tensor.stride(i), tensor.size(i));
  }
  std::sort(dims.begin(), dims.end());
  int64_t reach = 0;
  for (const auto& [stride, size] : dims) {
    TORCH_CHECK(stride > reach, name, ": wanted every element in a place of its own, got strides ",
                tensor.strides());
    reach += (size - 1) * stride;
  }
}

// No byte between the first and the last element of one lies between those of the other.
inline void check_apart(const char* name, const at::Tensor& tensor, const char* other_name,
                        const at::Tensor& other) {
  const auto span = [](const at::Tensor& t) {
    int64_t last = 0;
    for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
    const char* first = static_cast<const char*>(t.const_data_ptr());
    return std::make_pair(first, first + (last + 1) * t.element_size());
  };
  if (tensor.numel() == 0 || other.numel() == 0) return;
  const auto [first, end] = span(tensor);
  const auto [other_first, other_end] = span(other);
  TORCH_CHECK(end <= other_first || other_end <= first, name, ": wanted memory apart from that of ",
              other_name, ", got a tensor within it");
}

}  // namespace hivis
