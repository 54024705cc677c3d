// The emulator against what the CUDA and PTX manuals say.
#include <cmath>
#include <random>

#include "check.h"
#include "engine/grid.h"
#include "fragment_table.h"
#include "toy.h"

namespace {

using emulation::expect;
using emulation::Guarded;

void check_sum() {
  for (const int blocks : {1, 3, 8, 21}) {
    const int count = blocks * toy::kThreads - 5;
    Guarded<float> values(count, "values", 4), partials(blocks, "partials", 4), sum(1, "sum", 4);
    Guarded<uint32_t> tickets(1, "tickets", 4);
    tickets[0] = 0;
    double exact = 0;
    for (int i = 0; i < count; ++i) exact += values[i] = std::sin(static_cast<float>(i));
    float first = 0;
    for (int launch = 0; launch < 2; ++launch) {
      sum.fill_poison();
      partials.fill_poison();
      const toy::SumParams params{count, values.data(), sum.data(), partials.data(),
                                  tickets.data()};
      expect(toy::launch_sum(params, blocks, nullptr) == cudaSuccess, "sum: launch failed");
      expect(std::fabs(sum[0] - exact) < 1e-4, "sum: wanted %g, got %g", exact, sum[0]);
      expect(tickets[0] == 0, "sum: tickets: wanted 0, got %u", tickets[0]);
      if (launch == 0) first = sum[0];
      expect(sum[0] == first, "sum: wanted the same bits again");
    }
  }
}

void check_pipeline() {
  constexpr int kInts = toy::kThreads * 4;
  for (const int tiles : {1, 2, 3, 4, 9}) {
    const int valid = tiles - 1;
    Guarded<int> in(valid * kInts, "in"), out(kInts, "out");
    for (int i = 0; i < valid * kInts; ++i) in[i] = i * i;
    for (int launch = 0; launch < 2; ++launch) {
      out.fill_poison();
      const toy::PipelineParams params{tiles, valid, in.data(), out.data()};
      expect(toy::launch_pipeline(params, nullptr) == cudaSuccess, "pipeline: launch failed");
      for (int i = 0; i < kInts; ++i) {
        int want = 0;
        const int at = (toy::kThreads - 1 - i / 4) * 4 + i % 4;
        for (int t = 0; t < valid; ++t) want += in[t * kInts + at];
        expect(out[i] == want, "pipeline: %d tiles: out[%d]: wanted %d, got %d", tiles, i, want,
               out[i]);
      }
    }
  }
}

// Integers up to 2^7 are exact in both types; their bits, without any code of the emulator.
uint16_t encode(int value, bool half) {
  const auto x = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (!half) return static_cast<uint16_t>(bits >> 16);
  if (value == 0) return 0;
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits >> 23 & 0xff) - 112) << 10 |
                               (bits >> 13 & 0x3ff));
}

void check_matrix(bool half) {
  std::mt19937 random(half ? 1 : 2);
  const auto number = [&] { return static_cast<int>(random() % 255) - 127; };
  int a[16][16], b[16][8], c[16][8];
  for (auto& row : a) {
    for (int& x : row) x = number();
  }
  for (auto& row : b) {
    for (int& x : row) x = number();
  }
  for (auto& row : c) {
    for (int& x : row) x = number();
  }
  Guarded<uint16_t> matrices(4 * 64, "matrices");
  Guarded<uint32_t> pa(128, "a"), pb(64, "b"), loaded(128, "loaded"), transposed(128, "transposed");
  Guarded<float> pc(128, "c");
  for (int i = 0; i < 256; ++i) matrices[i] = static_cast<uint16_t>(i * 257);
  const auto pack = [&](int low, int high) {
    return encode(low, half) | static_cast<uint32_t>(encode(high, half)) << 16;
  };
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& f = kFragments[lane];
    for (int i = 0; i < 4; ++i) {
      pa[lane * 4 + i] = pack(a[f.a[i].row][f.a[i].column], a[f.a[i].row][f.a[i].column + 1]);
    }
    for (int i = 0; i < 2; ++i) {
      pb[lane * 2 + i] = pack(b[f.b[i].row][f.b[i].column], b[f.b[i].row + 1][f.b[i].column]);
      pc[lane * 4 + 2 * i] = static_cast<float>(c[f.c[i].row][f.c[i].column]);
      pc[lane * 4 + 2 * i + 1] = static_cast<float>(c[f.c[i].row][f.c[i].column + 1]);
    }
  }
  const toy::MatrixParams params{half,      matrices.data(), pa.data(),        pb.data(),
                                 pc.data(), loaded.data(),   transposed.data()};
  expect(toy::launch_matrix(params, nullptr) == cudaSuccess, "matrix: launch failed");

  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place& at = kFragments[lane].c[i / 2];
      int want = c[at.row][at.column + i % 2];
      for (int k = 0; k < 16; ++k) want += a[at.row][k] * b[k][at.column + i % 2];
      expect(pc[lane * 4 + i] == static_cast<float>(want), "mma: lane %d, c[%d]: wanted %d, got %g",
             lane, i, want, pc[lane * 4 + i]);
    }
    for (int m = 0; m < 4; ++m) {
      const auto element = [&](int row, int column) {
        return uint32_t{matrices[m * 64 + row * 8 + column]};
      };
      const Place& at = kLoaded[lane];
      const uint32_t plain = element(at.row, at.column) | element(at.row, at.column + 1) << 16;
      const uint32_t turned = element(at.column, at.row) | element(at.column + 1, at.row) << 16;
      expect(loaded[lane * 4 + m] == plain, "ldmatrix: lane %d, matrix %d: wanted %08x, got %08x",
             lane, m, plain, loaded[lane * 4 + m]);
      expect(transposed[lane * 4 + m] == turned,
             "ldmatrix_transposed: lane %d, matrix %d: wanted %08x, got %08x", lane, m, turned,
             transposed[lane * 4 + m]);
    }
  }
}

