// The one way kernels are launched: arguments are converted to the kernel's own types, and the
// launch reports its own error rather than one left over from before.
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace hivis::cuda {

// What every GPU since sm_80 can give a block (sm_86 and sm_89: 99 KiB), and what needs no asking.
constexpr size_t kMaxSharedBytes = 99 * 1024;
constexpr size_t kFreeSharedBytes = 48 * 1024;

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, Arguments&&... arguments) {
  if (shared_bytes > kFreeSharedBytes) {
    const cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    static_cast<int>(shared_bytes));
    if (status != cudaSuccess) return status;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace hivis::cuda
