// Products of latent attention's matrices, which hold some rows for each head, with columns that differ by head.
//
// A head's matrix is small (R1: 128 × 512 numbers), and there are as many as heads: what counts is that a block's rows lie one behind another. It
// asks for all of them at once by 16 bytes, rounds its columns to 8 bits in the meantime, and then each thread multiplies 32 numbers of
// a row. Rounding here spares a kernel and a copy, and rounds as `quantize` does.
//
// Transposed, rows are summed over instead of multiplied with: numbers that share a scale then belong to different sums, and so rows are
// unpacked to floats.

#include "blocks/grids.cuh"
#include "round.cuh"
#include "rows.cuh"

constexpr u32 THREADS = 256;
// Tokens of a block.
constexpr u32 COLUMNS = 8;
// The same where rows are unpacked, and how a block's threads then share the groups and the rows of a head.
constexpr u32 PAIR = 2;
constexpr u32 TILE_GROUPS = 8;
constexpr u32 SHARES = THREADS / TILE_GROUPS;
// Rows that are brought at once.
constexpr u32 STAGED = 2 * SHARES;
// Numbers of a transposed block of floats, and how many threads share the rows of each.
constexpr u32 TILE_NUMBERS = 64;
constexpr u32 FLOAT_SHARES = THREADS / TILE_NUMBERS;

// `rows` rows of `width` numbers for each head.
struct HeadProduct {
  const u8* weights;
  // Head h of token t begins `h · head + t · token` numbers behind these.
  const float* x;
  float* out;
  // From one head's rows to the next one's.
  u64 head_bytes;
  u32 x_head, x_token;
  u32 out_head, out_token;
  u32 rows, width;
  // Rows of a block.
  u32 tile;
  u32 tokens;
};

__device__ __forceinline__ const float* column_of(const HeadProduct& p, u32 token) {
  return p.x + static_cast<u64>(token) * p.x_token + static_cast<u64>(blockIdx.y) * p.x_head;
}

__device__ __forceinline__ float* output_of(const HeadProduct& p, u32 token) {
  return p.out + static_cast<u64>(token) * p.out_token + static_cast<u64>(blockIdx.y) * p.out_head;
}

__device__ __forceinline__ u64 rows_of(const HeadProduct& p) {
  return reinterpret_cast<u64>(p.weights) + blockIdx.y * p.head_bytes;
}

// Rounds the columns of `count` tokens from `first` on into the block's memory. All threads together.
__device__ __forceinline__ void round_columns(const HeadProduct& p, u32 first, u32 count, const ColumnsOut& to) {
  const u32 all = count * p.width;
  for (u32 from = 0; from < all; from += 4 * THREADS) {
    const u32 at = from + 4 * threadIdx.x;
    const bool inside = at < all;
    float x[4] = {};
    if (inside) {
      const float* column = column_of(p, first + at / p.width) + at % p.width;
#pragma unroll
      for (u32 i = 0; i < 4; i++) x[i] = column[i];
    }
    keep_rounded(to, at, x, inside);
  }
}

// Numbers of a row of sums: odd, so that rows begin at different banks.
__device__ __forceinline__ u32 step_of(u32 groups) { return groups | 1; }

