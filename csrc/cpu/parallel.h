// Threads for the CPU ops: torch's own pool, so that torch.set_num_threads() holds here too.
// The only file of csrc/cpu that includes torch.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

namespace hivis::cpu {

// body(begin, end) over pieces of [0, count). Pieces have at least `grain` items; one piece runs on
// the calling thread without entering the pool.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  if (count <= grain) {
    body(int64_t{0}, count);
    return;
  }
  at::parallel_for(0, count, grain, body);
}

inline int max_threads() { return at::get_num_threads(); }

}  // namespace hivis::cpu
