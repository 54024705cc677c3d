#include "cuda/counters.h"

namespace hivis::cuda {
namespace {

__device__ uint32_t counters[kCounters];

}  // namespace

cudaError_t find_counters(uint32_t** first) {
  return cudaGetSymbolAddress(reinterpret_cast<void**>(first), counters);
}

}  // namespace hivis::cuda
