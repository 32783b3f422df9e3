// Types with blocks of 256 numbers in bit fields: Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS.
#pragma once

#include "blocks/small.cuh"

struct Large : NoTable {
  static constexpr int NUMBERS = 256, ALIGN = 2, SCALES = 1, OFFSET = 0;
  static constexpr bool MINIMUM = false;
};

// 16 scales and minima of 4 bits, 64 bytes of bit pairs, scale, minimum.
struct Q2_K : Large {
  static constexpr int BYTES = 84, ALIGN = 4, SCALES = 2;
  static constexpr bool MINIMUM = true;
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32*, Group<2>& group) {
    const u32 both = block.pair(2 * g);
    const float scale = block.half(80), minimum = block.half(82);
    block.words<ALIGN>(16 + g / 4 * 32, group.codes);
#pragma unroll
    for (int i = 0; i < 8; ++i) group.codes[i] = group.codes[i] >> (g % 4 * 2) & 0x03030303;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      group.scale[h] = scale * static_cast<float>(both >> (8 * h) & 15);
      group.minimum[h] = minimum * static_cast<float>(both >> (8 * h + 4) & 15);
    }
  }
};

// 32 bytes of third bits, 64 of bit pairs, 12 of scales, scale; less 4.
struct Q3_K : Large {
  static constexpr int BYTES = 110, SCALES = 2, OFFSET = 4;
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32*, Group<2>& group) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const u32 low = block.word(32 + g / 4 * 32, i) >> (g % 4 * 2) & 0x03030303;
      group.codes[i] = low | (block.word(0, i) >> g & 0x01010101) << 2;
    }
    // Scales 2g and 2g + 1: lower nibbles in bytes 0..8, upper pairs in bytes 8..12.
    const u32 low = block.pair(96 + g % 4 * 2) >> (g / 4 * 4), high = block.pair(104 + g % 2 * 2) >> (g / 2 * 2);
    const float scale = block.half(108);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const u32 six = (low >> (8 * h) & 15) | (high >> (8 * h) & 3) << 4;
      group.scale[h] = scale * static_cast<float>(static_cast<i32>(six) - 32);
    }
  }
};

// Scale and minimum of group g out of the 12 packed bytes of Q4_K and Q5_K at byte 4: the first four lie in the lower 6 bits of bytes 0..4
// and 4..8, the others in nibbles of bytes 8..12, with the upper pairs of the first eight.
__device__ __forceinline__ void read_scale_and_minimum(Bytes block, u32 g, Group<1>& group) {
  u32 words[4];
  block.words<16>(0, words);
  const u32 shift = g % 4 * 8, low = words[3] >> shift;
  const u32 scale = words[1] >> shift, minimum = words[2] >> shift;
  const u32 six_scale = g < 4 ? scale & 63 : (low & 15) | (scale >> 2 & 48);
  const u32 six_minimum = g < 4 ? minimum & 63 : (low >> 4 & 15) | (minimum >> 2 & 48);
  group.scale[0] = __half2float(__ushort_as_half(static_cast<u16>(words[0]))) * static_cast<float>(six_scale);
  group.minimum[0] = __half2float(__ushort_as_half(static_cast<u16>(words[0] >> 16))) * static_cast<float>(six_minimum);
}

// Scale, minimum, 12 bytes of scales and minima, 128 of nibbles.
struct Q4_K : Large {
  static constexpr int BYTES = 144, ALIGN = 16;
  static constexpr bool MINIMUM = true;
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32*, Group<1>& group) {
    block.words<ALIGN>(16 + g / 2 * 32, group.codes);
#pragma unroll
    for (int i = 0; i < 8; ++i) group.codes[i] = group.codes[i] >> (g % 2 * 4) & 0x0f0f0f0f;
    read_scale_and_minimum(block, g, group);
  }
};

// As Q4_K, with 32 bytes of fifth bits before the nibbles.
struct Q5_K : Large {
  static constexpr int BYTES = 176, ALIGN = 16;
  static constexpr bool MINIMUM = true;
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32*, Group<1>& group) {
    u32 upper[8];
    block.words<ALIGN>(48 + g / 2 * 32, group.codes);
    block.words<ALIGN>(16, upper);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      group.codes[i] = (group.codes[i] >> (g % 2 * 4) & 0x0f0f0f0f) | (upper[i] >> g & 0x01010101) << 4;
    }
    read_scale_and_minimum(block, g, group);
  }
};

// 128 bytes of nibbles (64 hold 128 numbers), 64 of bit pairs, 16 signed scales, scale; less 32.
struct Q6_K : Large {
  static constexpr int BYTES = 210, SCALES = 2, OFFSET = 32;
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32*, Group<2>& group) {
    const u32 half = g / 4, part = g % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const u32 low = block.word(64 * half + part % 2 * 32, i) >> (part / 2 * 4) & 0x0f0f0f0f;
      group.codes[i] = low | (block.word(128 + 32 * half, i) >> (2 * part) & 0x03030303) << 4;
    }
    const i32 both = static_cast<i16>(block.pair(192 + 2 * g));
    const float scale = block.half(208);
    group.scale[0] = scale * static_cast<float>(static_cast<i8>(both));
    group.scale[1] = scale * static_cast<float>(both >> 8);
  }
};

// Scale, upper and lower parts of eight 6-bit scales, 8 times 16 bytes of nibbles that name one of sixteen values.
struct IQ4_XS : Large {
  static constexpr int BYTES = 136, ALIGN = 8;
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32*, Group<1>& group) {
    constexpr u32 VALUES[4] = IQ4_VALUES;
    look_up_nibbles<ALIGN>(block, 8 + 16 * g, VALUES, group.codes);
    const u32 low = block.byte(4 + g / 2) >> (g % 2 * 4) & 15, high = block.pair(2) >> (2 * g) & 3;
    group.scale[0] = block.half(0) * static_cast<float>(static_cast<i32>(low | high << 4) - 32);
  }
};
