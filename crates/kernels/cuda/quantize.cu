// Rounds columns of numbers to 8 bits with a scale for each 32: the rule of Q8_0, and bit for bit what the CPU's `Activations` hold.

#include "round.cuh"

// A warp takes 128 numbers of a column (blockIdx.y), a lane four of them, eight lanes a group. Bytes: 4 read and 1.25 written a number.
extern "C" __global__ void __launch_bounds__(256)
    quantize(const float* __restrict__ x, u32 x_stride, u32 width, i8* __restrict__ codes, GroupScale* __restrict__ scales, u32 stride) {
  const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  x += static_cast<u64>(blockIdx.y) * x_stride;
  float number[4];
#pragma unroll
  for (u32 i = 0; i < 4; i++) number[i] = first + i < width ? x[first + i] : 0.0f;
  keep_rounded({codes, scales}, static_cast<u64>(blockIdx.y) * stride + first, number, first < stride);
}
