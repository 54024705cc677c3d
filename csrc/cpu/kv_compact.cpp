// Row kv_len + path[i] goes to row kv_len + i for i < path_len, in every layer, side and head.
// One item of work is one (layer, side, sequence, head): its rows are copied in ascending order, so
// with path increasing no source is overwritten before it is read.
// Bound by memory: reads and writes L * 2 * Hkv * moved * D elements.
#include "cpu/kv_compact.h"

#include <cstring>

#include "cpu/parallel.h"

namespace hivis::cpu {
namespace {

// Below this many bytes waking a second thread costs more than the copy.
constexpr int64_t kGrainBytes = 128 << 10;

}  // namespace

void kv_compact_(const KvCompactParams& p) {
  int64_t most = 0;
  for (int64_t b = 0; b < p.batch; ++b) most = p.path_len[b] > most ? p.path_len[b] : most;

  // Rows of no bytes may have no address either.
  const int64_t slabs = p.row_bytes > 0 ? p.layers * 2 * p.batch * p.heads : 0;
  const int64_t slab_bytes = most * p.row_bytes + 1;
  parallel_for(slabs, kGrainBytes / slab_bytes + 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t h = item % p.heads;
      const int64_t b = item / p.heads % p.batch;
      const int64_t side = item / (p.heads * p.batch) % 2;
      const int64_t layer = item / (p.heads * p.batch * 2);
      char* rows = p.kv + layer * p.layer_stride + side * p.side_stride + b * p.batch_stride +
                   h * p.head_stride + p.kv_len[b] * p.row_stride;
      const int32_t* path = p.path + b * p.path_width;
      for (int64_t i = 0; i < p.path_len[b]; ++i) {
        if (path[i] == i) continue;  // already in place; the root always is
        std::memcpy(rows + i * p.row_stride, rows + path[i] * p.row_stride, p.row_bytes);
      }
    }
  });
  for (int64_t b = 0; b < p.batch; ++b) p.kv_len[b] += p.path_len[b];
}

}  // namespace hivis::cpu