void check_bf16_matrix() { check_matrix(false); }
void check_half_matrix() { check_matrix(true); }

void check_votes() {
  Guarded<uint32_t> out(40 * 12, "out"), counters(3, "counters", 4);
  Guarded<unsigned long long> wide(1, "wide", 8);
  counters[0] = counters[1] = 0;
  counters[2] = 1000;
  wide[0] = 0;
  expect(toy::launch_vote({out.data(), counters.data(), wide.data()}, nullptr) == cudaSuccess,
         "votes: launch failed");
  for (uint32_t i = 0; i < 40; ++i) {
    const bool first = i < 32;
    const uint32_t down = i % 8 < 6 ? i + 2 : i;
    const uint32_t bits[] = {0, 1, 1, 2, 1, 2, 2, 3};
    const uint32_t low_bit[] = {0, 1, 2, 1, 3, 1, 2, 1};
    const uint32_t ones = bits[i % 8] + bits[i / 8];
    const uint32_t lowest = i % 8 != 0 ? low_bit[i % 8] : i == 0 ? 0 : 3 + low_bit[i / 8];
    const uint32_t zeros = i == 0   ? 32
                           : i == 1 ? 31
                           : i < 4  ? 30
                           : i < 8  ? 29
                           : i < 16 ? 28
                           : i < 32 ? 27
                                    : 26;
    const uint32_t wide_zeros = i == 0 ? 64 : zeros + 2;
    const uint32_t want[] = {(i ^ 1) * (i ^ 1),
                             first ? 0x49249249u : 0x92u,
                             first ? 2u : 1u,
                             first ? 5u : 37u,
                             down,
                             i % 32 < 4 ? i ^ 3 : i ^ 1,
                             first ? 496u : 0u,
                             first ? 3106u : 0u,
                             ones + 100 * lowest,
                             zeros + 100 * wide_zeros,
                             1,
                             1};
    for (uint32_t j = 0; j < 12; ++j) {
      expect(out[i * 12 + j] == want[j], "votes: thread %u, result %u: wanted %u, got %u", i, j,
             want[j], out[i * 12 + j]);
    }
  }
  expect(counters[0] == 780 && counters[1] == 39 && counters[2] == 0 && wide[0] == 40ull << 31,
         "votes: atomics: got %u, %u, %u, %llu", counters[0], counters[1], counters[2], wide[0]);
}

void check_relay() {
  constexpr int kBlocks = 4;
  Guarded<uint32_t> flags(kBlocks, "flags", 4);
  Guarded<int> numbers(kBlocks, "numbers", 4);
  for (uint32_t& flag : flags) flag = 0;
  expect(toy::launch_relay({flags.data(), numbers.data()}, kBlocks, nullptr) == cudaSuccess,
         "relay: launch failed");
  expect(numbers[3] == 6, "relay: wanted 6, got %d", numbers[3]);
}

