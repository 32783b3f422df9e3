// The matrices of chosen experts, found by tables of addresses, so that a layer of a mixture is two launches: gate, up and what joins them,
// rounded to 8 bits for the second; then down, weighted and summed over a token's experts in the order of choice.
#pragma once

#include "rows.cuh"

constexpr int EXPERT_WARPS = 8;
constexpr int UP_ROWS = 32;  // Rows of a block in the first launch: a group of what the second reads.

// How a gate g and an up u join.
enum Joining : u32 {
  SILU,     // g * sigmoid(g) * u
  GELU,     // gelu(g) * u, in the form with tanh
  CLAMPED,  // g * sigmoid(alpha * g) * (u + 1) with g at most the limit and u within it on both sides
};

__device__ __forceinline__ float join(u32 joining, float limit, float alpha, float gate, float up) {
  switch (joining) {
    case SILU:
      return gate / (1.0f + expf(-gate)) * up;
    case GELU:
      return 0.5f * gate * (1.0f + tanhf(0.7978845608f * (gate + 0.044715f * gate * gate * gate))) * up;
    default:
      gate = fminf(gate, limit);
      return gate / (1.0f + expf(-alpha * gate)) * (fminf(fmaxf(up, -limit), limit) + 1.0f);
  }
}

// An expert's matrix, or null where it is not on this card or no expert has that number.
__device__ __forceinline__ const u8* matrix_of(const u64* table, u32 expert, u32 experts) {
  return expert < experts ? reinterpret_cast<const u8*>(table[expert]) : nullptr;
}

// Rounds the 32 numbers of a warp's lanes as `quantize` does.
__device__ __forceinline__ void write_group(float number, i8* codes, GroupScale* scale) {
  u32 largest = __float_as_uint(number) & 0x7fffffffu;
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) largest = max(largest, __shfl_xor_sync(EVERY_LANE, largest, offset));
  const float magnitude = __uint_as_float(largest);
  const bool finite = largest < 0x7f800000u, large = finite && magnitude >= 1e-36f;
  const i32 code = large ? __float2int_rn(number * (127.0f / magnitude)) : 0;
  i32 sum = code;
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(EVERY_LANE, sum, offset);
  const i32 upper = __shfl_down_sync(EVERY_LANE, sum, 16);
  const u32 lane = threadIdx.x % WARP;
  codes[lane] = static_cast<i8>(code);
  if (lane == 0) {
    *scale = {finite ? (large ? magnitude / 127.0f : 0.0f) : __uint_as_float(0x7fc00000u), static_cast<i16>(sum), static_cast<i16>(upper)};
  }
}

// A block takes 32 rows (blockIdx.x) of one choice (blockIdx.y) of `per_token` a token; its column of codes is written at the choice's place.
template <class T>
__device__ __forceinline__ void experts_up(
    const u64* gates, const u64* ups, u32 experts, const u32* chosen, u32 per_token, u32 rows, u32 groups, const i8* codes,
    const GroupScale* scales, u32 stride, const float* gate_bias, const float* up_bias, u32 joining, float limit, float alpha, i8* out_codes,
    GroupScale* out_scales, u32 out_stride) {
  __shared__ Workspace<T, 2, EXPERT_WARPS> workspace;
  __shared__ float joined[UP_ROWS];
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, first = blockIdx.x * UP_ROWS;
  const u32 choice = blockIdx.y, token = choice / per_token, expert = chosen[choice];
  const u8 *gate = matrix_of(gates, expert, experts), *up = matrix_of(ups, expert, experts);
  if (threadIdx.x < UP_ROWS) joined[threadIdx.x] = 0.0f;
  workspace.fill_table();
  __syncthreads();
  if (gate != nullptr && up != nullptr) {
    const u64 row_bytes = static_cast<u64>(groups) * GROUP / T::NUMBERS * T::BYTES;
    const Inputs inputs = {codes + static_cast<u64>(token) * stride, scales + static_cast<u64>(token) * (stride / GROUP), stride};
    const auto strip = [&](u32 s) {
      const u64 from = (first + warp + s * EXPERT_WARPS) * row_bytes;
      return Strip<2>{{gate + from, up + from}, inputs};
    };
    const auto finish = [&](u32 s, const float(&sums)[2][1]) {
      const u32 row = warp + s * EXPERT_WARPS;
      if (lane == 0) {
        const u64 bias = static_cast<u64>(expert) * rows + first + row;
        const float g = sums[0][0] + (gate_bias != nullptr ? gate_bias[bias] : 0.0f);
        const float u = sums[1][0] + (up_bias != nullptr ? up_bias[bias] : 0.0f);
        joined[row] = join(joining, limit, alpha, g, u);
      }
    };
    const u32 here = min(rows - first, UP_ROWS);
    const u32 count = warp < here ? (here - warp + EXPERT_WARPS - 1) / EXPERT_WARPS : 0;
    multiply_strips<T, 1, 2>(workspace.runs[warp], workspace.table, count, groups, 1, strip, finish);
  }
  __syncthreads();
  if (warp == 0) {
    const u64 at = static_cast<u64>(choice) * out_stride + first;
    write_group(joined[lane], out_codes + at, out_scales + at / GROUP);
  }
}

