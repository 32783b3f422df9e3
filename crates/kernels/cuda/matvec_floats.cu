// A matrix of floats times one to eight columns of floats.

#include <cuda_bf16.h>

#include "common.cuh"

struct F32 {
  using Number = float;
  static __device__ __forceinline__ float value(float x) { return x; }
};

struct F16 {
  using Number = __half;
  static __device__ __forceinline__ float value(__half x) { return __half2float(x); }
};

struct BF16 {
  using Number = __nv_bfloat16;
  static __device__ __forceinline__ float value(__nv_bfloat16 x) { return __bfloat162float(x); }
};

// A warp takes a row, a lane eight numbers of every 256 in loads of 16 bytes where all rows and columns allow, and one of every 32 where not.
template <class T, int M>
__device__ __forceinline__ void matvec(
    const typename T::Number* weights, u32 rows, u32 width, const float* x, u32 stride, u32 columns, float* out, u32 out_stride, u32 add) {
  const u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;
  weights += static_cast<u64>(row) * width;
  float sums[M] = {};
  constexpr u32 AT_ONCE = 16 / sizeof(typename T::Number);
  const u64 all = reinterpret_cast<u64>(weights) | reinterpret_cast<u64>(x) | (M > 1 ? static_cast<u64>(stride) * 4 : 0);
  u32 k = 0;
  if (all % 16 == 0) {
#pragma unroll 4
    for (k = lane * AT_ONCE; k + AT_ONCE <= width; k += WARP * AT_ONCE) {
      alignas(16) typename T::Number w[AT_ONCE];
      *reinterpret_cast<uint4*>(w) = __ldg(reinterpret_cast<const uint4*>(weights + k));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        if (m > 0 && m >= columns) break;
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i += 4) {
          const float4 v = __ldg(reinterpret_cast<const float4*>(x + m * stride + k + i));
          sums[m] = fmaf(T::value(w[i]), v.x, sums[m]);
          sums[m] = fmaf(T::value(w[i + 1]), v.y, sums[m]);
          sums[m] = fmaf(T::value(w[i + 2]), v.z, sums[m]);
          sums[m] = fmaf(T::value(w[i + 3]), v.w, sums[m]);
        }
      }
    }
    k = width / AT_ONCE * AT_ONCE;
  }
  for (k += lane; k < width; k += WARP) {
    const float w = T::value(weights[k]);
#pragma unroll
    for (int m = 0; m < M; ++m)
      if (m < columns) sums[m] = fmaf(w, x[m * stride + k], sums[m]);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const float sum = warp_sum(sums[m]);
    if (lane == m && m < columns) {
      float* to = out + static_cast<u64>(m) * out_stride + row;
      *to = add ? *to + sum : sum;
    }
  }
}

#define MATVEC(T, M)                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) matvec_##T##_##M(                                                                \
      const T::Number* weights, u32 rows, u32 width, const float* x, u32 stride, u32 columns, float* out, u32 out_stride, u32 add) {   \
    matvec<T, M>(weights, rows, width, x, stride, columns, out, out_stride, add);                                                     \
  }

#define MATVECS(T) MATVEC(T, 1) MATVEC(T, 2) MATVEC(T, 4) MATVEC(T, 8)
MATVECS(F32)
MATVECS(F16)
MATVECS(BF16)