// Bits of fp32 and of the two 16-bit types, from IEEE 754.
void check_conversions() {
  struct Row {
    float x;
    uint16_t half, bf16;
  };
  constexpr Row kRows[] = {
      {0.0f, 0x0000, 0x0000},         {-0.0f, 0x8000, 0x8000},      {1.0f, 0x3c00, 0x3f80},
      {-2.5f, 0xc100, 0xc020},        {65504.0f, 0x7bff, 0x4780},   {65519.0f, 0x7bff, 0x4780},
      {65520.0f, 0x7c00, 0x4780},     {INFINITY, 0x7c00, 0x7f80},   {0x1p-14f, 0x0400, 0x3880},
      {0x1.ff8p-15f, 0x03ff, 0x3880}, {0x1p-24f, 0x0001, 0x3380},   {0x1p-25f, 0x0000, 0x3300},
      {0x1.8p-24f, 0x0002, 0x33c0},   {0x1.002p0f, 0x3c00, 0x3f80}, {0x1.006p0f, 0x3c02, 0x3f80},
      {0x1.01p0f, 0x3c04, 0x3f80},    {0x1.03p0f, 0x3c0c, 0x3f82},  {0x1.ffep0f, 0x4000, 0x4000}};
  for (const Row& row : kRows) {
    expect(emulation::float_to_half(row.x) == row.half, "half of %a: wanted %04x, got %04x", row.x,
           row.half, emulation::float_to_half(row.x));
    expect(emulation::float_to_bf16(row.x) == row.bf16, "bf16 of %a: wanted %04x, got %04x", row.x,
           row.bf16, emulation::float_to_bf16(row.x));
  }
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = emulation::half_to_float(static_cast<uint16_t>(bits));
    const uint16_t back = emulation::float_to_half(x);
    expect(std::isnan(x) ? (bits & 0x7fff) > 0x7c00 : back == bits, "half %04x: got back %04x",
           bits, back);
  }
  expect(emulation::exp2_flushed(-INFINITY) == 0 && emulation::exp2_flushed(-127) == 0 &&
             emulation::exp2_flushed(3) == 8 && emulation::exp2_flushed(0x1p-130f) == 1,
         "exp2: wanted 0, 0, 8, 1");
}

// A launch that fails says why, and the next one works.
void check_failure() {
  Guarded<float> values(10, "values", 4), sum(1, "sum", 4), partials(1, "partials", 4);
  Guarded<uint32_t> tickets(1, "tickets", 4);
  tickets[0] = 0;
  for (float& x : values) x = 1;
  toy::SumParams params{11, values.data(), sum.data(), partials.data(), tickets.data()};
  std::fflush(stdout);
  emulation::exit_on_failure = false;
  const cudaError_t error = toy::launch_sum(params, 1, nullptr);
  emulation::exit_on_failure = true;
  const char* report = cudaGetErrorString(error);
  expect(error != cudaSuccess && std::strstr(report, "values, 0 bytes behind its end") != nullptr &&
             std::strstr(report, "block (0, 0, 0), thread (10, 0, 0)") != nullptr,
         "failure: wanted a report of values[10], got %s", report);
  params.count = 10;
  expect(toy::launch_sum(params, 1, nullptr) == cudaSuccess && sum[0] == 10, "after a failure");
}

void check_limits() {
  const auto nothing = [](void*) {};
  const auto run = [&](emulation::Index3 grid, emulation::Index3 block, size_t shared_bytes) {
    return emulation::run_grid(grid, block, shared_bytes, nothing, nullptr);
  };
  expect(run({1, 1, 1}, {1024, 1, 1}, 101376) == 0, "limits: wanted the largest block to run");
  expect(run({1, 1, 1}, {1025, 1, 1}, 0) == 1, "limits: wanted an error for 1025 threads");
  expect(run({1, 65536, 1}, {1, 1, 1}, 0) == 1, "limits: wanted an error for 65536 rows of blocks");
  expect(run({0, 1, 1}, {1, 1, 1}, 0) == 1, "limits: wanted an error for no blocks");
  expect(run({1, 1, 1}, {1, 1, 1}, 101377) == 1, "limits: wanted an error for 99 KiB and 1 byte");
}

}  // namespace

int main(int argc, char** argv) {
  return emulation::run_checks(argc, argv,
                               {{"sum", check_sum},
                                {"pipeline", check_pipeline},
                                {"bf16 matrix", check_bf16_matrix},
                                {"half matrix", check_half_matrix},
                                {"votes", check_votes},
                                {"relay", check_relay},
                                {"conversions", check_conversions},
                                {"failure", check_failure},
                                {"limits", check_limits}});
}