// out[token][r] = sum over the token's choices of weight * (w[r] * column + bias), or added to what is there. A warp takes two rows of a token
// (blockIdx.y); experts that are not here add nothing.
template <class T>
__device__ __forceinline__ void experts_down(
    const u64* downs, u32 experts, const u32* chosen, const float* weights, u32 per_token, u32 rows, u32 groups, const i8* codes,
    const GroupScale* scales, u32 stride, const float* bias, float* out, u32 out_stride, u32 add) {
  constexpr u32 R = 2;
  __shared__ Workspace<T, R, EXPERT_WARPS> workspace;
  workspace.fill_table();
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, token = blockIdx.y;
  const u32 row = (blockIdx.x * EXPERT_WARPS + warp) * R;
  if (row >= rows) return;
  const u64 row_bytes = static_cast<u64>(groups) * GROUP / T::NUMBERS * T::BYTES;
  chosen += static_cast<u64>(token) * per_token;
  weights += static_cast<u64>(token) * per_token;

  // Choices whose matrices are here, one bit each.
  const u32 mine = lane < per_token ? chosen[lane] : experts;
  const u32 present = __ballot_sync(EVERY_LANE, matrix_of(downs, mine, experts) != nullptr);
  const auto choice_of = [&](u32 s) {
    u32 left = present;
    for (u32 i = 0; i < s; ++i) left &= left - 1;
    return static_cast<u32>(__ffs(static_cast<int>(left))) - 1;
  };
  const auto strip = [&](u32 s) {
    const u32 choice = choice_of(s);
    const u8* matrix = matrix_of(downs, chosen[choice], experts);
    const u64 column = static_cast<u64>(token) * per_token + choice;
    return Strip<R>{
        {matrix + row * row_bytes, matrix + min(row + 1, rows - 1) * row_bytes},
        {codes + column * stride, scales + column * (stride / GROUP), stride}};
  };
  float total[R] = {};
  const auto finish = [&](u32 s, const float(&sums)[R][1]) {
    const u32 choice = choice_of(s);
#pragma unroll
    for (u32 r = 0; r < R; ++r) {
      const u64 at = static_cast<u64>(chosen[choice]) * rows + min(row + r, rows - 1);
      total[r] = fmaf(weights[choice], sums[r][0] + (bias != nullptr ? bias[at] : 0.0f), total[r]);
    }
  };
  multiply_strips<T, 1, R>(workspace.runs[warp], workspace.table, __popc(present), groups, 1, strip, finish);
  if (lane < R && row + lane < rows) {
    float* to = out + static_cast<u64>(token) * out_stride + row + lane;
    const float sum = lane == 0 ? total[0] : total[1];
    *to = add ? *to + sum : sum;
  }
}

#define EXPERTS(T)                                                                                                                       \
  extern "C" __global__ void __launch_bounds__(EXPERT_WARPS * WARP, 4) experts_up_##T(                                                   \
      const u64* gates, const u64* ups, u32 experts, const u32* chosen, u32 per_token, u32 rows, u32 groups, const i8* codes,             \
      const GroupScale* scales, u32 stride, const float* gate_bias, const float* up_bias, u32 joining, float limit, float alpha,          \
      i8* out_codes, GroupScale* out_scales, u32 out_stride) {                                                                            \
    experts_up<T>(                                                                                                                       \
        gates, ups, experts, chosen, per_token, rows, groups, codes, scales, stride, gate_bias, up_bias, joining, limit, alpha,           \
        out_codes, out_scales, out_stride);                                                                                              \
  }                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(EXPERT_WARPS * WARP, 4) experts_down_##T(                                                 \
      const u64* downs, u32 experts, const u32* chosen, const float* weights, u32 per_token, u32 rows, u32 groups, const i8* codes,       \
      const GroupScale* scales, u32 stride, const float* bias, float* out, u32 out_stride, u32 add) {                                     \
    experts_down<T>(                                                                                                                     \
        downs, experts, chosen, weights, per_token, rows, groups, codes, scales, stride, bias, out, out_stride, add);                     \
  }
