// The matrices of chosen experts, found by tables of addresses, so that a layer of a mixture is two launches: gate, up and what joins them,
// rounded to 8 bits for the second; then down, weighted and summed over a token's experts in the order of choice.
#pragma once

#include "rows.cuh"

constexpr u32 UP_ROWS = 32;  // Rows of a block in the first launch: a group of what the second reads.

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
  __shared__ Workspace<T, 1> workspace;
  const u32 first = blockIdx.x * UP_ROWS, here = min(UP_ROWS, rows - first);
  const u32 choice = blockIdx.y, token = choice / per_token, expert = chosen[choice];
  const u8 *gate = matrix_of(gates, expert, experts), *up = matrix_of(ups, expert, experts);
  const bool present = gate != nullptr && up != nullptr;
  // Rows of the gate and of the up by turns.
  const Shares shares(2 * UP_ROWS, (groups + SEGMENT_GROUPS - 1) / SEGMENT_GROUPS, blockDim.x / WARP);
  if (present) {
    if (T::TABLE > 0) {
      fill_table(workspace);
      __syncthreads();
    }
    const u64 row_bytes = static_cast<u64>(groups) * GROUP / T::NUMBERS * T::BYTES;
    codes += static_cast<u64>(token) * stride;
    scales += static_cast<u64>(token) * (stride / GROUP);
    multiply_tile<T, 1>(workspace, shares, 2 * here, 1, [&](u32 s, u32 row) {
      const u32 group = s * SEGMENT_GROUPS, some = min(groups - group, SEGMENT_GROUPS);
      const u64 from = (first + row / 2) * row_bytes + s * Steps<T, 1>::BYTES;
      return Segment{
          reinterpret_cast<u64>(gate) + from, reinterpret_cast<u64>(up) + from, row_bytes, some * GROUP / T::NUMBERS * T::BYTES, some,
          codes + group * GROUP, scales + group, stride, 1.0f};
    });
  }
  __syncthreads();
  if (threadIdx.x < WARP) {
    const u32 row = threadIdx.x;
    float joined = 0.0f;
    if (present && row < here) {
      const u64 bias = static_cast<u64>(expert) * rows + first + row;
      const float g = sum_of(workspace, shares, 2 * row, 0) + (gate_bias != nullptr ? gate_bias[bias] : 0.0f);
      const float u = sum_of(workspace, shares, 2 * row + 1, 0) + (up_bias != nullptr ? up_bias[bias] : 0.0f);
      joined = join(joining, limit, alpha, g, u);
    }
    const u64 at = static_cast<u64>(choice) * out_stride + first;
    write_group(joined, out_codes + at, out_scales + at / GROUP);
  }
}

// out[token][r] = sum over the token's choices of weight * (w[r] * column + bias), or added to what is there. A block takes `tile` rows of a
// token (blockIdx.y); experts that are not here add nothing.
template <class T>
__device__ __forceinline__ void experts_down(
    const u64* downs, u32 experts, const u32* chosen, const float* weights, u32 per_token, u32 rows, u32 tile, u32 groups, const i8* codes,
    const GroupScale* scales, u32 stride, const float* bias, float* out, u32 out_stride, u32 add) {
  __shared__ Workspace<T, 1> workspace;
  const u32 lane = threadIdx.x % WARP, token = blockIdx.y, first = blockIdx.x * tile, here = min(tile, rows - first);
  chosen += static_cast<u64>(token) * per_token;
  weights += static_cast<u64>(token) * per_token;
  if (T::TABLE > 0) {
    fill_table(workspace);
    __syncthreads();
  }
  // Choices whose matrices are here, one bit each.
  const u32 mine = lane < per_token ? chosen[lane] : experts;
  const u32 present = __ballot_sync(EVERY_LANE, matrix_of(downs, mine, experts) != nullptr);
  const auto choice_of = [&](u32 place) {
    u32 left = present;
    for (u32 i = 0; i < place; ++i) left &= left - 1;
    return static_cast<u32>(__ffs(static_cast<int>(left))) - 1;
  };
  const u32 of_row = (groups + SEGMENT_GROUPS - 1) / SEGMENT_GROUPS;
  const u64 row_bytes = static_cast<u64>(groups) * GROUP / T::NUMBERS * T::BYTES;
  const Shares shares(tile, __popc(present) * of_row, blockDim.x / WARP);
  multiply_tile<T, 1>(workspace, shares, here, 1, [&](u32 s, u32 row) {
    const u32 choice = choice_of(s / of_row), group = s % of_row * SEGMENT_GROUPS, some = min(groups - group, SEGMENT_GROUPS);
    const u64 matrix = reinterpret_cast<u64>(matrix_of(downs, chosen[choice], experts));
    const u64 even = matrix + (first + row) * row_bytes + s % of_row * Steps<T, 1>::BYTES;
    const u64 column = static_cast<u64>(token) * per_token + choice;
    return Segment{
        even, even + row_bytes, 2 * row_bytes, some * GROUP / T::NUMBERS * T::BYTES, some, codes + column * stride + group * GROUP,
        scales + column * (stride / GROUP) + group, stride, weights[choice]};
  });
  __syncthreads();
  for (u32 row = threadIdx.x; row < here; row += blockDim.x) {
    float sum = sum_of(workspace, shares, row, 0);
    if (bias != nullptr) {
      for (u32 left = present; left != 0; left &= left - 1) {
        const u32 choice = static_cast<u32>(__ffs(static_cast<int>(left))) - 1;
        sum = fmaf(weights[choice], bias[static_cast<u64>(chosen[choice]) * rows + first + row], sum);
      }
    }
    float* to = out + static_cast<u64>(token) * out_stride + first + row;
    *to = add ? *to + sum : sum;
  }
}

#define EXPERTS(T)                                                                                                                       \
  extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 4) experts_up_##T(                                                   \
      const u64* gates, const u64* ups, u32 experts, const u32* chosen, u32 per_token, u32 rows, u32 groups, const i8* codes,             \
      const GroupScale* scales, u32 stride, const float* gate_bias, const float* up_bias, u32 joining, float limit, float alpha,          \
      i8* out_codes, GroupScale* out_scales, u32 out_stride) {                                                                            \
    experts_up<T>(                                                                                                                       \
        gates, ups, experts, chosen, per_token, rows, groups, codes, scales, stride, gate_bias, up_bias, joining, limit, alpha,           \
        out_codes, out_scales, out_stride);                                                                                              \
  }                                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 4) experts_down_##T(                                                 \
      const u64* downs, u32 experts, const u32* chosen, const float* weights, u32 per_token, u32 rows, u32 tile, u32 groups,             \
      const i8* codes, const GroupScale* scales, u32 stride, const float* bias, float* out, u32 out_stride, u32 add) {                                     \
    experts_down<T>(                                                                                                                     \
        downs, experts, chosen, weights, per_token, rows, tile, groups, codes, scales, stride, bias, out, out_stride, add);               \
  }
