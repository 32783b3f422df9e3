// Quantized matrices times many columns of 8-bit activations, on tensor cores.
//
// A block of threads computes 128 rows × COLUMNS columns. Weights come to the block's memory as the file has them, 256 numbers of a row at
// a time and in the background; from there 128 numbers of each row are unpacked to signed bytes with a scale for each 32 (or 16) of them and,
// where the type has it, a minimum, beside the columns' codes. From there on one loop serves all types. Dot products of codes are exact
// integers, scaled group after group, so an output depends on its row and column alone.
//
// Integers become floats for nothing: sums start at 1.5 · 2^23 as a float's bits, so that their bits are those of a float which is larger
// than the sum by 1.5 · 2^23; scale · that − scale · 1.5 · 2^23 is one multiply-add, and exact, since a scale has no more than 22 significant
// bits (a half times a few more) and three times that still fits a float. A product of 16 × 8 outputs and 32 numbers so takes one tensor
// instruction and 8 multiply-adds (twice that with scales for 16), which is what bounds this loop.
//
// Minima times sums of codes are a product of matrices of their own, four groups deep: on tensor cores as well, each number as two of
// bfloat16, the product of the small parts left out (2^-17 of the whole).
#pragma once

#include "blocks/grids.cuh"
#include "columns.cuh"
#include "mma.cuh"

constexpr u32 ROWS = 128;
constexpr u32 DEPTH = 128;
constexpr u32 GROUPS = DEPTH / GROUP;
constexpr u32 THREADS = 256;
// Bytes from one row of codes to the next: eight rows fall on different banks.
constexpr u32 STRIDE = DEPTH + 16;
// Numbers whose blocks are brought at once.
constexpr u32 BROUGHT = 256;
constexpr i32 START = 0x4b400000;
constexpr float START_NUMBER = 12582912.0f;

// One matrix and the outputs that it makes: some columns of the list from `first` on.
struct Job {
  const u8* weights;
  u32 first;
  u32 count;
};

struct Product {
  // A job for each block in x; null: all columns times one matrix, which `one` says.
  const Job* jobs;
  Job one;
  // The column that each output is made from; null: its own.
  const u32* columns;
  // The activations: columns of `x_stride` codes one behind another, and a scale for each 32.
  const i8* codes;
  const GroupScale* scales;
  // outputs × out_step, from which on each has `rows` numbers.
  float* out;
  u32 x_stride;
  u32 out_step;
  u32 rows;
  // Groups of a row.
  u32 groups;
};

// A number as two of bfloat16 and a zero, in one of the two orders whose products, term by term, sum to that of the numbers.
__device__ __forceinline__ uint2 split_left(float x) {
  const u32 high = bfloats(x, x);
  return {high, bfloats(x - __uint_as_float(high & 0xffff0000u), 0.0f)};
}
__device__ __forceinline__ uint2 split_right(float x) {
  const u32 high = bfloats(x, 0.0f);
  return {bfloats(x, x - __uint_as_float(high << 16)), high};
}

template <class T, u32 COLUMNS>
struct Memory {
  static constexpr u32 BYTES = BROUGHT / T::NUMBERS * T::BYTES;
  // Up to 15 bytes before the first, the rest of the last 16, and what reading words touches behind.
  static constexpr u32 ROOM = (BYTES + 15 + 15) / 16 * 16 + 16;
  // Minima and sums: four bfloat16s each, rows on different banks.
  static constexpr u32 MINIMA = T::MINIMUM ? GROUPS * T::SCALES : 1, MINIMA_STRIDE = MINIMA + 2;
  alignas(16) u8 blocks[ROWS][ROOM];
  alignas(16) u8 weights[ROWS][STRIDE];
  alignas(16) u8 columns[COLUMNS][STRIDE];
  float row_scale[GROUPS * T::SCALES][ROWS + 8];
  alignas(16) float column_scale[GROUPS][COLUMNS + 8];
  alignas(16) uint2 minima[T::MINIMUM ? ROWS : 1][MINIMA_STRIDE];
  alignas(16) uint2 column_sums[T::MINIMUM ? COLUMNS : 1][MINIMA_STRIDE];
  alignas(16) u32 table[T::TABLE > 0 ? T::TABLE : 4];
  // Where each column's codes begin.
  u32 source[COLUMNS];
};

// One block of threads.
template <class T, u32 COLUMNS>
struct Multiply {
  using M = Memory<T, COLUMNS>;
  static constexpr u32 OF_BLOCK = T::NUMBERS / GROUP;
  static constexpr u32 SCALE_TASKS = (COLUMNS * GROUPS + THREADS - 1) / THREADS;