// Grid: tiles of rows × heads × runs of 8 tokens. The block's memory: codes, blocks, scales, sums.
template <class T>
__device__ __forceinline__ void multiply_heads(const HeadProduct& p) {
  extern __shared__ __align__(16) u8 shared[];
  __shared__ alignas(16) u32 table[T::TABLE > 0 ? T::TABLE : 4];
  constexpr u32 OF_BLOCK = T::NUMBERS / GROUP;
  const u32 groups = p.width / GROUP, row_bytes = groups / OF_BLOCK * T::BYTES;
  const u32 token = blockIdx.z * COLUMNS, columns = min(COLUMNS, p.tokens - token), most = min(COLUMNS, p.tokens);
  const u32 first = blockIdx.x * p.tile, here = min(p.tile, p.rows - first);
  const u64 start = rows_of(p) + first * row_bytes;
  const u32 before = static_cast<u32>(start) & 15, bytes = before + here * row_bytes;

  i8* codes = reinterpret_cast<i8*>(shared);
  u8* blocks = shared + most * p.width;
  auto* scales = reinterpret_cast<GroupScale*>(blocks + (p.tile * row_bytes + 30) / 16 * 16 + 16);
  float* sums = reinterpret_cast<float*>(scales + most * groups);
  for (u32 at = 16 * threadIdx.x; at < bytes; at += 16 * THREADS) {
    copy_16_bytes(static_cast<u32>(__cvta_generic_to_shared(blocks + at)), start - before + at);
  }
  end_of_step();
  for (i32 i = threadIdx.x; i < T::TABLE; i += THREADS) table[i] = T::table(i);
  round_columns(p, token, columns, {codes, scales});
  wait_for_step<0>();
  __syncthreads();

  const Bytes rows = {reinterpret_cast<const u32*>(blocks), before};
  for (u32 g = threadIdx.x; g < here * groups; g += THREADS) {
    Group<T::SCALES> group;
    T::read(rows.from(g / OF_BLOCK * T::BYTES), g % OF_BLOCK, table, group);
    const u32 row = g / groups, place = g % groups;
    for (u32 m = 0; m < columns; m++) {
      ColumnGroup column;
      const int4* from = reinterpret_cast<const int4*>(codes + m * p.width + place * GROUP);
      const int4 low = from[0], high = from[1];
      column.codes[0] = low.x, column.codes[1] = low.y, column.codes[2] = low.z, column.codes[3] = low.w;
      column.codes[4] = high.x, column.codes[5] = high.y, column.codes[6] = high.z, column.codes[7] = high.w;
      const GroupScale scale = scales[m * groups + place];
      column.scale = scale.scale, column.sums[0] = scale.low, column.sums[1] = scale.high;
      sums[(m * p.tile + row) * step_of(groups) + place] = multiply<T>(group, column);
    }
  }
  __syncthreads();
  for (u32 i = threadIdx.x; i < here * columns; i += THREADS) {
    const u32 m = i / here, row = i % here;
    const float* parts = sums + (m * p.tile + row) * step_of(groups);
    float sum = 0.0f;
    for (u32 g = 0; g < groups; g++) sum += parts[g];
    output_of(p, token + m)[first + row] = sum;
  }
}

// The 256 numbers of some rows, or fewer, as a transposed product takes them: bytes of a row's piece, with room for up to 15 before, the rest of the
// last 16, and what reading words touches behind; and sums of all threads, when the rows have been used.
template <class T>
union Stage {
  static constexpr u32 BYTES = TILE_GROUPS * GROUP / T::NUMBERS * T::BYTES, PIECES = (BYTES + 15 + 15) / 16;
  alignas(16) u8 rows[STAGED][PIECES * 16 + 16];
  float sums[GROUP][THREADS + 1];
};

