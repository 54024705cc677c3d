#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/tree_accept.h"
#include "ops/stream.h"
#include "ops/tickets.h"
#include "ops/tree_accept.h"

namespace hivis {
namespace {

void tree_accept_cuda(const TreeAcceptParams& p, at::Device device) {
  TORCH_CHECK(p.batch <= 65535, "logits: wanted at most 65535 sequences, got ", p.batch);
  const c10::DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(device);
  const at::Tensor workspace = at::empty({cuda::tree_accept_workspace(p)},
                                         at::TensorOptions().device(device).dtype(at::kByte));
  const Tickets counters = tickets(device, stream, p.batch);
  const cudaError_t status =
      cuda::launch_tree_accept(p, workspace.data_ptr(), counters.data, stream);
  TORCH_CHECK(status == cudaSuccess, "tree_accept: launch failed: ", cudaGetErrorString(status));
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("tree_accept", &tree_accept_op<tree_accept_cuda>); }

}  // namespace hivis
