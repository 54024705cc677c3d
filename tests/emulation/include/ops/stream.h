// Stand-in for csrc/ops/stream.h: there is one stream, and it is always done. The CUDA bodies are
// registered as the CPU bodies of a library of their own.
#pragma once

#include <c10/core/Device.h>
#include <cuda_runtime.h>

#define HIVIS_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(hivis_emulated, CPU, m)

namespace hivis {

inline bool emulated_capture = false;  // as if a graph were being captured

inline cudaStream_t current_stream(at::Device) { return nullptr; }
inline bool is_capturing(cudaStream_t) { return emulated_capture; }
inline void synchronize(cudaStream_t) {}

// Few, so that small problems are split over more blocks than there are multiprocessors, too.
inline int multiprocessors(at::Device) { return 6; }

}  // namespace hivis
