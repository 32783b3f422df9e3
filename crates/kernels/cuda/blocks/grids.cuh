// Types whose codes are places in a grid: IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S.
#pragma once

#include "blocks/k.cuh"
#include "grid_tables.cuh"  // Written by the build script out of `tables/grids.rs`.

// Eight magnitudes of a grid of two words an entry, with eight signs, to two words of codes.
__device__ __forceinline__ void read_eight(const u32* table, u32 place, u32 signs, u32* codes) {
  const uint2 entry = reinterpret_cast<const uint2*>(table)[place];
  codes[0] = with_signs(entry.x, signs);
  codes[1] = with_signs(entry.y, signs >> 4);
}

// Scales of IQ2_XS and IQ2_S: a nibble for each 16 numbers, (nibble + 1/2) / 4.
__device__ __forceinline__ void read_two_scales(Bytes block, u32 nibbles, Group<2>& group) {
  const float scale = block.half(0) * 0.125f;
  group.scale[0] = scale * static_cast<float>(2 * (nibbles & 15) + 1);
  group.scale[1] = scale * static_cast<float>(2 * (nibbles >> 4) + 1);
}

// For each 32 numbers: four grid places of a byte, then four sign fields of 7 bits and a scale of 4.
struct IQ2_XXS : Large {
  static constexpr int BYTES = 66, TABLE = 2 * 256;
  static __device__ __forceinline__ u32 table(int i) { return GRID_IQ2_XXS[i]; }
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32* table, Group<1>& group) {
    const u32 places = block.word(2 + 8 * g), fields = block.word(2 + 8 * g, 1);
#pragma unroll
    for (int i = 0; i < 4; ++i) read_eight(table, places >> (8 * i) & 255, eight_signs(fields >> (7 * i)), &group.codes[2 * i]);
    group.scale[0] = block.half(0) * 0.125f * static_cast<float>(2 * (fields >> 28) + 1);
  }
};

// For each 8 numbers 9 bits of grid place and 7 of signs; for each 16 a scale of 4 bits.
struct IQ2_XS : Large {
  static constexpr int BYTES = 74, SCALES = 2, TABLE = 2 * 512;
  static __device__ __forceinline__ u32 table(int i) { return GRID_IQ2_XS[i]; }
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32* table, Group<2>& group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u32 field = block.word(2 + 8 * g, i / 2) >> (i % 2 * 16) & 0xffff;
      read_eight(table, field & 511, eight_signs(field >> 9), &group.codes[2 * i]);
    }
    read_two_scales(block, block.byte(66 + g), group);
  }
};

// For each 8 numbers 10 bits of grid place (8 + 2) and a byte of signs; for each 16 a scale of 4 bits.
struct IQ2_S : Large {
  static constexpr int BYTES = 82, SCALES = 2, TABLE = 2 * 1024;
  static __device__ __forceinline__ u32 table(int i) { return GRID_IQ2_S[i]; }
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32* table, Group<2>& group) {
    const u32 places = block.word(2 + 4 * g), signs = block.word(34 + 4 * g), upper = block.byte(66 + g);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u32 place = (places >> (8 * i) & 255) | (upper >> (2 * i) & 3) << 8;
      read_eight(table, place, signs >> (8 * i) & 255, &group.codes[2 * i]);
    }
    read_two_scales(block, block.byte(74 + g), group);
  }
};

// 64 grid places of a byte, each for 4 numbers; for each 32 four sign fields of 7 bits and a scale of 4.
struct IQ3_XXS : Large {
  static constexpr int BYTES = 98, TABLE = 256;
  static __device__ __forceinline__ u32 table(int i) { return GRID_IQ3_XXS[i]; }
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32* table, Group<1>& group) {
    const u32 fields = block.word(66 + 4 * g);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u32 places = block.word(2 + 8 * g, i / 2) >> (i % 2 * 16), signs = eight_signs(fields >> (7 * i));
      group.codes[2 * i] = with_signs(table[places & 255], signs);
      group.codes[2 * i + 1] = with_signs(table[places >> 8 & 255], signs >> 4);
    }
    group.scale[0] = block.half(0) * 0.25f * static_cast<float>(2 * (fields >> 28) + 1);
  }
};

