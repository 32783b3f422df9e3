// Rounds columns of numbers to 8 bits with a scale for each 32: the rule of Q8_0, and bit for bit what the CPU's `Activations` hold.

#include "columns.cuh"

// A warp takes 128 numbers of a column (blockIdx.y), a lane four of them, eight lanes a group. Bytes: 4 read and 1.25 written a number.
extern "C" __global__ void __launch_bounds__(256)
    quantize(const float* __restrict__ x, u32 x_stride, u32 width, i8* __restrict__ codes, GroupScale* __restrict__ scales, u32 stride) {
  const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  x += static_cast<u64>(blockIdx.y) * x_stride;
  float number[4];
  u32 largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    number[i] = first + i < width ? x[first + i] : 0.0f;
    // Magnitudes are ordered as their bits are, and what is not finite comes last.
    largest = max(largest, __float_as_uint(number[i]) & 0x7fffffffu);
  }
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) largest = max(largest, __shfl_xor_sync(EVERY_LANE, largest, offset));

  const float magnitude = __uint_as_float(largest);
  float scale = 0.0f, inverse = 0.0f;  // Where numbers are too small for an inverse.
  if (largest >= 0x7f800000u) {
    scale = __uint_as_float(0x7fc00000u);  // What is not finite makes every product that it takes part in NaN.
  } else if (magnitude >= 1e-36f) {
    scale = magnitude / 127.0f;
    inverse = 127.0f / magnitude;
  }
  i32 packed = 0, sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const i32 code = largest >= 0x7f800000u ? 0 : __float2int_rn(number[i] * inverse);
    packed |= (code & 0xff) << (8 * i);
    sum += code;
  }
#pragma unroll
  for (int offset = 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(EVERY_LANE, sum, offset);
  const i32 upper = __shfl_down_sync(EVERY_LANE, sum, 4);
  if (first >= stride) return;
  const u64 at = static_cast<u64>(blockIdx.y) * stride + first;
  reinterpret_cast<i32*>(codes)[at / 4] = packed;
  if (threadIdx.x % 8 == 0) scales[at / GROUP] = {scale, static_cast<i16>(sum), static_cast<i16>(upper)};
}
