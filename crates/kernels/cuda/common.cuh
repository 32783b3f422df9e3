// What all kernels share: names of types, and sums over the threads of a warp.
#pragma once

#include <cuda_fp16.h>

using u8 = unsigned char;
using i8 = signed char;
using u16 = unsigned short;
using i16 = short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;

constexpr int WARP = 32;
constexpr u32 EVERY_LANE = 0xffffffffu;

// The sum over a warp's lanes, the same in all of them, always in the same order.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(EVERY_LANE, x, offset);
  return x;
}

// The largest over a warp's lanes, the same in all of them.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, offset));
  return x;
}
