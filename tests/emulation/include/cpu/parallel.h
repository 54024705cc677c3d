// Stand-in for csrc/cpu/parallel.h: check programs run the CPU bodies on one thread, without torch.
#pragma once

#include <cstdint>

namespace hivis::cpu {

template <class Body>
void parallel_for(int64_t count, int64_t, const Body& body) {
  if (count > 0) body(int64_t{0}, count);
}

inline int max_threads() { return 1; }

}  // namespace hivis::cpu