// Grid: runs of 256 numbers × heads × pairs of tokens. The block's memory: two columns.
template <class T>
__device__ __forceinline__ void multiply_transposed(const HeadProduct& p) {
  extern __shared__ __align__(16) float x[];
  __shared__ alignas(16) u32 table[T::TABLE > 0 ? T::TABLE : 4];
  __shared__ Stage<T> stage;
  constexpr u32 OF_BLOCK = T::NUMBERS / GROUP, PIECES = Stage<T>::PIECES;
  const u32 token = blockIdx.z * PAIR, columns = min(PAIR, p.tokens - token);
  const u32 groups = p.width / GROUP, row_bytes = groups / OF_BLOCK * T::BYTES;
  const u32 first = blockIdx.x * TILE_GROUPS, here = min(TILE_GROUPS, groups - first), bytes = here / OF_BLOCK * T::BYTES;
  const u64 start = rows_of(p) + first / OF_BLOCK * T::BYTES;
  for (i32 i = threadIdx.x; i < T::TABLE; i += THREADS) table[i] = T::table(i);
  for (u32 i = threadIdx.x; i < PAIR * p.rows; i += THREADS) {
    const u32 m = i / p.rows;
    x[i] = m < columns ? column_of(p, token + m)[i % p.rows] : 0.0f;
  }

  const u32 place = threadIdx.x % TILE_GROUPS, share = threadIdx.x / TILE_GROUPS;
  float sums[PAIR][GROUP] = {};
  for (u32 from = 0; from < p.rows; from += STAGED) {
    const u32 some = min(STAGED, p.rows - from);
    for (u32 task = threadIdx.x; task < some * PIECES; task += THREADS) {
      const u64 row = start + static_cast<u64>(from + task / PIECES) * row_bytes;
      const u32 before = static_cast<u32>(row) & 15, at = task % PIECES * 16;
      if (at < before + bytes) {
        copy_16_bytes(static_cast<u32>(__cvta_generic_to_shared(&stage.rows[task / PIECES][at])), row - before + at);
      }
    }
    end_of_step();
    wait_for_step<0>();
    __syncthreads();
    for (u32 row = share; place < here && row < some; row += SHARES) {
      const u32 before = static_cast<u32>(start + static_cast<u64>(from + row) * row_bytes) & 15;
      const Bytes piece = {reinterpret_cast<const u32*>(stage.rows[row]), before};
      Group<T::SCALES> group = {};
      T::read(piece.from(place / OF_BLOCK * T::BYTES), place % OF_BLOCK, table, group);
#pragma unroll
      for (u32 i = 0; i < GROUP; i++) {
        const u32 h = T::SCALES == 2 ? i / 16 : 0;
        const i32 code = static_cast<i8>(group.codes[i / 4] >> (i % 4 * 8)) - T::OFFSET;
        const float number = group.scale[h] * static_cast<float>(code) - (T::MINIMUM ? group.minimum[h] : 0.0f);
#pragma unroll
        for (u32 m = 0; m < PAIR; m++) sums[m][i] = fmaf(number, x[m * p.rows + from + row], sums[m][i]);
      }
    }
    __syncthreads();  // The rows have been used.
  }
#pragma unroll
  for (u32 m = 0; m < PAIR; m++) {
    if (m >= columns) break;
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) stage.sums[i][threadIdx.x] = sums[m][i];
    __syncthreads();
    for (u32 k = threadIdx.x; k < here * GROUP; k += THREADS) {
      float sum = 0.0f;
      for (u32 s = 0; s < SHARES; s++) sum += stage.sums[k % GROUP][s * TILE_GROUPS + k / GROUP];
      output_of(p, token + m)[first * GROUP + k] = sum;
    }
    __syncthreads();
  }
}

struct F32 {
  static __device__ __forceinline__ float read(u64 at, u64 i) { return reinterpret_cast<const float*>(at)[i]; }
};

struct F16 {
  static __device__ __forceinline__ float read(u64 at, u64 i) { return __half2float(reinterpret_cast<const __half*>(at)[i]); }
};

struct BF16 {
  static __device__ __forceinline__ float read(u64 at, u64 i) {
    return __uint_as_float(static_cast<u32>(reinterpret_cast<const u16*>(at)[i]) << 16);
  }
};

// `count` columns of `length` numbers into the block's memory. All threads together.
__device__ __forceinline__ void bring_floats(const HeadProduct& p, u32 first, u32 count, u32 length, float* to) {
  for (u32 i = threadIdx.x; i < count * length; i += THREADS) to[i] = column_of(p, first + i / length)[i % length];
  __syncthreads();
}

