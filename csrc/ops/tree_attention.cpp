#include "ops/tree_attention.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu/tree_attention.h"

namespace hivis {
namespace {

cpu::Element element_of(at::ScalarType type) {
  if (type == at::kFloat) return cpu::Element::kFloat;
  return type == at::kBFloat16 ? cpu::Element::kBf16 : cpu::Element::kFp16;
}

at::Tensor tree_attention_cpu(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& kv_len, const at::Tensor& ancestors, double scale) {
  const auto [B, N, H, Hkv, S, D] = check_tree_attention(q, k, v, kv_len, ancestors);
  const int32_t* lengths = kv_len.const_data_ptr<int32_t>();
  int64_t longest = N;
  for (int64_t b = 0; b < B; ++b) {
    TORCH_CHECK(lengths[b] >= 0 && lengths[b] + N <= S, "kv_len[", b, "]: wanted 0..", S - N,
                " (S - N), got ", lengths[b]);
    longest = std::max(longest, lengths[b] + N);
  }
  at::Tensor out = at::empty({B, N, H, D}, q.options());

  cpu::TreeAttentionParams params{};
  params.batch = B;
  params.nodes = N;
  params.heads = H;
  params.kv_heads = Hkv;
  params.head_dim = D;
  params.longest = longest;
  params.element = element_of(q.scalar_type());
  params.scale = static_cast<float>(scale);
  params.q = q.const_data_ptr();
  params.k = k.const_data_ptr();
  params.v = v.const_data_ptr();
  params.kv_len = lengths;
  params.ancestors = ancestors.const_data_ptr<int64_t>();
  params.out = out.data_ptr();
  params.q_batch = q.stride(0);
  params.q_node = q.stride(1);
  params.q_head = q.stride(2);
  params.k_batch = k.stride(0);
  params.k_head = k.stride(1);
  params.k_row = k.stride(2);
  params.v_batch = v.stride(0);
  params.v_head = v.stride(1);
  params.v_row = v.stride(2);

  at::Tensor partials;
  if (const int64_t size = cpu::partials_size(params); size > 0) {
    partials = at::empty({size}, q.options().dtype(at::kFloat));
    params.partials = partials.data_ptr<float>();
  }
  cpu::tree_attention(params);
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(hivis, m) { m.def(kTreeAttentionSchema, {at::Tag::pt2_compliant_tag}); }

TORCH_LIBRARY_IMPL(hivis, CPU, m) { m.impl("tree_attention", &tree_attention_cpu); }

}  // namespace hivis
