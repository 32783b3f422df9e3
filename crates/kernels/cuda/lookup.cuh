// Rows of a matrix as numbers: the vectors of tokens.
#pragma once

#include "blocks/grids.cuh"
#include "columns.cuh"

struct Lookup {
  const u8* weights;
  // Which row each output is, null: its own; beyond the last: the last.
  const u32* rows;
  // outputs × width
  float* out;
  u32 count;
  u32 width;
  float factor;
};

__device__ __forceinline__ u64 row_of(const Lookup& p) { return min(p.rows ? p.rows[blockIdx.y] : blockIdx.y, p.count - 1); }

// A lane takes a group. Grid: runs of 128 groups × outputs.
template <class T>
__device__ __forceinline__ void look_up_blocks(const Lookup& p) {
  constexpr u32 OF_BLOCK = T::NUMBERS / GROUP;
  __shared__ alignas(16) u32 table[T::TABLE > 0 ? T::TABLE : 4];
  if constexpr (T::TABLE > 0) {
    for (u32 i = threadIdx.x; i < T::TABLE; i += blockDim.x) table[i] = T::table(i);
    __syncthreads();
  }
  const u32 g = blockIdx.x * blockDim.x + threadIdx.x;
  if (g * GROUP >= p.width) return;
  const u64 row = reinterpret_cast<u64>(p.weights) + row_of(p) * (p.width / T::NUMBERS * T::BYTES);
  const Bytes bytes = {reinterpret_cast<const u32*>(row & ~3ull), static_cast<u32>(row & 3)};
  Group<T::SCALES> group = {};
  T::read(bytes.from(g / OF_BLOCK * T::BYTES), g % OF_BLOCK, table, group);
  float* out = p.out + static_cast<u64>(blockIdx.y) * p.width + g * GROUP;
#pragma unroll
  for (u32 i = 0; i < GROUP; i++) {
    const u32 h = T::SCALES == 2 ? i / 16 : 0;
    const i32 code = static_cast<i8>(group.codes[i / 4] >> (i % 4 * 8)) - T::OFFSET;
    const float x = group.scale[h] * static_cast<float>(code);
    out[i] = (T::MINIMUM ? x - group.minimum[h] : x) * p.factor;
  }
}

// Grid: runs of 128 numbers × outputs.
template <class Read>
__device__ __forceinline__ void look_up_numbers(const Lookup& p, Read read) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.width) p.out[static_cast<u64>(blockIdx.y) * p.width + i] = read(row_of(p) * p.width + i) * p.factor;
}
