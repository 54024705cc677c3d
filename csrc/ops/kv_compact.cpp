#include "ops/kv_compact.h"

#include <torch/library.h>

#include "cpu/kv_compact.h"

namespace hivis {
namespace {

// Checks values here alone, since on a GPU that would mean waiting for it.
void kv_compact_cpu(const KvCompactParams& p, at::Device) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const int32_t count = p.path_len[b], len = p.kv_len[b];
    TORCH_CHECK(count >= 0 && count <= p.path_width, "path_len[", b, "]: wanted 0..", p.path_width,
                ", got ", count);
    TORCH_CHECK(len >= 0, "kv_len[", b, "]: wanted 0 or more, got ", len);
    TORCH_CHECK(len <= p.rows, "kv_len[", b, "]: wanted at most ", p.rows, " (S), got ", len);
    const int32_t* nodes = p.path + b * p.path_width;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t node = nodes[i], before = i > 0 ? nodes[i - 1] : -1;
      TORCH_CHECK(node > before, "path[", b, ", ", i, "]: wanted more than ", before, ", got ",
                  node);
      TORCH_CHECK(len + int64_t{node} < p.rows, "path[", b, ", ", i, "]: wanted less than ",
                  p.rows - len, " (S - kv_len), got ", node);
    }
  }
  cpu::kv_compact_(p);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kKvCompactSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("kv_compact_", &kv_compact_op<kv_compact_cpu>); }

}  // namespace hivis
