// Who may share counters. Kernels of one stream run one after the other, so they share one span. A
// captured graph may be replayed on any stream, at the same time as other work: each captured call
// gets counters that no other call has, until the graph is gone.
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "cuda/counters.h"
#include "ops/counter_supply.h"
#include "ops/tickets.h"

namespace hivis {
namespace {

constexpr int kMostDevices = 64;

struct DeviceCounters {
  std::atomic<uint32_t*> first{nullptr};  // null before the first call outside of a capture
  CounterSupply supply{cuda::kCounters};
  std::mutex mutex;
  std::map<cudaStream_t, CounterSpan> of_stream;
};

// Never destroyed: at exit, graphs may be given up after everything else.
DeviceCounters& counters_of(at::Device device) {
  static auto* const devices = new std::array<DeviceCounters, kMostDevices>;
  return devices->at(std::max<int>(device.index(), 0));
}

// Counters of a call that is being captured; none where they cannot be had.
CounterSpan take_for_graph(DeviceCounters& counters, cudaStream_t stream, int64_t count) {
  struct Held {
    CounterSupply* supply;
    CounterSpan span;
  };
  const CounterSpan span = counters.supply.take(count);
  if (span.size == 0) return {};
  auto* const held = new Held{&counters.supply, span};
  const auto give_back = [](void* argument) {
    const auto* const held = static_cast<Held*>(argument);
    held->supply->give_back(held->span);
    delete held;
  };
  if (call_when_graph_is_gone(stream, give_back, held)) return span;
  give_back(held);
  return {};
}

CounterSpan take_for_stream(DeviceCounters& counters, cudaStream_t stream, int64_t count) {
  const std::lock_guard<std::mutex> lock(counters.mutex);
  CounterSpan& mine = counters.of_stream[stream];
  // A span that became too small is not given back: kernels of this stream may still count there.
  // Sizes double, so that all of them are less than the last.
  if (mine.size < count) mine = counters.supply.take(count);
  return mine;
}

}  // namespace

Tickets tickets(at::Device device, cudaStream_t stream, int64_t count) {
  TORCH_CHECK(device.index() < kMostDevices, "device: wanted an index below ", kMostDevices,
              ", got ", device.index());
  DeviceCounters& counters = counters_of(device);
  const bool capturing = is_capturing(stream);
  if (!capturing && counters.first == nullptr) {
    uint32_t* first = nullptr;
    const cudaError_t status = cuda::find_counters(&first);
    TORCH_CHECK(status == cudaSuccess, "device: wanted its counters, got ",
                cudaGetErrorString(status));
    counters.first = first;
  }
  if (uint32_t* const first = counters.first) {
    const CounterSpan span = capturing ? take_for_graph(counters, stream, count)
                                       : take_for_stream(counters, stream, count);
    if (span.size > 0) return {first + span.first, {}};
  }
  // Captured without a call before it, or too many graphs: then clearing is part of the call.
  const at::Tensor zeros = at::zeros({count}, at::TensorOptions().device(device).dtype(at::kInt));
  return {static_cast<uint32_t*>(zeros.data_ptr()), zeros};
}

}  // namespace hivis
