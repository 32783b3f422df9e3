// A matrix in quantized blocks times one to eight quantized columns.
#pragma once

#include "rows.cuh"

constexpr int MATVEC_WARPS = 8;
constexpr int MATVEC_ROWS = 2;  // Rows that a warp takes at a time.

// out[m * out_stride + r] = sum over k of w[r][k] * x[m][k], or added to what is there. Any number of blocks: warps go on until no rows are left.
template <class T, int M>
__device__ __forceinline__ void matvec(
    const u8* weights, u32 rows, u32 groups, const i8* codes, const GroupScale* scales, u32 stride, u32 columns, float* out, u32 out_stride, u32 add) {
  constexpr int R = MATVEC_ROWS;
  __shared__ Workspace<T, R, MATVEC_WARPS> workspace;
  workspace.fill_table();
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const u32 first = blockIdx.x * MATVEC_WARPS + warp, step = gridDim.x * MATVEC_WARPS;
  const u32 strips = (rows + R - 1) / R;
  const u64 row_bytes = static_cast<u64>(groups) * GROUP / T::NUMBERS * T::BYTES;
  const auto strip = [&](u32 s) {
    Strip<R> strip = {{}, {codes, scales, stride}};
#pragma unroll
    for (int r = 0; r < R; ++r) strip.rows[r] = weights + min((first + s * step) * R + r, rows - 1) * row_bytes;
    return strip;
  };
  const auto finish = [&](u32 s, const float(&sums)[R][M]) {
    const u32 row = (first + s * step) * R;
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int m = 0; m < M; ++m)
        if (lane == r * M + m && row + r < rows && m < columns) {
          float* to = out + static_cast<u64>(m) * out_stride + row + r;
          *to = add ? *to + sums[r][m] : sums[r][m];
        }
  };
  const u32 count = first < strips ? (strips - first + step - 1) / step : 0;
  multiply_strips<T, M, R>(workspace.runs[warp], workspace.table, count, groups, columns, strip, finish);
}

#define MATVEC(T, M)                                                                                                              \
  extern "C" __global__ void __launch_bounds__(MATVEC_WARPS * WARP, M == 1 ? 4 : 3) matvec_##T##_##M(                                          \
      const u8* weights, u32 rows, u32 groups, const i8* codes, const GroupScale* scales, u32 stride, u32 columns, float* out,     \
      u32 out_stride, u32 add) {                                                                                                  \
    matvec<T, M>(weights, rows, groups, codes, scales, stride, columns, out, out_stride, add);                                     \
  }

// For each type: one column, and up to two, four and eight.
#define MATVECS(T) MATVEC(T, 1) MATVEC(T, 2) MATVEC(T, 4) MATVEC(T, 8)
