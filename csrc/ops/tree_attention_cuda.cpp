#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <limits>

#include "cuda/tree_attention.h"
#include "ops/stream.h"
#include "ops/tickets.h"
#include "ops/tree_attention.h"

namespace hivis {
namespace {

cuda::Element element_of(at::ScalarType type) {
  if (type == at::kFloat) return cuda::Element::kFloat;
  return type == at::kBFloat16 ? cuda::Element::kBf16 : cuda::Element::kHalf;
}

at::Tensor tree_attention_cuda(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const at::Tensor& kv_len, const at::Tensor& ancestors,
                               double scale) {
  const auto [B, N, H, Hkv, S, D] = check_tree_attention(q, k, v, kv_len, ancestors);
  // Keys are counted with 32 bits, up to the end of the last tile.
  constexpr int64_t kMostBlocks = 65535, kMostRows = std::numeric_limits<int32_t>::max() - 64;
  TORCH_CHECK(S <= kMostRows, "k: wanted at most ", kMostRows, " rows (dimension 2), got ", S);
  TORCH_CHECK(B <= kMostBlocks, "q: wanted at most ", kMostBlocks, " sequences, got ", B);
  TORCH_CHECK(Hkv <= kMostBlocks, "k: wanted at most ", kMostBlocks, " heads, got ", Hkv);
  const c10::DeviceGuard guard(q.device());
  const cudaStream_t stream = current_stream(q.device());
  at::Tensor out = at::empty({B, N, H, D}, q.options());

  cuda::TreeAttentionParams params{};
  params.batch = static_cast<int>(B);
  params.nodes = static_cast<int>(N);
  params.heads = static_cast<int>(H);
  params.kv_heads = static_cast<int>(Hkv);
  params.head_dim = static_cast<int>(D);
  params.rows = S;
  params.element = element_of(q.scalar_type());
  params.scale = static_cast<float>(scale);
  params.q = q.const_data_ptr();
  params.k = k.const_data_ptr();
  params.v = v.const_data_ptr();
  params.kv_len = kv_len.const_data_ptr<int32_t>();
  params.ancestors = reinterpret_cast<const uint64_t*>(ancestors.const_data_ptr<int64_t>());
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

  const cuda::TreeAttentionPlan plan =
      cuda::plan_tree_attention(&params, multiprocessors(q.device()));
  at::Tensor partials, counters;
  if (plan.tickets > 0) {
    partials = at::empty({plan.partials}, q.options().dtype(at::kFloat));
    counters = tickets(q.device(), stream, plan.tickets);
    params.partials = partials.data_ptr<float>();
    params.tickets = static_cast<uint32_t*>(counters.data_ptr());
  }
  const cudaError_t status = cuda::launch_tree_attention(params, stream);
  TORCH_CHECK(status == cudaSuccess, "tree_attention: launch failed: ", cudaGetErrorString(status));
  return out;
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("tree_attention", &tree_attention_cuda); }

}  // namespace hivis
