#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/kv_compact.h"
#include "ops/kv_compact.h"
#include "ops/stream.h"
#include "ops/tickets.h"

namespace hivis {
namespace {

void kv_compact_cuda(const KvCompactParams& p, at::Device device) {
  TORCH_CHECK(p.batch <= 65535, "kv: wanted at most 65535 sequences (dimension 2), got ", p.batch);
  const c10::DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(device);
  const Tickets counters = tickets(device, stream, p.batch);
  const cudaError_t status = cuda::launch_kv_compact(p, counters.data, stream);
  TORCH_CHECK(status == cudaSuccess, "kv_compact_: launch failed: ", cudaGetErrorString(status));
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("kv_compact_", &kv_compact_op<kv_compact_cuda>); }

}  // namespace hivis
