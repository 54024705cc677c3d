// The ops of hivis under another name, with their CUDA bodies run by the emulator on CPU tensors:
// the same schemas, and what csrc/ops/*_cuda.cpp register through the stand-in for ops/stream.h.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/library.h>

#include "emulation/device.h"
#include "ops/kv_compact.h"
#include "ops/shared_noise.h"
#include "ops/stream.h"
#include "ops/tickets.h"
#include "ops/tree_accept.h"
#include "ops/tree_attention.h"
#include "ops/tree_grow.h"
#include "ops/tree_prune.h"
#include "toy.h"

namespace {

// The sum of tiles [T, 64, 4] i32, back to front. Fails in the kernel if they lie where they may
// not, at an address that is no multiple of 16.
at::Tensor sum_tiles(const at::Tensor& tiles) {
  at::Tensor out = at::empty({toy::kThreads, 4}, tiles.options());
  const int count = static_cast<int>(tiles.size(0));
  const toy::PipelineParams params{count, count, tiles.const_data_ptr<int>(), out.data_ptr<int>()};
  const cudaError_t status = toy::launch_pipeline(params, nullptr);
  TORCH_CHECK(status == cudaSuccess, "sum_tiles: launch failed: ", cudaGetErrorString(status));
  return out;
}

}  // namespace

TORCH_LIBRARY(hivis_emulated, m) {
  m.def(hivis::kKvCompactSchema);
  m.def(hivis::kSharedNoiseSchema);
  m.def(hivis::kTreeAcceptSchema);
  m.def(hivis::kTreeAttentionSchema);
  m.def(hivis::kTreeGrowSchema);
  m.def(hivis::kTreePruneSchema);
  m.def("sum_tiles(Tensor tiles) -> Tensor", &sum_tiles);
  m.def("set_capturing(bool on) -> ()", [](bool on) { hivis::emulated_capture = on; });
  m.def("forget_graph() -> ()", [] { hivis::forget_emulated_graph(); });
  m.def("tickets(int count) -> Tensor", [](int64_t count) {
    const hivis::Tickets tickets = hivis::tickets(at::Device(at::kCPU, 0), nullptr, count);
    const auto keep = [cleared = tickets.cleared](void*) {};
    return at::from_blob(tickets.data, {count}, keep, at::TensorOptions().dtype(at::kInt));
  });
  m.def("set_schedule(int seed) -> ()",
        [](int64_t seed) { emulation::set_schedule(static_cast<uint64_t>(seed)); });
}
