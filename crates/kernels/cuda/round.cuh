// Rounding to 8 bits with a scale for each 32 numbers, by the rule of Q8_0: for kernels that make the numbers, and for the one that reads them.
#pragma once

#include "columns.cuh"

// Where rounded columns go; null: nowhere.
struct ColumnsOut {
  i8* codes;
  GroupScale* scales;
};

// Keeps four neighbouring numbers of a group whose others the seven lanes beside this one hold. All lanes of the warp come together, those
// without numbers with `inside` not set; `at` is the place of the first number.
__device__ __forceinline__ void keep_rounded(const ColumnsOut& to, u64 at, const float (&x)[4], bool inside) {
  // Magnitudes are ordered as their bits are, and what is not finite comes last.
  u32 bits = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) bits = max(bits, __float_as_uint(x[i]) & 0x7fffffffu);
#pragma unroll
  for (u32 offset = 4; offset > 0; offset /= 2) bits = max(bits, __shfl_xor_sync(EVERY_LANE, bits, offset));
  const float largest = __uint_as_float(bits);
  // What is not finite makes every product that it takes part in NaN; what is too small has no inverse.
  const bool finite = bits < 0x7f800000u, small = largest < 1e-36f;
  const float scale = !finite ? __uint_as_float(0x7fc00000u) : small ? 0.0f : largest / 127.0f;
  const float inverse = !finite || small ? 0.0f : 127.0f / largest;
  u32 packed = 0;
  i32 sum = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    const i32 code = finite ? __float2int_rn(x[i] * inverse) : 0;
    packed |= static_cast<u32>(code & 0xff) << (8 * i);
    sum += code;
  }
#pragma unroll
  for (u32 offset = 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(EVERY_LANE, sum, offset);
  const i32 upper = __shfl_xor_sync(EVERY_LANE, sum, 4);
  if (!inside) return;
  reinterpret_cast<u32*>(to.codes)[at / 4] = packed;
  if (at % GROUP == 0) to.scales[at / GROUP] = {scale, static_cast<i16>(sum), static_cast<i16>(upper)};
}
