#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <limits>

#include "cuda/tree_attention.h"
#include "ops/stream.h"
#include "ops/tickets.h"
#include "ops/tree_attention.h"

namespace hivis {
namespace {

void tree_attention_cuda(const TreeAttentionParams& p, at::Device device) {
  // Keys are counted with 32 bits, up to the end of the last tile.
  constexpr int64_t kMostBlocks = 65535, kMostRows = std::numeric_limits<int32_t>::max() - 64;
  TORCH_CHECK(p.rows <= kMostRows, "k: wanted at most ", kMostRows, " rows (dimension 2), got ",
              p.rows);
  TORCH_CHECK(p.batch <= kMostBlocks, "q: wanted at most ", kMostBlocks, " sequences, got ",
              p.batch);
  TORCH_CHECK(p.kv_heads <= kMostBlocks, "k: wanted at most ", kMostBlocks, " heads, got ",
              p.kv_heads);
  const c10::DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(device);
  cuda::TreeAttentionLaunch planned = cuda::plan_tree_attention(p, multiprocessors(device));
  at::Tensor partials;
  Tickets counters;
  if (planned.tickets_size > 0) {
    partials =
        at::empty({planned.partials_size}, at::TensorOptions().device(device).dtype(at::kFloat));
    counters = tickets(device, stream, planned.tickets_size);
    planned.partials = partials.data_ptr<float>();
    planned.tickets = counters.data;
  }
  const cudaError_t status = cuda::launch_tree_attention(planned, stream);
  TORCH_CHECK(status == cudaSuccess, "tree_attention: launch failed: ", cudaGetErrorString(status));
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("tree_attention", &tree_attention_op<tree_attention_cuda>); }

}  // namespace hivis
