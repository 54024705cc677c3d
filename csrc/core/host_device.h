// HIVIS_HD marks a function that both the host compiler and nvcc may call.
#pragma once

#ifdef __CUDACC__
#define HIVIS_HD __host__ __device__ __forceinline__
#else
#define HIVIS_HD inline
#endif