  const Product& p;
  M& m;
  Job job;
  u32 first_row;

  __device__ __forceinline__ u32 row_bytes() const { return p.groups / OF_BLOCK * T::BYTES; }

  // Rows beyond the last are the last one.
  __device__ __forceinline__ u32 row_at(u32 row) const { return min(first_row + row, p.rows - 1); }

  // Asks for the blocks of all rows that hold groups `from` to `from + 8`.
  __device__ __forceinline__ void bring_blocks(u32 from) const {
    constexpr u32 PIECES = (M::BYTES + 15 + 15) / 16, TURNS = THREADS / ROWS;
    const u32 start = from / OF_BLOCK * T::BYTES, bytes = min(row_bytes() - start, M::BYTES);
    // A row's threads take its pieces in turn.
    const u32 row = threadIdx.x / TURNS;
    const u8* first = job.weights + static_cast<u64>(row_at(row)) * row_bytes() + start;
    const u32 before = static_cast<u32>(reinterpret_cast<u64>(first)) & 15;
    first -= before;
#pragma unroll
    for (u32 i = 0; i < (PIECES + TURNS - 1) / TURNS; i++) {
      const u32 at = (i * TURNS + threadIdx.x % TURNS) * 16;
      if (at < before + bytes) copy_async(&m.blocks[row][at], first + at);
    }
    copy_commit();
  }

  // Asks for the codes of the columns' groups `from` to `from + 4`.
  __device__ __forceinline__ void bring_columns(u32 from) const {
    constexpr u32 PIECES = DEPTH / 16;
    const u32 piece = threadIdx.x % PIECES;
    const bool inside = from + piece / 2 < p.groups;
#pragma unroll
    for (u32 i = 0; i < COLUMNS * PIECES / THREADS; i++) {
      const u32 column = i * (THREADS / PIECES) + threadIdx.x / PIECES;
      const bool real = inside && column < job.count;
      const u8* codes = reinterpret_cast<const u8*>(p.codes) + (real ? m.source[column] + from * GROUP + piece * 16 : 0);
      copy_async(&m.columns[column][piece * 16], codes, real);
    }
    copy_commit();
  }

  __device__ __forceinline__ void load_scales(u32 from, uint2 (&scales)[SCALE_TASKS]) const {
#pragma unroll
    for (u32 i = 0; i < SCALE_TASKS; i++) {
      const u32 task = i * THREADS + threadIdx.x, column = task / GROUPS, group = from + task % GROUPS;
      const bool real = column < job.count && group < p.groups;
      if (real) scales[i] = reinterpret_cast<const uint2*>(p.scales)[m.source[column] / GROUP + group];
    }
  }

  __device__ __forceinline__ void keep_scales(const uint2 (&scales)[SCALE_TASKS]) const {
#pragma unroll
    for (u32 i = 0; i < SCALE_TASKS; i++) {
      const u32 task = i * THREADS + threadIdx.x, column = task / GROUPS;
      if (column >= COLUMNS) break;
      const u32 group = task % GROUPS;
      // A `GroupScale` as one load brings it.
      const float scale = __uint_as_float(scales[i].x);
      const i32 low = static_cast<i16>(scales[i].y), high = static_cast<i32>(scales[i].y) >> 16;
      m.column_scale[group][column] = scale;
      if constexpr (T::MINIMUM && T::SCALES == 1) {
        m.column_sums[column][group] = split_right(scale * static_cast<float>(low + high));
      } else if constexpr (T::MINIMUM) {
        const uint2 first = split_right(scale * static_cast<float>(low)), second = split_right(scale * static_cast<float>(high));
        *reinterpret_cast<uint4*>(&m.column_sums[column][2 * group]) = {first.x, first.y, second.x, second.y};
      }
    }
  }

  // Four codes less the type's offset, as signed bytes.
  static __device__ __forceinline__ u32 centred(u32 codes) {
    if constexpr (T::OFFSET == 0) return codes;
    // No code reaches a byte's upper bit: nothing is borrowed.
    return ((codes | 0x80808080u) - T::OFFSET * 0x01010101u) ^ 0x80808080u;
  }

