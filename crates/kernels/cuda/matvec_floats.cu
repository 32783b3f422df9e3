// A matrix of floats times one to eight columns of floats.

#include <cuda_bf16.h>

#include "common.cuh"

// Warps of a block.
constexpr u32 ROW_WARPS = 8;

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

// Some warps take a row together, as many as its width asks for: few long rows, as a router has, would leave most of a card without loads. A lane
// takes as many numbers as a load of 16 bytes has where all rows and columns allow, and one where not, by turns with the other lanes of its row.
template <class T, int M>
__device__ __forceinline__ void matvec(
    const typename T::Number* weights, u32 rows, u32 width, const float* x, u32 stride, u32 columns, float* out, u32 out_stride, u32 add, u32 together) {
  __shared__ float shares[ROW_WARPS][M];
  const u32 warp = threadIdx.x / WARP, place = warp % together, row = blockIdx.x * (ROW_WARPS / together) + warp / together;
  const u32 lane = threadIdx.x % WARP, turn = place * WARP + lane, turns = together * WARP;
  const bool active = row < rows;
  weights += static_cast<u64>(active ? row : 0) * width;
  if (!active) width = 0;
  float sums[M] = {};
  constexpr u32 AT_ONCE = 16 / sizeof(typename T::Number);
  const u64 all = reinterpret_cast<u64>(weights) | reinterpret_cast<u64>(x) | (M > 1 ? static_cast<u64>(stride) * 4 : 0);
  u32 k = 0;
  if (all % 16 == 0) {
#pragma unroll 4
    for (k = turn * AT_ONCE; k + AT_ONCE <= width; k += turns * AT_ONCE) {
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
  for (k += turn; k < width; k += turns) {
    const float w = T::value(weights[k]);
#pragma unroll
    for (int m = 0; m < M; ++m)
      if (m < columns) sums[m] = fmaf(w, x[m * stride + k], sums[m]);
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const float sum = warp_sum(sums[m]);
    if (lane == m) shares[warp][m] = sum;
  }
  __syncthreads();
  if (active && place == 0 && lane < M && lane < columns) {
    float sum = shares[warp][lane];
    for (u32 other = 1; other < together; ++other) sum += shares[warp + other][lane];
    float* to = out + static_cast<u64>(lane) * out_stride + row;
    *to = add ? *to + sum : sum;
  }
}

#define MATVEC(T, M)                                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) matvec_##T##_##M(                                                                \
      const T::Number* weights, u32 rows, u32 width, const float* x, u32 stride, u32 columns, float* out, u32 out_stride, u32 add,     \
      u32 together) {                                                                                                                \
    matvec<T, M>(weights, rows, width, x, stride, columns, out, out_stride, add, together);                                           \
  }

#define MATVECS(T) MATVEC(T, 1) MATVEC(T, 2) MATVEC(T, 4) MATVEC(T, 8)
MATVECS(F32)
MATVECS(F16)
MATVECS(BF16)
