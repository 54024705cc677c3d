// tree_attention on tensor cores for D = 80.
#include "cuda/tree_attention_launch.h"

template cudaError_t hivis::cuda::launch_head_dim<80>(const TreeAttentionLaunch&, cudaStream_t);
