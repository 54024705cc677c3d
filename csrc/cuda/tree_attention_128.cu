// tree_attention on tensor cores for D = 128.
#include "cuda/tree_attention_launch.h"

template cudaError_t hivis::cuda::launch_head_dim<128>(const TreeAttentionLaunch&, cudaStream_t);
