// 32 numbers of a quantized row as integer products take them.
#pragma once

#include "blocks/bytes.cuh"

// Number i of a group is `scale[h] * (code[i] - T::OFFSET) - minimum[h]`, where h is i / 16 for types with two scales a group and 0 for the
// others, and only types with T::MINIMUM have one. Codes are four bytes a word, from -127 to 127.
//
// A type T says how its blocks are read:
//   NUMBERS, BYTES       of a block
//   ALIGN                what the addresses of blocks are multiples of, where a matrix begins at a multiple of 16: 16, 8, 4 or less
//   SCALES               1 or 2 a group
//   MINIMUM, OFFSET      as above
//   TABLE                words of a table that `read` looks codes up in, kept in shared memory; 0 for none. `table(i)` is word i.
//   read(block, g, t, group)   group g of a block; t: the table
template <int SCALES>
struct Group {
  u32 codes[8];
  float scale[SCALES];
  float minimum[SCALES];
};

// A type whose codes need no table.
struct NoTable {
  static constexpr int TABLE = 0;
  static __device__ __forceinline__ u32 table(int) { return 0; }
};
