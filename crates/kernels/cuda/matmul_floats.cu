// Matrices of floats times many columns of floats, in f32: routers, and small models that are not quantized.
//
// A block computes 64 rows × 64 columns, a thread 4 × 4 of them, 16 numbers deep at a time. One order of sums for each output.

#include "common.cuh"

constexpr u32 TILE = 64;
constexpr u32 DEEP = 16;
constexpr u32 EACH = 4;
constexpr u32 THREADS = 256;

struct FloatProduct {
  const u8* weights;
  // columns × width
  const float* x;
  // outputs × out_step
  float* out;
  u32 out_step;
  u32 rows;
  u32 columns;
  u32 width;
};

// Grid: runs of 64 columns × runs of 64 rows.
template <class Read>
__device__ __forceinline__ void multiply(const FloatProduct& p, Read read) {
  __shared__ float w[DEEP][TILE + 4], x[DEEP][TILE + 4];
  const u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
  const u32 across = threadIdx.x % (TILE / EACH) * EACH, down = threadIdx.x / (TILE / EACH) * EACH;
  float sums[EACH][EACH] = {};
  for (u32 from = 0; from < p.width; from += DEEP) {
    __syncthreads();
#pragma unroll
    for (u32 i = threadIdx.x; i < TILE * DEEP; i += THREADS) {
      const u32 n = i / DEEP, k = from + i % DEEP;
      w[i % DEEP][n] = first_row + n < p.rows && k < p.width ? read(static_cast<u64>(first_row + n) * p.width + k) : 0.0f;
      x[i % DEEP][n] = first_column + n < p.columns && k < p.width ? p.x[static_cast<u64>(first_column + n) * p.width + k] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (u32 k = 0; k < DEEP; k++) {
      const float4 a = *reinterpret_cast<const float4*>(&w[k][across]), b = *reinterpret_cast<const float4*>(&x[k][down]);
      const float row[EACH] = {a.x, a.y, a.z, a.w}, column[EACH] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (u32 c = 0; c < EACH; c++) {
#pragma unroll
        for (u32 r = 0; r < EACH; r++) sums[c][r] = fmaf(row[r], column[c], sums[c][r]);
      }
    }
  }
#pragma unroll
  for (u32 c = 0; c < EACH; c++) {
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const u32 row = first_row + across + r, column = first_column + down + c;
      if (row < p.rows && column < p.columns) p.out[static_cast<u64>(column) * p.out_step + row] = sums[c][r];
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) matmul_F32(FloatProduct p) {
  multiply(p, [&](u64 i) { return reinterpret_cast<const float*>(p.weights)[i]; });
}

extern "C" __global__ void __launch_bounds__(THREADS) matmul_F16(FloatProduct p) {
  multiply(p, [&](u64 i) { return __half2float(reinterpret_cast<const __half*>(p.weights)[i]); });
}

extern "C" __global__ void __launch_bounds__(THREADS) matmul_BF16(FloatProduct p) {
  multiply(p, [&](u64 i) { return __uint_as_float(static_cast<u32>(reinterpret_cast<const u16*>(p.weights)[i]) << 16); });
}
