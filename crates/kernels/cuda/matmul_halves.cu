// Products of halves on tensor cores, with sums in f32: weights and columns that were unpacked before (`halve.cu`).
//
// A block of threads computes 128 rows × 128 columns. Both come by copies in the background, 64 numbers of each at a time, two steps ahead
// of the one that is multiplied. Rows of 128 bytes lie close together, their eight pieces of 16 bytes in an order that depends on the row, so
// that eight rows' pieces fall on different banks. A warp has 64 rows by 32 columns. Blocks of
// 256 columns, which read weights half as often, were no faster (263 to 330 TOP/s of 296 to 327, H100, 2,048 columns).

#include "mma.cuh"

constexpr u32 ROWS = 128;
constexpr u32 COLUMNS = 128;
constexpr u32 THREADS = 256;
constexpr u32 PIECES = 8;
// Numbers of a step: PIECES pieces.
constexpr u32 DEPTH = 64;
constexpr u32 STEPS = 3;

struct Product {
  // rows × depth and columns × depth
  const __half* weights;
  const __half* x;
  // What each column's sums are multiplied with.
  const float* factors;
  // columns × out_step
  float* out;
  u32 rows;
  u32 columns;
  u32 depth;
  u32 out_step;
  // Whether to add to what is in `out`.
  u32 add;
};

struct Step {
  alignas(16) u8 weights[ROWS][PIECES * 16];
  alignas(16) u8 columns[COLUMNS][PIECES * 16];
};

__device__ __forceinline__ u32 piece_at(u32 row, u32 piece) { return (piece ^ row % PIECES) * 16; }

// Asks for numbers `from` to `from + 64` of `LINES` rows from `first` on; zeros for those beyond the row's end, and of the last row again
// beyond the last.
template <u32 LINES>
__device__ __forceinline__ void bring(u8 (&to)[LINES][PIECES * 16], const __half* of, u32 depth, u32 first, u32 count, u32 from) {
  const u32 piece = threadIdx.x % PIECES, line = threadIdx.x / PIECES;
  const bool inside = from + piece * 8 < depth;
#pragma unroll
  for (u32 i = 0; i < LINES; i += THREADS / PIECES) {
    const u32 row = min(first + i + line, count - 1);
    copy_async(&to[i + line][piece_at(line, piece)], of + (inside ? static_cast<u64>(row) * depth + from + piece * 8 : 0), inside);
  }
}

// Grid: runs of 128 columns × runs of 128 rows; neighbours read the same weights.
extern "C" __global__ void __launch_bounds__(THREADS, 2) matmul_halves(Product p) {
  extern __shared__ __align__(16) u8 shared[];
  constexpr u32 MT = 4, DOWN = ROWS / (MT * 16), NT = COLUMNS / (THREADS / WARP / DOWN) / 8;
  auto* steps = reinterpret_cast<Step*>(shared);
  const u32 first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const u32 row = warp % DOWN * MT * 16, column = warp / DOWN * NT * 8;
  const auto ask = [&](u32 step) {
    const u32 from = step * DEPTH;
    if (from < p.depth) {
      Step& to = steps[step % STEPS];
      bring(to.weights, p.weights, p.depth, first_row, p.rows, from);
      bring(to.columns, p.x, p.depth, first_column, p.columns, from);
    }
    copy_commit();
  };
  float sums[MT][NT][4] = {};
  for (u32 step = 0; step + 1 < STEPS; step++) ask(step);
  for (u32 step = 0; step * DEPTH < p.depth; step++) {
    copy_wait<STEPS - 2>();
    __syncthreads();  // This step is there, and the one before has been used.
    ask(step + STEPS - 1);
    const Step& s = steps[step % STEPS];
#pragma unroll
    for (u32 part = 0; part < PIECES / 2; part++) {
      u32 a[MT][4];
#pragma unroll
      for (u32 i = 0; i < MT; i++) {
        const u32 r = row + i * 16 + lane % 16;
        load_matrices(a[i], &s.weights[r][piece_at(r, part * 2 + lane / 16)]);
      }
#pragma unroll
      for (u32 pair = 0; pair < NT / 2; pair++) {
        u32 b[4];
        const u32 c = column + pair * 16 + lane % 8 + lane / 16 * 8;
        load_matrices(b, &s.columns[c][piece_at(c, part * 2 + lane / 8 % 2)]);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
          for (u32 i = 0; i < MT; i++) mma_f16(sums[i][pair * 2 + half], a[i], b[2 * half], b[2 * half + 1]);
        }
      }
    }
  }
  const u32 g = lane / 4, t = lane % 4;
#pragma unroll
  for (u32 j = 0; j < NT; j++) {
#pragma unroll
    for (u32 k = 0; k < 2; k++) {
      const u32 c = first_column + column + j * 8 + 2 * t + k;
      if (c >= p.columns) continue;
      const float factor = p.factors[c];
#pragma unroll
      for (u32 i = 0; i < MT; i++) {
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
          const u32 r = first_row + row + i * 16 + h * 8 + g;
          float* out = p.out + static_cast<u64>(c) * p.out_step + r;
          if (r < p.rows) *out = fmaf(sums[i][j][2 * h + k], factor, p.add ? *out : 0.0f);
        }
      }
    }
  }
}

static_assert(sizeof(Step) == (ROWS + COLUMNS) * 128, "what a launch asks for");
