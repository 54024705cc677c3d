#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/tree_grow.h"
#include "ops/stream.h"
#include "ops/tickets.h"
#include "ops/tree_grow.h"

namespace hivis {
namespace {

void tree_grow_cuda(const at::Tensor& logits, const at::Tensor& seed, const at::Tensor& position,
                    const at::Tensor& temperature, const at::Tensor& ends, const at::Tensor& output,
                    const at::Tensor& pool_scores, const at::Tensor& pool_tokens,
                    const at::Tensor& pool_parents, const at::Tensor& nodes,
                    const at::Tensor& slots, const at::Tensor& tokens, const at::Tensor& scores,
                    const at::Tensor& words, const at::Tensor& carried, int64_t level,
                    double sharpness, bool noise) {
  const TreeGrowTensors tensors{logits, seed,        position,    temperature,  ends,
                                output, pool_scores, pool_tokens, pool_parents, nodes,
                                slots,  tokens,      scores,      words,        carried};
  const TreeGrowShape shape = check_tree_grow(tensors, level, sharpness);
  TORCH_CHECK(shape.B <= 65535, "logits: wanted at most 65535 sequences, got ", shape.B);
  const c10::DeviceGuard guard(logits.device());
  const cudaStream_t stream = current_stream(logits.device());
  cuda::TreeGrowParams params{};
  set_tree_grow(shape, tensors, level, sharpness, noise, &params);
  const at::Tensor workspace =
      at::empty({cuda::tree_grow_workspace(params)}, logits.options().dtype(at::kByte));
  const at::Tensor counters = tickets(logits.device(), stream, shape.B);
  params.workspace = workspace.data_ptr();
  params.tickets = static_cast<uint32_t*>(counters.data_ptr());
  const cudaError_t status = cuda::launch_tree_grow(params, stream);
  TORCH_CHECK(status == cudaSuccess, "tree_grow_: launch failed: ", cudaGetErrorString(status));
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("tree_grow_", &tree_grow_cuda); }

}  // namespace hivis
