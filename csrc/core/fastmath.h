// fp32 logarithm and exponential with the same bits on every machine.
//
// Both are built from IEEE-754 single additions, subtractions and multiplications, each rounded
// once, in one stated order; selects replace branches. So a vectorizing CPU compiler, a GPU and
// torch's element-wise operators agree in every bit, which no library's logf or expf promises. Two
// conditions: host code is compiled with -ffp-contract=off, and device code goes through the
// __f*_rn intrinsics, which nvcc never fuses.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace hivis {

#ifdef __CUDA_ARCH__
HIVIS_HD float add_rn(float a, float b) { return __fadd_rn(a, b); }
HIVIS_HD float sub_rn(float a, float b) { return __fsub_rn(a, b); }
HIVIS_HD float mul_rn(float a, float b) { return __fmul_rn(a, b); }
HIVIS_HD float div_rn(float a, float b) { return __fdiv_rn(a, b); }
HIVIS_HD double mul_rn(double a, double b) { return __dmul_rn(a, b); }
#else
HIVIS_HD float add_rn(float a, float b) { return a + b; }
HIVIS_HD float sub_rn(float a, float b) { return a - b; }
HIVIS_HD float mul_rn(float a, float b) { return a * b; }
HIVIS_HD float div_rn(float a, float b) { return a / b; }
HIVIS_HD double mul_rn(double a, double b) { return a * b; }
#endif

HIVIS_HD int32_t float_bits(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

HIVIS_HD float bits_float(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// ln 2 = kLn2High + kLn2Low; the high part has 15 significant bits, so a product with |k| < 512 is
// exact.
constexpr float kLn2High = 0x1.62e4p-1f;
constexpr float kLn2Low = 1.428606765330187e-06f;
constexpr float kLog2E = 1.4426950408889634f;
constexpr int32_t kSqrtHalfBits = 0x3f3504f3;  // sqrt(1/2): mantissas are taken from [it, 2 * it)

// a + b * x
HIVIS_HD float line(float a, float b, float x) { return add_rn(a, mul_rn(b, x)); }

// log(2^k * (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1]: k ln 2 + f - f^2 / 2 + f^3 Q(f), with Q
// a minimax polynomial (relative error of the whole 0.1 * 2^-24 before rounding), summed as a tree
// because a chain of eight dependent steps would leave the arithmetic units idle.
HIVIS_HD float log_reduced(float k, float f) {
  const float f2 = mul_rn(f, f), f4 = mul_rn(f2, f2);
  const float q01 = line(0x1.555554p-2f, -0x1.000226p-2f, f);
  const float q23 = line(0x1.99a008p-3f, -0x1.547244p-3f, f);
  const float q45 = line(0x1.22da1cp-3f, -0x1.0d8544p-3f, f);
  const float q67 = line(0x1.055b72p-3f, -0x1.38b582p-4f, f);
  const float q = line(line(q01, q23, f2), line(q45, q67, f2), f4);
  const float tail = line(mul_rn(k, kLn2Low), mul_rn(f2, f), q);
  const float rest = sub_rn(tail, mul_rn(f2, 0.5f));
  return add_rn(mul_rn(k, kLn2High), add_rn(f, rest));
}

// Splits a positive normal x into 2^k * (1 + f) by its bits. The subtraction is exact.
HIVIS_HD void log_split(float x, float* k, float* f) {
  const int32_t offset = float_bits(x) - kSqrtHalfBits;
  *k = static_cast<float>(offset >> 23);
  *f = sub_rn(bits_float((offset & 0x007fffff) + kSqrtHalfBits), 1.0f);
}

// log(x) for positive normal x.
HIVIS_HD float log_f32(float x) {
  float k, f;
  log_split(x, &k, &f);
  return log_reduced(k, f);
}

// -log(1 - u) for u in (0, 1 - 2^-24]. 1 - u loses the low bits of a small u, so there f = -u is
// used.
HIVIS_HD float neg_log1m_f32(float u) {
  float k, f;
  log_split(sub_rn(1.0f, u), &k, &f);
  f = k == 0.0f ? -u : f;
  return -log_reduced(k, f);
}

// exp(y) for y in [-87, 0].
HIVIS_HD float exp_f32(float y) {
  constexpr float kRound =
      0x1.8p23f;  // adding it leaves the nearest integer in the low mantissa bits
  const float shifted = add_rn(mul_rn(y, kLog2E), kRound);
  const float n = sub_rn(shifted, kRound);
  const float r = sub_rn(sub_rn(y, mul_rn(n, kLn2High)), mul_rn(n, kLn2Low));
  float p = 0x1.6a1a72p-10f;
  p = line(0x1.123fc6p-7f, p, r);
  p = line(0x1.555916p-5f, p, r);
  p = line(0x1.55548ap-3f, p, r);
  p = line(0x1.fffffcp-2f, p, r);
  const float value = add_rn(add_rn(mul_rn(mul_rn(r, r), p), r), 1.0f);
  // Scaling by 2^n is exact: n >= -126 and value >= 0.7.
  const int32_t exponent = float_bits(shifted) - float_bits(kRound);
  return mul_rn(value, bits_float((exponent + 127) << 23));
}

}  // namespace hivis
