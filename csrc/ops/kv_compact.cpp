#include "ops/kv_compact.h"

#include <torch/library.h>

#include "cpu/kv_compact.h"

namespace hivis {
namespace {

void kv_compact_cpu(const at::Tensor& kv, const at::Tensor& kv_len, const at::Tensor& path,
                    const at::Tensor& path_len) {
  const auto [L, B, Hkv, S, D, M] = check_kv_compact(kv, kv_len, path, path_len);
  const int32_t* lengths = kv_len.const_data_ptr<int32_t>();
  const int32_t* counts = path_len.const_data_ptr<int32_t>();
  const int32_t* nodes = path.const_data_ptr<int32_t>();
  for (int64_t b = 0; b < B; ++b) {
    TORCH_CHECK(counts[b] >= 0 && counts[b] <= M, "path_len[", b, "]: wanted 0..", M, ", got ",
                counts[b]);
    TORCH_CHECK(lengths[b] >= 0, "kv_len[", b, "]: wanted 0 or more, got ", lengths[b]);
    TORCH_CHECK(lengths[b] <= S, "kv_len[", b, "]: wanted at most ", S, " (S), got ", lengths[b]);
    for (int64_t i = 0; i < counts[b]; ++i) {
      const int32_t node = nodes[b * M + i], before = i > 0 ? nodes[b * M + i - 1] : -1;
      TORCH_CHECK(node > before, "path[", b, ", ", i, "]: wanted more than ", before, ", got ",
                  node);
      TORCH_CHECK(lengths[b] + int64_t{node} < S, "path[", b, ", ", i, "]: wanted less than ",
                  S - lengths[b], " (S - kv_len), got ", node);
    }
  }

  const int64_t item = kv.element_size();
  cpu::KvCompactParams params{};
  params.layers = L;
  params.batch = B;
  params.heads = Hkv;
  params.path_stride = M;
  params.row_bytes = D * item;
  params.kv = static_cast<char*>(kv.data_ptr());
  params.kv_len = kv_len.data_ptr<int32_t>();
  params.path = nodes;
  params.path_len = counts;
  params.layer_stride = kv.stride(0) * item;
  params.side_stride = kv.stride(1) * item;
  params.batch_stride = kv.stride(2) * item;
  params.head_stride = kv.stride(3) * item;
  params.row_stride = kv.stride(4) * item;
  cpu::kv_compact_(params);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kKvCompactSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("kv_compact_", &kv_compact_cpu); }

}  // namespace hivis
