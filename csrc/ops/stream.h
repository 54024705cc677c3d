// torch's current CUDA stream. The only file that knows how torch hands it out; it needs no header
// of torch's CUDA build, so it compiles against a CPU-only torch too.
#pragma once

#include <ATen/DeviceAccelerator.h>
#include <c10/core/Stream.h>
#include <cuda_runtime.h>

namespace hivis {

inline cudaStream_t current_stream(at::Device device) {
  return static_cast<cudaStream_t>(
      at::accelerator::getCurrentStream(device.index()).native_handle());
}

}  // namespace hivis
