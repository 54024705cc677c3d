#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "cuda/kv_compact.h"
#include "ops/kv_compact.h"
#include "ops/stream.h"
#include "ops/tickets.h"

namespace hivis {
namespace {

void kv_compact_cuda(const at::Tensor& kv, const at::Tensor& kv_len, const at::Tensor& path,
                     const at::Tensor& path_len) {
  const auto [L, B, Hkv, S, D, M] = check_kv_compact(kv, kv_len, path, path_len);
  TORCH_CHECK(B <= 65535, "kv: wanted at most 65535 sequences (dimension 2), got ", B);
  const c10::DeviceGuard guard(kv.device());
  const cudaStream_t stream = current_stream(kv.device());
  const at::Tensor counters = tickets(kv.device(), stream, B);

  const int64_t item = kv.element_size();
  cuda::KvCompactParams params{};
  params.layers = L;
  params.batch = B;
  params.heads = Hkv;
  params.rows = S;
  params.path_width = M;
  params.row_bytes = D * item;
  params.kv = static_cast<char*>(kv.data_ptr());
  params.kv_len = kv_len.data_ptr<int32_t>();
  params.tickets = static_cast<uint32_t*>(counters.data_ptr());
  params.path = path.const_data_ptr<int32_t>();
  params.path_len = path_len.const_data_ptr<int32_t>();
  params.layer_stride = kv.stride(0) * item;
  params.side_stride = kv.stride(1) * item;
  params.batch_stride = kv.stride(2) * item;
  params.head_stride = kv.stride(3) * item;
  params.row_stride = kv.stride(4) * item;
  const cudaError_t status = cuda::launch_kv_compact(params, stream);
  TORCH_CHECK(status == cudaSuccess, "kv_compact_: launch failed: ", cudaGetErrorString(status));
}

}  // namespace

HIVIS_CUDA_IMPL(m) { m.impl("kv_compact_", &kv_compact_cuda); }

}  // namespace hivis
