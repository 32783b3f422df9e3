// Bytes of quantized blocks at any address, and tricks on four bytes of a word at once.
#pragma once

#include "common.cuh"

// Bytes from byte `at` behind a start that is aligned to 16. Words are read as they are where the block's type says that they are aligned (ALIGN,
// a type's own: `at` and `offset` are multiples of it), and are else put together from the aligned words around them: up to 3 bytes
// before and 4 behind what is asked for are read too.
struct Bytes {
  const u32* start;
  u32 at;

  __device__ __forceinline__ Bytes from(u32 offset) const { return {start, at + offset}; }

  __device__ __forceinline__ u32 byte(u32 offset) const { return reinterpret_cast<const u8*>(start)[at + offset]; }

  // For blocks of even length at even addresses.
  __device__ __forceinline__ u32 pair(u32 offset) const { return reinterpret_cast<const u16*>(start)[(at + offset) / 2]; }

  __device__ __forceinline__ float half(u32 offset) const { return __half2float(__ushort_as_half(static_cast<u16>(pair(offset)))); }

  // Word `i` of those from `offset` on. Neighbours share their loads.
  template <int ALIGN = 2>
  __device__ __forceinline__ u32 word(u32 offset, int i = 0) const {
    const u32* first = start + (at + offset) / 4;
    return ALIGN % 4 == 0 ? first[i] : __funnelshift_r(first[i], first[i + 1], (at + offset) % 4 * 8);
  }

  // The COUNT words from `offset` on, an even number, or a multiple of four where ALIGN is one of 16.
  template <int ALIGN, int COUNT>
  __device__ __forceinline__ void words(u32 offset, u32 (&words)[COUNT]) const {
    if constexpr (ALIGN % 16 == 0) {
#pragma unroll
      for (int i = 0; i < COUNT / 4; ++i) {
        const uint4 four = reinterpret_cast<const uint4*>(start)[(at + offset) / 16 + i];
        words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
      }
    } else if constexpr (ALIGN % 8 == 0) {
#pragma unroll
      for (int i = 0; i < COUNT / 2; ++i) {
        const uint2 two = reinterpret_cast<const uint2*>(start)[(at + offset) / 8 + i];
        words[2 * i] = two.x, words[2 * i + 1] = two.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) words[i] = word<ALIGN>(offset, i);
    }
  }
};

// Bit i of four to bit 0 of byte i, times `place`.
__device__ __forceinline__ u32 spread(u32 bits, u32 place = 1) { return (bits & 15) * (0x00204081 * place) & 0x01010101 * place; }

// Four magnitudes from 1 to 127, those negated whose bit of four is set.
__device__ __forceinline__ u32 with_signs(u32 magnitudes, u32 bits) {
  const u32 ones = spread(bits);
  return (magnitudes ^ ones * 255) + ones;
}

// The eight signs of a field of 7: the last makes their count even.
__device__ __forceinline__ u32 eight_signs(u32 field) {
  const u32 seven = field & 0x7f;
  return seven | (__popc(seven) & 1) << 7;
}

// For each of 8 nibbles the byte of a table of 16: `low` those of the lower halves of bytes, `high` of the upper.
__device__ __forceinline__ void look_up(u32 nibbles, const u32 (&table)[4], u32& low, u32& high) {
  const u32 places = nibbles & 0x77777777, upper = 0x32103210 | (nibbles & 0x88888888) >> 1;
  u32 part[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const u32 first = __byte_perm(table[0], table[1], places >> (16 * i));
    const u32 second = __byte_perm(table[2], table[3], places >> (16 * i));
    part[i] = __byte_perm(first, second, upper >> (16 * i));
  }
  low = __byte_perm(part[0], part[1], 0x6420);
  high = __byte_perm(part[0], part[1], 0x7531);
}
