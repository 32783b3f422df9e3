// Norms of rows, a block for each: the sum of two rows may go before, and the rounding to 8 bits behind.

#include "round.cuh"

struct Norm {
  // rows × n
  const float* x;
  // Added to `x` before; null: nothing. The sums go to `sum`, which may be `x`.
  const float* added;
  float* sum;
  // n numbers; null: all 1.
  const float* weight;
  // The result; null: only rounded. May be `x`.
  float* out;
  // The result, rounded; n is then a multiple of 32.
  ColumnsOut rounded;
  u32 n;
  // What the sum of squares is divided by.
  float over;
  float eps;
  // Whether the mean is taken off first.
  u32 centred;
};

// The sum over a block's threads, the same in all of them, always in the same order.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float sums[WARP];
  x = warp_sum(x);
  __syncthreads();  // The sums before have been read.
  if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % WARP < blockDim.x / WARP ? sums[threadIdx.x % WARP] : 0.0f);
}

template <u32 V>
struct Pack {
  float x[V];
};

template <u32 V>
__device__ __forceinline__ Pack<V> load(const float* from) {
  if constexpr (V == 4) {
    const float4 all = *reinterpret_cast<const float4*>(from);
    return {all.x, all.y, all.z, all.w};
  } else {
    return {*from};
  }
}

template <u32 V>
__device__ __forceinline__ void store(float* to, const Pack<V>& pack) {
  if constexpr (V == 4) {
    *reinterpret_cast<float4*>(to) = {pack.x[0], pack.x[1], pack.x[2], pack.x[3]};
  } else {
    *to = pack.x[0];
  }
}

template <u32 V>
__device__ __forceinline__ void norm(const Norm& p) {
  const u64 start = static_cast<u64>(blockIdx.x) * p.n;
  const u32 mine = threadIdx.x * V, step = blockDim.x * V;
  const float* x = p.x + start;
  float squares = 0.0f, total = 0.0f;
  for (u32 i = mine; i < p.n; i += step) {
    Pack<V> pack = load<V>(x + i);
    if (p.added) {
      const Pack<V> more = load<V>(p.added + start + i);
#pragma unroll
      for (u32 j = 0; j < V; j++) pack.x[j] += more.x[j];
      store(p.sum + start + i, pack);
    }
#pragma unroll
    for (u32 j = 0; j < V; j++) total += pack.x[j], squares += pack.x[j] * pack.x[j];
  }
  // From here on each thread reads what it wrote itself.
  if (p.added) x = p.sum + start;
  float mean = 0.0f;
  if (p.centred) {
    mean = block_sum(total) / static_cast<float>(p.n);
    squares = 0.0f;
    for (u32 i = mine; i < p.n; i += step) {
      const Pack<V> pack = load<V>(x + i);
#pragma unroll
      for (u32 j = 0; j < V; j++) squares += (pack.x[j] - mean) * (pack.x[j] - mean);
    }
  }
  const float scale = rsqrtf(block_sum(squares) / p.over + p.eps);
  for (u32 first = 0; first < p.n; first += step) {
    const u32 i = first + mine;
    const bool inside = i < p.n;
    Pack<V> pack = {};
    if (inside) {
      pack = load<V>(x + i);
      const Pack<V> weight = p.weight ? load<V>(p.weight + i) : Pack<V>{};
#pragma unroll
      for (u32 j = 0; j < V; j++) pack.x[j] = (pack.x[j] - mean) * scale * (p.weight ? weight.x[j] : 1.0f);
      if (p.out) store(p.out + start + i, pack);
    }
    if constexpr (V == 4) {
      if (p.rounded.codes) keep_rounded(p.rounded, start + i, pack.x, inside);
    }
  }
}

// Grid: rows. For rows of any length.
extern "C" __global__ void __launch_bounds__(1024) norm_any(Norm p) { norm<1>(p); }

// Grid: rows. For rows of fours, whose buffers start at multiples of 16 bytes.
extern "C" __global__ void __launch_bounds__(1024) norm_fours(Norm p) { norm<4>(p); }