  // Unpacks groups `from` to `from + 4` of all rows.
  __device__ __forceinline__ void unpack(u32 from) const {
    const u32 start = from / (BROUGHT / GROUP) * (BROUGHT / GROUP);
    const u32 group = threadIdx.x % GROUPS, place = from + group;
#pragma unroll
    for (u32 i = 0; i < ROWS * GROUPS / THREADS; i++) {
      const u32 row = i * (THREADS / GROUPS) + threadIdx.x / GROUPS;
      Group<T::SCALES> found = {};
      if (place < p.groups) {
        const u32 before = (static_cast<u32>(reinterpret_cast<u64>(job.weights)) + row_at(row) * row_bytes() + start / OF_BLOCK * T::BYTES) & 15;
        const Bytes bytes = {reinterpret_cast<const u32*>(m.blocks[row]), before};
        T::read(bytes.from((place - start) / OF_BLOCK * T::BYTES), place % OF_BLOCK, m.table, found);
      }
      uint4* to = reinterpret_cast<uint4*>(&m.weights[row][group * GROUP]);
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        const u32* codes = found.codes + 4 * half;
        to[half] = {centred(codes[0]), centred(codes[1]), centred(codes[2]), centred(codes[3])};
      }
#pragma unroll
      for (u32 s = 0; s < T::SCALES; s++) m.row_scale[group * T::SCALES + s][row] = found.scale[s];
      if constexpr (T::MINIMUM && T::SCALES == 1) {
        m.minima[row][group] = split_left(-found.minimum[0]);
      } else if constexpr (T::MINIMUM) {
        const uint2 first = split_left(-found.minimum[0]), second = split_left(-found.minimum[1]);
        *reinterpret_cast<uint4*>(&m.minima[row][2 * group]) = {first.x, first.y, second.x, second.y};
      }
    }
  }
};

// The part of the outputs that a warp holds: MT × 16 rows and NT × 8 columns.
template <class T, u32 COLUMNS>
struct Part {
  using M = Memory<T, COLUMNS>;
  static constexpr u32 ACROSS = COLUMNS >= 64 ? 2 : 1, DOWN = THREADS / WARP / ACROSS;
  static constexpr u32 MT = ROWS / DOWN / 16, NT = COLUMNS / ACROSS / 8, SCALES = T::SCALES;
  float sums[MT][NT][4] = {};
  u32 lane, row, column;  // Of the warp's first output in the block.

  __device__ __forceinline__ Part() {
    const u32 warp = threadIdx.x / WARP;
    lane = threadIdx.x % WARP;
    row = warp % DOWN * MT * 16;
    column = warp / DOWN * NT * 8;
  }

  // What one group adds.
  __device__ __forceinline__ void add_group(const M& m, u32 group) {
    u32 a[MT][4];
    float scale[MT][2][SCALES];
#pragma unroll
    for (u32 i = 0; i < MT; i++) {
      load_matrices(a[i], &m.weights[row + i * 16 + lane % 16][group * GROUP + lane / 16 * 16]);
#pragma unroll
      for (u32 h = 0; h < 2; h++) {
#pragma unroll
        for (u32 s = 0; s < SCALES; s++) scale[i][h][s] = m.row_scale[group * SCALES + s][row + i * 16 + h * 8 + lane / 4];
      }
    }
#pragma unroll
    for (u32 pair = 0; pair < NT / 2; pair++) {
      u32 b[4];
      load_matrices(b, &m.columns[column + pair * 16 + lane % 8 + lane / 16 * 8][group * GROUP + lane / 8 % 2 * 16]);
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        const u32 j = pair * 2 + half;
        const float2 x = *reinterpret_cast<const float2*>(&m.column_scale[group][column + j * 8 + lane % 4 * 2]);
#pragma unroll
        for (u32 i = 0; i < MT; i++) add_product(sums[i][j], a[i], b[2 * half], b[2 * half + 1], scale[i], x);
      }
    }
  }

  __device__ __forceinline__ void add_product(
      float (&to)[4], const u32 (&a)[4], u32 b0, u32 b1, const float (&scale)[2][SCALES], float2 x) {
    i32 d[4];
    if constexpr (SCALES == 1) {
      mma_s8(d, a, b0, b1, START);
      add_scaled(to, d, scale[0][0], scale[1][0], x);
    } else {
      mma_s8_short(d, a[0], a[1], b0, START);
      add_scaled(to, d, scale[0][0], scale[1][0], x);
      mma_s8_short(d, a[2], a[3], b1, START);
      add_scaled(to, d, scale[0][1], scale[1][1], x);
    }
  }

  static __device__ __forceinline__ void add_scaled(float (&to)[4], const i32 (&d)[4], float upper, float lower, float2 x) {
    to[0] += fmaf(__int_as_float(d[0]), upper, upper * -START_NUMBER) * x.x;
    to[1] += fmaf(__int_as_float(d[1]), upper, upper * -START_NUMBER) * x.y;
    to[2] += fmaf(__int_as_float(d[2]), lower, lower * -START_NUMBER) * x.x;
    to[3] += fmaf(__int_as_float(d[3]), lower, lower * -START_NUMBER) * x.y;
  }

  // What the minima of all groups at hand add.
  __device__ __forceinline__ void add_minima(const M& m) {
#pragma unroll
    for (u32 s = 0; s < SCALES; s++) {
      u32 a[MT][4];
#pragma unroll
      for (u32 i = 0; i < MT; i++) load_matrices(a[i], &m.minima[row + i * 16 + lane % 16][4 * s + lane / 16 * 2]);
#pragma unroll
      for (u32 pair = 0; pair < NT / 2; pair++) {
        u32 b[4];
        load_matrices(b, &m.column_sums[column + pair * 16 + lane % 8 + lane / 16 * 8][4 * s + lane / 8 % 2 * 2]);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
          for (u32 i = 0; i < MT; i++) {
            float d[4] = {};
            mma_bf16(d, a[i], b[2 * half], b[2 * half + 1]);
#pragma unroll
            for (u32 n = 0; n < 4; n++) sums[i][pair * 2 + half][n] += d[n];
          }
        }
      }
    }
  }

  __device__ __forceinline__ void store(const Product& p, const Job& job, u32 first_row) const {
    const u32 g = lane / 4, t = lane % 4;
#pragma unroll
    for (u32 j = 0; j < NT; j++) {
#pragma unroll
      for (u32 i = 0; i < MT; i++) {
#pragma unroll
        for (u32 n = 0; n < 4; n++) {
          const u32 r = first_row + row + i * 16 + n / 2 * 8 + g, c = column + j * 8 + 2 * t + n % 2;
          if (r < p.rows && c < job.count) p.out[static_cast<u64>(job.first + c) * p.out_step + r] = sums[i][j][n];
        }
      }
    }
  }
};

