// Types with blocks of 32 numbers: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4.
#pragma once

#include "blocks/group.cuh"

// 16 bytes: numbers 0..16 in the lower halves, 16..32 in the upper.
template <int ALIGN>
__device__ __forceinline__ void read_nibbles(Bytes block, u32 offset, u32 (&codes)[8]) {
  u32 words[4];
  block.words<ALIGN>(offset, words);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes[i] = words[i] & 0x0f0f0f0f;
    codes[4 + i] = words[i] >> 4 & 0x0f0f0f0f;
  }
}

// A fifth bit for each of 32 codes.
__device__ __forceinline__ void add_fifth_bits(u32 bits, u32 (&codes)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) codes[i] |= spread(bits >> (4 * i), 16);
}

template <int ALIGN>
__device__ __forceinline__ void look_up_nibbles(Bytes block, u32 offset, const u32 (&table)[4], u32 (&codes)[8]) {
  u32 words[4];
  block.words<ALIGN>(offset, words);
#pragma unroll
  for (int i = 0; i < 4; ++i) look_up(words[i], table, codes[i], codes[4 + i]);
}

struct Small : NoTable {
  static constexpr int NUMBERS = 32, ALIGN = 2, SCALES = 1, OFFSET = 0;
  static constexpr bool MINIMUM = false;
};

// Scale, nibbles less 8.
struct Q4_0 : Small {
  static constexpr int BYTES = 18, OFFSET = 8;
  static __device__ __forceinline__ void read(Bytes block, u32, const u32*, Group<1>& group) {
    read_nibbles<ALIGN>(block, 2, group.codes);
    group.scale[0] = block.half(0);
  }
};

// Scale, what is added, nibbles.
struct Q4_1 : Small {
  static constexpr int BYTES = 20, ALIGN = 4;
  static constexpr bool MINIMUM = true;
  static __device__ __forceinline__ void read(Bytes block, u32, const u32*, Group<1>& group) {
    read_nibbles<ALIGN>(block, 4, group.codes);
    group.scale[0] = block.half(0);
    group.minimum[0] = -block.half(2);
  }
};

// Scale, 32 fifth bits, nibbles; less 16.
struct Q5_0 : Small {
  static constexpr int BYTES = 22, OFFSET = 16;
  static __device__ __forceinline__ void read(Bytes block, u32, const u32*, Group<1>& group) {
    read_nibbles<ALIGN>(block, 6, group.codes);
    add_fifth_bits(block.word(2), group.codes);
    group.scale[0] = block.half(0);
  }
};

// Scale, what is added, 32 fifth bits, nibbles.
struct Q5_1 : Small {
  static constexpr int BYTES = 24, ALIGN = 8;
  static constexpr bool MINIMUM = true;
  static __device__ __forceinline__ void read(Bytes block, u32, const u32*, Group<1>& group) {
    read_nibbles<ALIGN>(block, 8, group.codes);
    add_fifth_bits(block.word<ALIGN>(4), group.codes);
    group.scale[0] = block.half(0);
    group.minimum[0] = -block.half(2);
  }
};

// Scale, bytes.
struct Q8_0 : Small {
  static constexpr int BYTES = 34;
  static __device__ __forceinline__ void read(Bytes block, u32, const u32*, Group<1>& group) {
    block.words<ALIGN>(2, group.codes);
    group.scale[0] = block.half(0);
  }
};

// The sixteen values of IQ4_NL and IQ4_XS.
#define IQ4_VALUES {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u}

// Scale, nibbles that name one of sixteen values.
struct IQ4_NL : Small {
  static constexpr int BYTES = 18;
  static __device__ __forceinline__ void read(Bytes block, u32, const u32*, Group<1>& group) {
    constexpr u32 VALUES[4] = IQ4_VALUES;
    look_up_nibbles<ALIGN>(block, 2, VALUES, group.codes);
    group.scale[0] = block.half(0);
  }
};

// A power of two as a byte, nibbles that name one of sixteen E2M1 values (doubled here, and the scale halved). Blocks of odd length.
struct MXFP4 : Small {
  static constexpr int BYTES = 17, ALIGN = 1;
  static __device__ __forceinline__ void read(Bytes block, u32, const u32*, Group<1>& group) {
    constexpr u32 VALUES[4] = {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};
    look_up_nibbles<ALIGN>(block, 1, VALUES, group.codes);
    const u32 power = block.byte(0);
    group.scale[0] = __uint_as_float(power < 2 ? 0x00200000u << power : (power - 1) << 23);
  }
};
