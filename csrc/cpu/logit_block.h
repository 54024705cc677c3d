// Blocks of 64 logits: read as fp32 exactly, their maximum, and a watch for NaN.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/fastmath.h"
#include "cpu/simd.h"

namespace hivis::cpu {

constexpr int kRowBlock = 64;  // tokens per block
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Half {
  uint16_t bits;
};

inline float to_float(Half x) {
  // Moving the fields and scaling by 2^112 is exact for subnormals too; exponent 31 is inf or NaN.
  const uint32_t magnitude = x.bits & 0x7fffu, sign = (x.bits & 0x8000u) << 16;
  const float finite = bits_float(static_cast<int32_t>(magnitude << 13)) * 0x1p112f;
  const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  return bits_float(float_bits(finite) | static_cast<int32_t>(special | sign));
}

// Block `block` of a row, padded with -inf.
template <class T>
inline void load_block(const T* row, int64_t vocab, int64_t block, float x[kRowBlock]) {
  const int64_t first = block * kRowBlock, size = std::min<int64_t>(kRowBlock, vocab - first);
  if (size == kRowBlock) {
    for (int j = 0; j < kRowBlock; ++j) x[j] = to_float(row[first + j]);
  } else {
    for (int j = 0; j < kRowBlock; ++j) x[j] = j < size ? to_float(row[first + j]) : -kInfinity;
  }
}

// Maximum of a block; unspecified if it holds a NaN.
inline float block_maximum(const float x[kRowBlock]) {
  Vec most = load<Vec>(x);
  for (int j = kLanes; j < kRowBlock; j += kLanes) most = max(most, load<Vec>(x + j));
  float lane[kLanes];
  store(lane, most);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lane[j] = lane[j + width] > lane[j] ? lane[j + width] : lane[j];
  }
  return lane[0];
}

// Watches for NaN: the largest magnitude seen, as bits, lane by lane.
struct NanWatch {
  VecI largest = {};

  inline void see(const float x[kRowBlock]) {
    for (int j = 0; j < kRowBlock; j += kLanes) {
      const VecI magnitude = load<VecI>(x + j) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  bool found() const {
    bool nan = false;
    for (int j = 0; j < kLanes; ++j) nan |= largest[j] > 0x7f800000;
    return nan;
  }
};

}  // namespace hivis::cpu
