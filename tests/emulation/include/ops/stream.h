// Stand-in for csrc/ops/stream.h: there is one stream, and it is always done. The CUDA bodies are
// registered as the CPU bodies of a library of their own.
#pragma once

#include <c10/core/Device.h>
#include <cuda_runtime.h>

#include <utility>
#include <vector>

#define HIVIS_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(hivis_emulated, CPU, m)

namespace hivis {

inline bool emulated_capture = false;  // as if a graph were being captured

inline cudaStream_t current_stream(at::Device) { return nullptr; }
inline bool is_capturing(cudaStream_t) { return emulated_capture; }

// What is to be called once the graph that is being captured is gone.
inline std::vector<std::pair<void (*)(void*), void*>> emulated_graph;

inline bool call_when_graph_is_gone(cudaStream_t, void (*done)(void*), void* argument) {
  emulated_graph.emplace_back(done, argument);
  return true;
}

inline void forget_emulated_graph() {
  for (const auto& [done, argument] : std::exchange(emulated_graph, {})) done(argument);
}

// Few, so that small problems are split over more blocks than there are multiprocessors, too.
inline int multiprocessors(at::Device) { return 6; }

}  // namespace hivis
