// Work for the block that finishes last, in the same launch.
#pragma once

#include "cuda/ptx.h"

namespace hivis::cuda {

// Is this the last of `blocks` blocks to get here? Then it sees all that they have written.
// Called by every thread; `flag` lies in shared memory and has no other use. *ticket is 0 before
// the first block comes and 0 again after the last one.
__device__ __forceinline__ bool is_last_block(uint32_t* ticket, unsigned blocks, int* flag) {
  __syncthreads();
  if (threadIdx.x == 0) {
    fence();
    *flag = atomicAdd(ticket, 1u) == blocks - 1;
    if (*flag) {
      fence();
      *ticket = 0;
    }
  }
  __syncthreads();
  return *flag;
}

}  // namespace hivis::cuda
