#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <tuple>

#include "cuda/tree_accept.h"
#include "ops/stream.h"
#include "ops/tickets.h"
#include "ops/tree_accept.h"

namespace hivis {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> tree_accept_cuda(
    const at::Tensor& logits, const at::Tensor& tokens, const at::Tensor& parents,
    const at::Tensor& seed, const at::Tensor& position, const at::Tensor& temperature,
    const at::Tensor& top_k, const at::Tensor& top_p, const at::Tensor& min_p, int64_t max_depth) {
  const TreeAcceptShape shape = check_tree_accept(logits, tokens, parents, seed, position,
                                                  temperature, top_k, top_p, min_p, max_depth);
  TORCH_CHECK(shape.B <= 65535, "logits: wanted at most 65535 sequences, got ", shape.B);
  const c10::DeviceGuard guard(logits.device());
  const cudaStream_t stream = current_stream(logits.device());
  at::Tensor path = at::empty({shape.B, max_depth + 1}, parents.options());
  at::Tensor path_len = at::empty({shape.B}, parents.options());
  at::Tensor next_token = at::empty({shape.B}, tokens.options());
  at::Tensor emitted = at::empty({shape.B, max_depth + 1}, tokens.options());

  cuda::TreeAcceptParams params{};
  set_tree_accept<cuda::LogitType>(shape, logits, tokens, parents, seed, position, temperature,
                                   top_k, top_p, min_p, max_depth, path, path_len, next_token,
                                   emitted, &params);
  const at::Tensor workspace =
      at::empty({cuda::tree_accept_workspace(params)}, logits.options().dtype(at::kByte));
  const at::Tensor counters = tickets(logits.device(), stream, shape.B);
  params.workspace = workspace.data_ptr();
  params.tickets = static_cast<uint32_t*>(counters.data_ptr());
  const cudaError_t status = cuda::launch_tree_accept(params, stream);
  TORCH_CHECK(status == cudaSuccess, "tree_accept: launch failed: ", cudaGetErrorString(status));
  return {path, path_len, next_token, emitted};
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("tree_accept", &tree_accept_cuda); }

}  // namespace hivis
