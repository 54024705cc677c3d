// torch's current CUDA stream, and the place in torch's dispatcher where CUDA bodies are
// registered. The only file that knows either; from torch 2.11 on it needs no header of torch's
// CUDA build, so it compiles against a CPU-only torch too. Tests that run kernels elsewhere replace
// it.
#pragma once

#include <ATen/DeviceAccelerator.h>
#include <c10/core/Stream.h>
#include <cuda_runtime.h>
#include <torch/headeronly/version.h>

// CUDA streams have a native handle since torch 2.11.
#define HIVIS_STREAMS_HAVE_HANDLES (TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 11)
#if !HIVIS_STREAMS_HAVE_HANDLES
#include <c10/cuda/CUDAStream.h>
#endif

#define HIVIS_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(hivis, CUDA, m)

namespace hivis {

inline cudaStream_t current_stream(at::Device device) {
#if HIVIS_STREAMS_HAVE_HANDLES
  return static_cast<cudaStream_t>(
      at::accelerator::getCurrentStream(device.index()).native_handle());
#else
  return c10::cuda::getCurrentCUDAStream(device.index());
#endif
}

// Is a CUDA graph being captured from this stream?
inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
         status != cudaStreamCaptureStatusNone;
}

// Calls done(argument), from any thread, once the graph that is being captured from `stream` is
// gone and everything that was made of it, too. `done` may call nothing of CUDA. Returns false, and
// calls nothing, if that cannot be had.
inline bool call_when_graph_is_gone(cudaStream_t stream, void (*done)(void*), void* argument) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
#if CUDART_VERSION >= 13000
  if (cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph) != cudaSuccess) return false;
#else
  if (cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, &graph) != cudaSuccess) return false;
#endif
  cudaUserObject_t object = nullptr;
  if (graph == nullptr || cudaUserObjectCreate(&object, argument, done, 1,
                                               cudaUserObjectNoDestructorSync) != cudaSuccess) {
    return false;
  }
  // A graph that does not take it cannot be used either; the release then calls `done`.
  if (cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove) != cudaSuccess) {
    cudaUserObjectRelease(object, 1);
    TORCH_CHECK(false, "stream: wanted a graph that keeps what it uses, got none");
  }
  return true;
}

// Multiprocessors of the device.
inline int multiprocessors(at::Device device) {
  int count = 0;
  const cudaError_t status =
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device.index());
  TORCH_CHECK(status == cudaSuccess, "device: wanted its number of multiprocessors, got ",
              cudaGetErrorString(status));
  return count;
}

}  // namespace hivis
