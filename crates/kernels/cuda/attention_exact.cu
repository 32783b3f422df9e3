// Attention in f32 on plain cores, for every head width and type of cache: what caches of f32 and widths without a form of their own use,
// and the merge of what splits gathered.

#include "attention.cuh"

constexpr u32 WARPS = 4;
// Values that a lane gathers at a time: heads of up to 512 in one go.
constexpr u32 HELD = 16;

// One query's way through the positions of a warp: its lanes hold one value of each 32.
template <u32 K, u32 V>
struct Walk {
  const Attention& a;
  u32 token, head, kv_head, lane;
  float largest = NEGATIVE;
  float sum = 0.0f;
  float values[HELD] = {};

  // The scores of up to 32 positions, one in each lane. `q` lies in the block's memory.
  __device__ __forceinline__ float scores(const float* q, u32 first, Range range) {
    float score = NEGATIVE;
    for (u32 p = 0; p < WARP && first + p < range.end; p++) {
      float product = 0.0f;
      for (u32 i = lane; i < a.dim_k; i += WARP) product += q[i] * kv_number<K>(a.k, kv_head, first + p, i);
      product = warp_sum(product);
      const bool seen = first + p >= range.start && is_selected(a, token, first + p);
      if (lane == p && seen) score = score_of(a, product);
    }
    return score;
  }

  __device__ __forceinline__ void gather(float score, u32 first, u32 end, u32 from) {
    const float before = largest;
    largest = fmaxf(largest, warp_max(score));
    const float shrink = power_of_two(before - largest), power = score != NEGATIVE ? power_of_two(score - largest) : 0.0f;
    sum = sum * shrink + warp_sum(power);
#pragma unroll
    for (u32 h = 0; h < HELD; h++) values[h] *= shrink;
    for (u32 p = 0; p < WARP && first + p < end; p++) {
      const float weight = __shfl_sync(EVERY_LANE, power, p);
      if (weight == 0.0f) continue;
#pragma unroll
      for (u32 h = 0; h < HELD; h++) {
        const u32 i = from + h * WARP + lane;
        if (i < a.dim_v) values[h] += weight * kv_number<V>(a.v, kv_head, first + p, i);
      }
    }
  }
};

// Grid: splits × heads × tokens. The block's memory: a query, and each warp's values, largest score and sum.
template <u32 K, u32 V>
__device__ __forceinline__ void attend(const Attention& a) {
  extern __shared__ float memory[];
  const u32 split = blockIdx.x, head = blockIdx.y, token = blockIdx.z, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const float* query = query_of(a, token, head, a.dim_k);
  float* q = memory;
  float* mine = memory + a.dim_k + warp * (HELD * WARP + 2);
  for (u32 i = threadIdx.x; i < a.dim_k; i += blockDim.x) q[i] = query[i];
  __syncthreads();
  const Range all = sees(a, token), range = share(a, token, token, split, WARP);
  float* out = a.partial ? gathered(a, token, head, split) : output_of(a, token, head, a.dim_v);
  for (u32 from = 0; from < a.dim_v; from += HELD * WARP) {
    Walk<K, V> walk{a, token, head, head / (a.heads / a.kv_heads), lane};
    for (u32 first = range.start + warp * WARP; first < range.end; first += WARPS * WARP) {
      walk.gather(walk.scores(q, first, {all.start, range.end}), first, range.end, from);
    }
    __syncthreads();  // The values of the round before have been read.
#pragma unroll
    for (u32 h = 0; h < HELD; h++) mine[h * WARP + lane] = walk.values[h];
    if (lane == 0) mine[HELD * WARP] = walk.largest;
    if (lane == 0) mine[HELD * WARP + 1] = walk.sum;
    __syncthreads();
    const float* of_first = memory + a.dim_k;
    float largest = NEGATIVE, sum = 0.0f, weight[WARPS];
    for (u32 w = 0; w < WARPS; w++) largest = fmaxf(largest, of_first[w * (HELD * WARP + 2) + HELD * WARP]);
    for (u32 w = 0; w < WARPS; w++) {
      weight[w] = power_of_two(of_first[w * (HELD * WARP + 2) + HELD * WARP] - largest);
      sum += weight[w] * of_first[w * (HELD * WARP + 2) + HELD * WARP + 1];
    }
    const float last = a.partial ? 1.0f : final_weight(a, head, largest, sum);
    for (u32 i = threadIdx.x; i < HELD * WARP && from + i < a.dim_v; i += blockDim.x) {
      float value = 0.0f;
      for (u32 w = 0; w < WARPS; w++) value += weight[w] * of_first[w * (HELD * WARP + 2) + i];
      out[from + i] = value * last;
    }
    if (a.partial && threadIdx.x == 0) {
      out[a.dim_v] = largest;
      out[a.dim_v + 1] = sum;
    }
  }
}

#define EXACT(name, k, v) \
  extern "C" __global__ void __launch_bounds__(WARPS * WARP) name(Attention a) { attend<k, v>(a); }

EXACT(exact_f32_f32, KV_F32, KV_F32)
EXACT(exact_f32_f16, KV_F32, KV_F16)
EXACT(exact_f32_q8_0, KV_F32, KV_Q8)
EXACT(exact_f16_f32, KV_F16, KV_F32)
EXACT(exact_f16_f16, KV_F16, KV_F16)
EXACT(exact_f16_q8_0, KV_F16, KV_Q8)
EXACT(exact_q8_0_f32, KV_Q8, KV_F32)
EXACT(exact_q8_0_f16, KV_Q8, KV_F16)
EXACT(exact_q8_0_q8_0, KV_Q8, KV_Q8)

// The most splits: a thread of the merge for each.
constexpr u32 SPLITS_MAX = WARPS * WARP;

// out = what all splits of a query gathered. Grid: heads × tokens.
extern "C" __global__ void __launch_bounds__(SPLITS_MAX) merge(Attention a) {
  __shared__ float weights[SPLITS_MAX], most[WARPS], sums[WARPS];
  const u32 head = blockIdx.x, token = blockIdx.y, step = a.dim_v + 2, warp = threadIdx.x / WARP;
  const float* of_first = gathered(a, token, head, 0);
  const float* mine = of_first + threadIdx.x * step + a.dim_v;
  const bool there = threadIdx.x < a.splits;
  const float own = there ? mine[0] : NEGATIVE, own_sum = there ? mine[1] : 0.0f;
  most[warp] = warp_max(own);
  __syncthreads();
  const float largest = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])), weight = power_of_two(own - largest);
  // A split without positions has written no values.
  weights[threadIdx.x] = own_sum != 0.0f ? weight : 0.0f;
  sums[warp] = warp_sum(weight * own_sum);
  __syncthreads();
  const float last = final_weight(a, head, largest, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  float* out = output_of(a, token, head, a.dim_v);
  for (u32 i = threadIdx.x; i < a.dim_v; i += blockDim.x) {
    float value = 0.0f;
    for (u32 s = 0; s < a.splits; s++) {
      if (weights[s] != 0.0f) value += weights[s] * of_first[s * step + i];
    }
    out[i] = value * last;
  }
}