// A warp takes a row. Grid: tiles of rows × heads × runs of 8 tokens.
template <class T>
__device__ __forceinline__ void multiply_float_heads(const HeadProduct& p) {
  extern __shared__ __align__(16) float x[];
  const u32 token = blockIdx.z * COLUMNS, columns = min(COLUMNS, p.tokens - token);
  const u32 first = blockIdx.x * p.tile, end = min(first + p.tile, p.rows), lane = threadIdx.x % WARP;
  bring_floats(p, token, columns, p.width, x);
  for (u32 row = first + threadIdx.x / WARP; row < end; row += THREADS / WARP) {
    float sums[COLUMNS] = {};
#pragma unroll 4
    for (u32 k = lane; k < p.width; k += WARP) {
      const float w = T::read(rows_of(p), static_cast<u64>(row) * p.width + k);
#pragma unroll
      for (u32 m = 0; m < COLUMNS; m++)
        if (m < columns) sums[m] = fmaf(w, x[m * p.width + k], sums[m]);
    }
#pragma unroll
    for (u32 m = 0; m < COLUMNS; m++) {
      if (m >= columns) break;
      const float sum = warp_sum(sums[m]);
      if (lane == m) output_of(p, token + m)[row] = sum;
    }
  }
}

// Grid: runs of 64 numbers × heads × runs of 8 tokens.
template <class T>
__device__ __forceinline__ void multiply_float_transposed(const HeadProduct& p) {
  extern __shared__ __align__(16) float x[];
  __shared__ float parts[FLOAT_SHARES][COLUMNS][TILE_NUMBERS];
  const u32 token = blockIdx.z * COLUMNS, columns = min(COLUMNS, p.tokens - token);
  const u32 place = threadIdx.x % TILE_NUMBERS, share = threadIdx.x / TILE_NUMBERS, k = blockIdx.x * TILE_NUMBERS + place;
  bring_floats(p, token, columns, p.rows, x);
  float sums[COLUMNS] = {};
#pragma unroll 4
  for (u32 row = share; row < p.rows; row += FLOAT_SHARES) {
    const float w = k < p.width ? T::read(rows_of(p), static_cast<u64>(row) * p.width + k) : 0.0f;
#pragma unroll
    for (u32 m = 0; m < COLUMNS; m++)
      if (m < columns) sums[m] = fmaf(w, x[m * p.rows + row], sums[m]);
  }
#pragma unroll
  for (u32 m = 0; m < COLUMNS; m++) parts[share][m][place] = sums[m];
  __syncthreads();
  if (k >= p.width) return;
  for (u32 m = share; m < columns; m += FLOAT_SHARES) {
    float sum = 0.0f;
#pragma unroll
    for (u32 s = 0; s < FLOAT_SHARES; s++) sum += parts[s][m][place];
    output_of(p, token + m)[k] = sum;
  }
}

#define HEADS_OF(T, MULTIPLY, NAME) \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME##_##T(HeadProduct p) { MULTIPLY<T>(p); }
#define INTEGERS(T)                           \
  HEADS_OF(T, multiply_heads, head_product) \
  HEADS_OF(T, multiply_transposed, head_transposed)
#define FLOATS(T)                                   \
  HEADS_OF(T, multiply_float_heads, head_product) \
  HEADS_OF(T, multiply_float_transposed, head_transposed)

INTEGERS(Q4_0)
INTEGERS(Q4_1)
INTEGERS(Q5_0)
INTEGERS(Q5_1)
INTEGERS(Q8_0)
INTEGERS(Q2_K)
INTEGERS(Q3_K)
INTEGERS(Q4_K)
INTEGERS(Q5_K)
INTEGERS(Q6_K)
INTEGERS(IQ1_S)
INTEGERS(IQ1_M)
INTEGERS(IQ2_XXS)
INTEGERS(IQ2_XS)
INTEGERS(IQ2_S)
INTEGERS(IQ3_XXS)
INTEGERS(IQ3_S)
INTEGERS(IQ4_NL)
INTEGERS(IQ4_XS)
INTEGERS(MXFP4)
FLOATS(F32)
FLOATS(F16)
FLOATS(BF16)
