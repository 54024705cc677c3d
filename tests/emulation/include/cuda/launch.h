// Stand-in for csrc/cuda/launch.h: runs the grid on this CPU, now.
#pragma once

#include <cuda_runtime.h>

#include <tuple>
#include <utility>

namespace hivis::cuda {

constexpr size_t kMaxSharedBytes = 99 * 1024;
constexpr size_t kFreeSharedBytes = 48 * 1024;

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t, Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)};
  const auto body = [](void* context) {
    const Call* call = static_cast<const Call*>(context);
    std::apply(call->kernel, call->arguments);
  };
  return static_cast<cudaError_t>(emulation::run_grid(grid, block, shared_bytes, body, &call));
}

}  // namespace hivis::cuda
