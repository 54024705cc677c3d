// Tensor-core operations, and the arithmetic of 16-bit floats. Layouts: csrc/cuda/ptx.h.
#include <cmath>
#include <cstring>

#include "engine/collectives.h"
#include "engine/race.h"

namespace emulation {
namespace {

constexpr int kEdge = 8;  // of the matrices that ldmatrix loads

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

struct LoadArguments {
  uint32_t* matrix;
  const char* row;
};

// The 8 rows of a matrix come in one step if they lie in different sixteenths of the 128 bytes that
// shared memory delivers at once, or are the same row.
void check_banks(void* const* arguments, int matrix) {
  const char* row_in_bank[kEdge] = {};
  for (int i = 0; i < kEdge; ++i) {
    const char* row = static_cast<LoadArguments*>(arguments[matrix * kEdge + i])->row;
    const char*& other = row_in_bank[shared_address(row) / 16 % kEdge];
    if (other != nullptr && other != row) {
      fail("ldmatrix: bank conflict: rows at offsets %u and %u of shared memory, matrix %d, %s",
           shared_address(other), shared_address(row), matrix, describe(current->where).c_str());
    }
    other = row;
  }
}

template <bool kTransposed>
void combine_load(void* const* arguments, unsigned) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    check_banks(arguments, matrix);
    uint16_t element[kEdge][kEdge];
    for (int i = 0; i < kEdge; ++i) {
      std::memcpy(element[i], static_cast<LoadArguments*>(arguments[matrix * kEdge + i])->row,
                  sizeof element[i]);
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int i = lane / 4, j = lane % 4 * 2;
      const uint32_t low = kTransposed ? element[j][i] : element[i][j];
      const uint32_t high = kTransposed ? element[j + 1][i] : element[i][j + 1];
      static_cast<LoadArguments*>(arguments[lane])->matrix[matrix] = low | high << 16;
    }
  }
}

struct MultiplyArguments {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};

template <Float16 kType>
float to_float(uint32_t bits) {
  if constexpr (kType == Float16::kBf16) return float_of(bits << 16);
  return half_to_float(static_cast<uint16_t>(bits));
}

// Every product is exact in fp32; sums are rounded to fp32 in the order of k.
template <Float16 kType>
void combine_multiply(void* const* arguments, unsigned) {
  float a[16][16], b[16][8], c[16][8];
  for_each_lane<MultiplyArguments>(arguments, kAllLanes, [&](int lane, MultiplyArguments& x) {
    const int group = lane / 4, member = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const int row = group + i % 2 * 8, column = member + i / 2 * 8;
      a[row][column] = to_float<kType>(x.a[i] & 0xffff);
      a[row][column + 1] = to_float<kType>(x.a[i] >> 16);
    }
    for (int i = 0; i < 2; ++i) {
      b[member + i * 8][group] = to_float<kType>(x.b[i] & 0xffff);
      b[member + i * 8 + 1][group] = to_float<kType>(x.b[i] >> 16);
    }
    for (int i = 0; i < 4; ++i) c[group + i / 2 * 8][member + i % 2] = x.c[i];
  });
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
    }
  }
  for_each_lane<MultiplyArguments>(arguments, kAllLanes, [&](int lane, MultiplyArguments& x) {
    for (int i = 0; i < 4; ++i) x.c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  });
}

constexpr Operation kLoad = {"ldmatrix", combine_load<false>, true};
constexpr Operation kLoadTransposed = {"ldmatrix_transposed", combine_load<true>, true};
constexpr Operation kMultiplyBf16 = {"mma (bf16)", combine_multiply<Float16::kBf16>, true};
constexpr Operation kMultiplyHalf = {"mma (f16)", combine_multiply<Float16::kHalf>, true};

}  // namespace

void load_matrix(uint32_t* matrix, const void* row, bool transposed, Where where) {
  const Operation& operation = transposed ? kLoadTransposed : kLoad;
  check_shared(operation.name, row, 16, where);
  if (race != nullptr) {
    race->access(*current, row, 16, Access::kRead, static_cast<uintptr_t>(where.line));
  }
  LoadArguments arguments{matrix, static_cast<const char*>(row)};
  meet(operation, kAllLanes, where, &arguments);
}

void multiply(Float16 type, float* c, const uint32_t* a, uint32_t b0, uint32_t b1, Where where) {
  MultiplyArguments arguments{c, a, {b0, b1}};
  meet(type == Float16::kBf16 ? kMultiplyBf16 : kMultiplyHalf, kAllLanes, where, &arguments);
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits} >> 15 << 31, rest = bits & 0x7fff;
  // Shifted into place, the exponent is 112 too small; the product mends that, subnormals included.
  const float magnitude = rest >= 0x7c00 ? float_of(0x7f800000u | (rest & 0x3ff) << 13)
                                         : float_of(rest << 13) * 0x1p112f;
  return float_of(sign | bits_of(magnitude));
}

uint16_t float_to_half(float x) {
  if (std::isnan(x)) return 0x7fff;
  const uint32_t sign = bits_of(x) >> 31 << 15;
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude == 0) return static_cast<uint16_t>(sign);
  if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00);
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
  // Units of the last place that a half of this size has: 2^-24 at least.
  const int unit = exponent - 11 < -24 ? -24 : exponent - 11;
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -unit)));
  // The leading 1 of a normal number adds 1 to the exponent field; so does a carry.
  return static_cast<uint16_t>(sign + (static_cast<uint32_t>(unit + 24) << 10) + units);
}

uint16_t float_to_bf16(float x) {
  if (std::isnan(x)) return 0x7fff;
  const uint32_t bits = bits_of(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float exp2_flushed(float x) {
  constexpr float kSmallestNormal = 0x1p-126f;
  const float result = std::exp2(std::fabs(x) < kSmallestNormal ? 0.0f : x);
  return result < kSmallestNormal ? 0.0f : result;
}

}  // namespace emulation
