// kv_compact_ against a plain loop, every byte.
#include <algorithm>
#include <climits>
#include <random>
#include <vector>

#include "check.h"
#include "cuda/kv_compact.h"

namespace {

using emulation::expect;
using emulation::Guarded;
using hivis::KvCompactParams;
using hivis::cuda::launch_kv_compact;

struct Case {
  int64_t layers, batch, heads, rows, row_bytes, path_width;
  int64_t row_gap;  // bytes between rows that belong to somebody else
};

// Sizes of every word width; with 16-byte words, up to 15 blocks of 128 threads per sequence.
constexpr Case kCases[] = {
    {1, 1, 1, 1, 16, 1, 0},     {1, 1, 1, 9, 1, 4, 0},   {2, 3, 2, 23, 10, 5, 0},
    {3, 2, 5, 17, 12, 8, 0},    {2, 4, 3, 40, 80, 9, 0}, {10, 3, 6, 21, 256, 7, 0},
    {4, 2, 3, 30, 64, 6, 64},   {2, 2, 3, 11, 33, 3, 7}, {1, 70, 1, 6, 32, 3, 0},
    {5, 2, 31, 13, 48, 13, 16}, {0, 3, 1, 8, 32, 4, 0},  {3, 2, 7, 65, 4, 64, 12},
};

struct Slab {
  explicit Slab(const Case& c)
      : row(c.row_bytes + c.row_gap),
        head(c.rows * row),
        sequence(c.heads * head),
        side(c.batch * sequence),
        layer(2 * side),
        // The last row's gap does not exist.
        bytes(std::max(int64_t{0}, c.layers * layer - c.row_gap)) {}
  int64_t row, head, sequence, side, layer, bytes;
};

void compact(const Case& c, const Slab& slab, char* kv, int64_t b, int old_len, const int32_t* path,
             int count) {
  for (int64_t l = 0; l < c.layers; ++l) {
    for (int64_t s = 0; s < 2; ++s) {
      for (int64_t h = 0; h < c.heads; ++h) {
        char* rows = kv + l * slab.layer + s * slab.side + b * slab.sequence + h * slab.head;
        for (int i = 0; i < count; ++i) {
          if (old_len + int64_t{path[i]} >= c.rows) continue;
          std::memmove(rows + (old_len + i) * slab.row, rows + (old_len + path[i]) * slab.row,
                       static_cast<size_t>(c.row_bytes));
        }
      }
    }
  }
}

// bad: with lengths out of range, too, which must not lead out of the slab.
void check_case(const Case& c, std::mt19937& random, bool bad) {
  const auto below = [&](int64_t bound) {
    return static_cast<int>(random() % static_cast<uint64_t>(bound));
  };
  const Slab slab(c);
  Guarded<char> kv(slab.bytes, "kv", 1);
  Guarded<int32_t> kv_len(c.batch, "kv_len", 4), path(c.batch * c.path_width, "path", 4);
  Guarded<int32_t> path_len(c.batch, "path_len", 4);
  Guarded<uint32_t> tickets(c.batch, "tickets", 4);
  for (uint32_t& ticket : tickets) ticket = 0;

  KvCompactParams params{};
  params.layers = c.layers;
  params.batch = c.batch;
  params.heads = c.heads;
  params.rows = c.rows;
  params.path_width = c.path_width;
  params.row_bytes = c.row_bytes;
  params.kv = kv.data();
  params.kv_len = kv_len.data();
  params.path = path.data();
  params.path_len = path_len.data();
  params.layer_stride = slab.layer;
  params.side_stride = slab.side;
  params.batch_stride = slab.sequence;
  params.head_stride = slab.head;
  params.row_stride = slab.row;

  for (int launch = 0; launch < 2; ++launch) {
    for (char& byte : kv) byte = static_cast<char>(random());
    std::vector<char> wanted(kv.begin(), kv.end());
    std::vector<int32_t> wanted_len;
    for (int64_t b = 0; b < c.batch; ++b) {
      // The first sequence accepts everything, the last one nothing; a path may lead past row S.
      int count = b == 0 ? static_cast<int>(c.path_width) : below(c.path_width + 1);
      if (b == c.batch - 1 && b > 0) count = 0;
      int old_len = std::max(0, below(c.rows) - count);
      path_len[b] = count;
      if (bad) {
        const int kind = below(4);
        if (kind == 0) old_len = -1 - below(3);
        if (kind == 1) old_len = static_cast<int>(c.rows) + below(1000);
        if (kind >= 2) count = kind == 2 ? static_cast<int>(c.path_width) : 0;
        if (kind >= 2) path_len[b] = kind == 2 ? count + 1 + below(1000) : -1 - below(3);
      }
      kv_len[b] = old_len;
      wanted_len.push_back(old_len + path_len[b]);
      int32_t* nodes = path.data() + b * c.path_width;
      for (int64_t i = 0, node = below(2); i < c.path_width; ++i, node += 1 + below(3)) {
        const int32_t hostile[] = {INT_MIN, -1, INT_MAX, static_cast<int32_t>(i) + 1};
        nodes[i] = i < count ? static_cast<int32_t>(node) : hostile[below(4)];
      }
      if (old_len >= 0) compact(c, slab, wanted.data(), b, old_len, nodes, count);
    }
    const std::vector<int32_t> path_before(path.begin(), path.end());

    expect(launch_kv_compact(params, tickets.data(), nullptr) == cudaSuccess, "launch failed");

    for (int64_t i = 0; i < slab.bytes; ++i) {
      expect(kv[i] == wanted[static_cast<size_t>(i)],
             "kv: row bytes %lld: wanted %d at byte %lld, got %d",
             static_cast<long long>(c.row_bytes), wanted[static_cast<size_t>(i)],
             static_cast<long long>(i), kv[i]);
    }
    expect(std::equal(path.begin(), path.end(), path_before.begin()), "path: changed");
    for (int64_t b = 0; b < c.batch; ++b) {
      const int want = wanted_len[static_cast<size_t>(b)];
      expect(bad || kv_len[b] == want, "kv_len[%lld]: wanted %d, got %d", static_cast<long long>(b),
             want, kv_len[b]);
      expect(tickets[b] == 0, "tickets[%lld]: wanted 0, got %u", static_cast<long long>(b),
             tickets[b]);
    }
  }
}

void check_sizes() {
  std::mt19937 random(7);
  for (const Case& c : kCases) check_case(c, random, false);
}

void check_bad_lengths() {
  std::mt19937 random(8);
  for (const Case& c : kCases) check_case(c, random, true);
}

void check_limits() {
  KvCompactParams params{};
  expect(launch_kv_compact(params, nullptr, nullptr) == cudaSuccess,
         "no sequences: wanted no launch");
  params.batch = 65536;
  expect(launch_kv_compact(params, nullptr, nullptr) == cudaErrorInvalidValue,
         "65536 sequences: wanted an error");
}

}  // namespace

int main(int argc, char** argv) {
  return emulation::run_checks(
      argc, argv,
      {{"sizes", check_sizes}, {"bad_lengths", check_bad_lengths}, {"limits", check_limits}});
}