// For each 4 numbers 9 bits of grid place (8 + 1), for each 8 a byte of signs, for each 32 a scale of 4 bits.
struct IQ3_S : Large {
  static constexpr int BYTES = 110, TABLE = 512;
  static __device__ __forceinline__ u32 table(int i) { return GRID_IQ3_S[i]; }
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32* table, Group<1>& group) {
    const u32 signs = block.word(74 + 4 * g), upper = block.byte(66 + g);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const u32 place = (block.word(2 + 8 * g, i / 4) >> (i % 4 * 8) & 255) | (upper >> i & 1) << 8;
      group.codes[i] = with_signs(table[place], signs >> (4 * i));
    }
    const u32 scale = block.byte(106 + g / 2) >> (g % 2 * 4) & 15;
    group.scale[0] = block.half(0) * static_cast<float>(2 * scale + 1);
  }
};

// Grid values of IQ1 are -1, 0 and 1, kept as 0, 1 and 2 in the nibbles of a word: the lower ones are numbers 0..4.
// For each 8 numbers 11 bits of grid place (8 + 3); for each 32 a scale of 3 bits and the sign of what is added, an eighth.
struct IQ1_S : Large {
  static constexpr int BYTES = 50, TABLE = 2048;
  static constexpr bool MINIMUM = true;
  static __device__ __forceinline__ u32 table(int i) { return GRID_IQ1[i]; }
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32* table, Group<1>& group) {
    const u32 places = block.word(2 + 4 * g), field = block.pair(34 + 2 * g);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u32 entry = table[(places >> (8 * i) & 255) | (field >> (3 * i) & 7) << 8];
      group.codes[2 * i] = entry & 0x0f0f0f0f;
      group.codes[2 * i + 1] = entry >> 4 & 0x0f0f0f0f;
    }
    group.scale[0] = block.half(0) * static_cast<float>(2 * (field >> 12 & 7) + 1);
    group.minimum[0] = group.scale[0] * (field & 0x8000 ? 1.125f : 0.875f);
  }
};

// For each 8 numbers 11 bits of grid place and the sign of what is added; for each 16 a scale of 3 bits. The block's own scale lies in the
// upper nibbles of the four words of scales. Codes are eight times the numbers, which are odd integers from -9 to 9.
struct IQ1_M : Large {
  static constexpr int BYTES = 56, ALIGN = 8, SCALES = 2, TABLE = 2048;
  static __device__ __forceinline__ u32 table(int i) { return GRID_IQ1[i]; }
  static __device__ __forceinline__ void read(Bytes block, u32 g, const u32* table, Group<2>& group) {
    const u32 places = block.word<4>(4 * g), upper = block.pair(32 + 2 * g);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const u32 nibble = upper >> (4 * i) & 15;
      const u32 entry = table[(places >> (8 * i) & 255) | (nibble & 7) << 8];
      // 8c - 7 or 8c - 9 in each byte: with bit 7 flipped there is no carry.
      const u32 less = nibble & 8 ? 0x77777777 : 0x79797979;
      group.codes[2 * i] = ((entry & 0x0f0f0f0f) * 8 + less) ^ 0x80808080;
      group.codes[2 * i + 1] = ((entry >> 4 & 0x0f0f0f0f) * 8 + less) ^ 0x80808080;
    }
    const u32 first = block.word<4>(48), second = block.word<4>(52);
    const u32 bits = (first >> 12 & 0xf) | (first >> 24 & 0xf0) | (second >> 4 & 0xf00) | (second >> 16 & 0xf000);
    const float scale = __half2float(__ushort_as_half(static_cast<u16>(bits))) * 0.125f;
    const u32 scales = (g < 4 ? first : second) >> (g / 2 % 2 * 16) >> (g % 2 * 6);
    group.scale[0] = scale * static_cast<float>(2 * (scales & 7) + 1);
    group.scale[1] = scale * static_cast<float>(2 * (scales >> 3 & 7) + 1);
  }
};
