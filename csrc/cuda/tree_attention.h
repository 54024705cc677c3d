// tree_attention on CUDA, in one launch.
#pragma once

#include <cuda_runtime.h>

#include "core/tree_attention_params.h"

namespace hivis::cuda {

// The op's parameters, how one launch divides its work, and the workspace that this takes.
struct TreeAttentionLaunch : TreeAttentionParams {
  int row_tiles;   // tiles of rows (node, head in group) per K/V head
  int max_splits;  // of the keys of the longest sequence there can be
  int max_slots;   // partial results per row tile: every split has 1 or more

  // workspace, device memory, set by the caller; the sizes are 0 if there is only one slot
  int64_t partials_size;  // floats
  int64_t tickets_size;   // one per sequence, K/V head and row tile
  float* partials;        // whatever they hold
  uint32_t* tickets;      // 0 before the launch, 0 again after it
};

// Chooses the kernel and the splits for these sizes, types and alignments, on a device with this
// number of multiprocessors. Depends on nothing that lies in device memory, and for one sequence's
// result neither on B nor on S.
TreeAttentionLaunch plan_tree_attention(const TreeAttentionParams& params, int multiprocessors);

// `planned` comes from plan_tree_attention and has its workspace.
cudaError_t launch_tree_attention(const TreeAttentionLaunch& planned, cudaStream_t stream);

}  // namespace hivis::cuda
