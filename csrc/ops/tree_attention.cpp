#include "ops/tree_attention.h"

#include <torch/library.h>

#include "cpu/tree_attention.h"

namespace hivis {
namespace {

// Checks values here alone, since on a GPU that would mean waiting for it.
void tree_attention_cpu(const TreeAttentionParams& p, at::Device device) {
  for (int64_t b = 0; b < p.batch; ++b) {
    TORCH_CHECK(p.kv_len[b] >= 0 && p.kv_len[b] <= p.rows - p.nodes, "kv_len[", b, "]: wanted 0..",
                p.rows - p.nodes, " (S - N), got ", p.kv_len[b]);
  }
  at::Tensor workspace;
  float* floats = nullptr;
  if (const int64_t size = cpu::tree_attention_workspace(p); size > 0) {
    workspace = at::empty({size}, at::TensorOptions().device(device).dtype(at::kFloat));
    floats = workspace.data_ptr<float>();
  }
  cpu::tree_attention(p, floats);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreeAttentionSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) {
  m.impl("tree_attention", &tree_attention_op<tree_attention_cpu>);
}

}  // namespace hivis
