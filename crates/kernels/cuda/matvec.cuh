// A matrix in quantized blocks times one to eight quantized columns.
#pragma once

#include "rows.cuh"

// out[m * out_stride + r] = sum over k of w[r][k] * x[m][k], or added to what is there. A block takes `tile` rows and up to M columns; blocks of
// the same rows are neighbours, so that the second takes them from the second-level cache.
template <class T, int M>
__device__ __forceinline__ void matvec(
    const u8* weights, u32 rows, u32 tile, u32 groups, const i8* codes, const GroupScale* scales, u32 stride, u32 columns, float* out,
    u32 out_stride, u32 add) {
  __shared__ Workspace<T, M> workspace;
  if (T::TABLE > 0) {
    fill_table(workspace);
    __syncthreads();
  }
  const u32 parts = (columns + M - 1) / M, part = blockIdx.x % parts * M;
  codes += static_cast<u64>(part) * stride;
  scales += static_cast<u64>(part) * (stride / GROUP);
  out += static_cast<u64>(part) * out_stride;
  columns = min(columns - part, static_cast<u32>(M));
  const u32 first = blockIdx.x / parts * tile, here = min(tile, rows - first);
  const u64 row_bytes = static_cast<u64>(groups) * GROUP / T::NUMBERS * T::BYTES;
  const u64 start = reinterpret_cast<u64>(weights) + first * row_bytes;
  const Shares shares(tile, (groups + SEGMENT_GROUPS - 1) / SEGMENT_GROUPS, blockDim.x / WARP);
  multiply_tile<T, M>(workspace, shares, here, columns, [&](u32 s, u32 row) {
    const u32 group = s * SEGMENT_GROUPS, some = min(groups - group, SEGMENT_GROUPS);
    const u64 even = start + row * row_bytes + s * Steps<T, M>::BYTES;
    const u32 bytes = some * GROUP / T::NUMBERS * T::BYTES;
    return Segment{even, even + row_bytes, 2 * row_bytes, bytes, some, codes + group * GROUP, scales + group, stride, 1.0f};
  });
  __syncthreads();
  for (u32 i = threadIdx.x; i < here * columns; i += blockDim.x) {
    const u32 m = i / here, row = i % here;
    float* to = out + static_cast<u64>(m) * out_stride + first + row;
    const float sum = sum_of(workspace, shares, row, m);
    *to = add ? *to + sum : sum;
  }
}

#define MATVEC(T, M)                                                                                                           \
  extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, M <= 2 ? 3 : 2) matvec_##T##_##M(                               \
      const u8* weights, u32 rows, u32 tile, u32 groups, const i8* codes, const GroupScale* scales, u32 stride, u32 columns,     \
      float* out, u32 out_stride, u32 add) {                                                                                   \
    matvec<T, M>(weights, rows, tile, groups, codes, scales, stride, columns, out, out_stride, add);                            \
  }

// For each type: one column, up to two, and up to four for each block.
#define MATVECS(T) MATVEC(T, 1) MATVEC(T, 2) MATVEC(T, 4)