// Grid: runs of columns (or jobs) × runs of 128 rows; neighbours read the same weights.
template <class T, u32 COLUMNS>
__device__ __forceinline__ void multiply(const Product& p) {
  extern __shared__ __align__(16) u8 shared[];
  using Block = Multiply<T, COLUMNS>;
  Block block = {p, *reinterpret_cast<Memory<T, COLUMNS>*>(shared), p.one, blockIdx.y * ROWS};
  auto& m = block.m;
  if (p.jobs) {
    block.job = p.jobs[blockIdx.x];
  } else {
    block.job.first = blockIdx.x * COLUMNS;
    block.job.count = min(COLUMNS, p.one.count - block.job.first);
  }
  if (block.job.count == 0) return;
  block.bring_blocks(0);
  for (u32 c = threadIdx.x; c < COLUMNS; c += THREADS) {
    const u32 at = block.job.first + min(c, block.job.count - 1);
    m.source[c] = (p.columns ? p.columns[at] : at) * p.x_stride;
  }
  if constexpr (T::TABLE > 0) {
    for (u32 i = threadIdx.x; i < T::TABLE; i += THREADS) m.table[i] = T::table(i);
  }
  Part<T, COLUMNS> part;
  for (u32 from = 0; from < p.groups; from += GROUPS) {
    copy_wait<0>();
    __syncthreads();  // The blocks are there, and what was unpacked before has been used.
    block.bring_columns(from);
    uint2 scales[Block::SCALE_TASKS] = {};
    block.load_scales(from, scales);
    block.unpack(from);
    block.keep_scales(scales);
    copy_wait<0>();
    __syncthreads();
    const u32 next = from + GROUPS;
    if (next % (BROUGHT / GROUP) == 0 && next < p.groups) block.bring_blocks(next);
#pragma unroll 1
    for (u32 group = 0; group < GROUPS; group++) part.add_group(m, group);
    if constexpr (T::MINIMUM) part.add_minima(m);
  }
  part.store(p, block.job, block.first_row);
}

#define MATMUL_OF(T, COLUMNS)                                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) matmul_##T##_##COLUMNS(Product p) { \
    multiply<T, COLUMNS>(p);                                                                     \
  }                                                                                              \
  static_assert(sizeof(Memory<T, COLUMNS>) <= (COLUMNS == 32 ? 68 : 83) * 1024, "what a launch asks for");

#define MATMUL(T) MATMUL_OF(T, 32) MATMUL_OF(T, 128)
