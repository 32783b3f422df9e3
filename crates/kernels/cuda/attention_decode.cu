// Attention of a few tokens over a cache of halves or `q8_0`, as fast as the cache can be read.
//
// The queries of the heads that share a KV head are a tile of eight. A matrix product takes sixteen rows: the other eight hold what the
// first lost when they were rounded to halves, so queries and powers count with 22 bits, at no cost. Keys and values go from the
// device's memory into operands without a stop between: numbers of a head may be summed in any order, and values written to any place, so
// a lane's operands are chosen to be 16 bytes in a row. Positions are split over blocks, and sixteen by sixteen over a block's warps.

#include "attention.cuh"
#include "mma.cuh"

constexpr u32 WARPS = 4;
constexpr u32 QUERIES = 8;
constexpr u32 STEP = 16;

// A number as a half, and what is left of it as another.
__device__ __forceinline__ void split_halves(float x, float y, u32& high, u32& low) {
  const __half a = __float2half_rn(x), b = __float2half_rn(y);
  high = halves(__half2float(a), __half2float(b));
  low = halves(x - __half2float(a), y - __half2float(b));
}

// A warp's tile. Lane (g, t) holds query g.
template <u32 DK, u32 DV, u32 K, u32 V>
struct Tile {
  // Values come by columns of 64 or 32 numbers, of which a lane loads 8 or 4.
  static constexpr u32 WIDE = DV % 64 == 0 ? 64 : 32, EACH = WIDE / 8;
  static constexpr u32 KEY_PARTS = DK / 32, VALUE_PARTS = DV / WIDE;

  const Attention& a;
  u32 kv_head, g, t;
  u32 q[2 * KEY_PARTS][4];
  float values[VALUE_PARTS][EACH][4] = {};
  float largest = NEGATIVE;
  float sum = 0.0f;  // Of this lane's positions.

  __device__ __forceinline__ void load_query(const float* query) {
#pragma unroll
    for (u32 c = 0; c < KEY_PARTS; c++) {
      float4 x[2] = {};
      if (query) {
        x[0] = *reinterpret_cast<const float4*>(query + 32 * c + 8 * t);
        x[1] = *reinterpret_cast<const float4*>(query + 32 * c + 8 * t + 4);
      }
#pragma unroll
      for (u32 half = 0; half < 2; half++) {
        split_halves(x[half].x, x[half].y, q[2 * c + half][0], q[2 * c + half][1]);
        split_halves(x[half].z, x[half].w, q[2 * c + half][2], q[2 * c + half][3]);
      }
    }
  }

  // Sixteen positions from `first` on; `last` is one that may be read in place of those that may not.
  __device__ __forceinline__ void step(u32 first, u32 last, u32 token, Range range) {
    float product[2][4] = {};
#pragma unroll
    for (u32 n = 0; n < 2; n++) {
      const u32 position = min(first + 8 * n + g, last);
      uint4 keys[KEY_PARTS];
#pragma unroll
      for (u32 c = 0; c < KEY_PARTS; c++) keys[c] = eight<K>(a.k, DK, kv_head, position, 32 * c + 8 * t);
#pragma unroll
      for (u32 c = 0; c < KEY_PARTS; c++) {
        mma_f16(product[n], q[2 * c], keys[c].x, keys[c].y);
        mma_f16(product[n], q[2 * c + 1], keys[c].z, keys[c].w);
      }
    }
    // This lane's four positions: 2t, 2t + 1, 2t + 8, 2t + 9.
    float score[4], largest_here = NEGATIVE;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 position = first + 8 * (i / 2) + 2 * t + i % 2;
      const bool seen = position >= range.start && position < range.end && is_selected(a, token, position);
      score[i] = seen ? score_of(a, product[i / 2][i % 2] + product[i / 2][2 + i % 2]) : NEGATIVE;
      largest_here = fmaxf(largest_here, score[i]);
    }
    largest_here = fmaxf(largest_here, __shfl_xor_sync(EVERY_LANE, largest_here, 1));
    largest_here = fmaxf(largest_here, __shfl_xor_sync(EVERY_LANE, largest_here, 2));
    if (__any_sync(EVERY_LANE, largest_here > largest)) {
      const float grown = fmaxf(largest, largest_here);
      shrink(power_of_two(largest - grown));
      largest = grown;
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      score[i] = score[i] != NEGATIVE ? power_of_two(score[i] - largest) : 0.0f;
      sum += score[i];
    }
    gather(score, first, last);
  }

  __device__ __forceinline__ void shrink(float by) {
    sum *= by;
#pragma unroll
    for (u32 c = 0; c < VALUE_PARTS; c++) {
#pragma unroll
      for (u32 j = 0; j < EACH; j++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) values[c][j][i] *= by;
      }
    }
  }

  __device__ __forceinline__ void gather(const float (&power)[4], u32 first, u32 last) {
    u32 p[4];
    split_halves(power[0], power[1], p[0], p[1]);
    split_halves(power[2], power[3], p[2], p[3]);
#pragma unroll
    for (u32 c = 0; c < VALUE_PARTS; c++) {
      u32 rows[4][EACH / 2];
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const u32 position = min(first + 8 * (i / 2) + 2 * t + i % 2, last);
        if constexpr (EACH == 8) {
          const uint4 x = eight<V>(a.v, DV, kv_head, position, c * WIDE + 8 * g);
          rows[i][0] = x.x, rows[i][1] = x.y, rows[i][2] = x.z, rows[i][3] = x.w;
        } else {
          const uint2 x = four<V>(a.v, DV, kv_head, position, c * WIDE + 4 * g);
          rows[i][0] = x.x, rows[i][1] = x.y;
        }
      }
#pragma unroll
      for (u32 j = 0; j < EACH; j++) {
        const u32 pick = j % 2 ? 0x7632 : 0x5410;
        mma_f16(values[c][j], p, __byte_perm(rows[0][j / 2], rows[1][j / 2], pick), __byte_perm(rows[2][j / 2], rows[3][j / 2], pick));
      }
    }
  }
};

// Grid: splits × (KV heads × tiles of a KV head's queries) × tokens. The block's memory: eight queries' values, and each warp's largest
// scores and sums.
template <u32 DK, u32 DV, u32 K, u32 V>
__device__ __forceinline__ void decode(const Attention& a) {
  using T = Tile<DK, DV, K, V>;
  __shared__ float all[QUERIES][DV];
  __shared__ float largest[WARPS][QUERIES], sums[WARPS][QUERIES];
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, split = blockIdx.x, token = blockIdx.z;
  const u32 group = a.heads / a.kv_heads, tiles = (group + QUERIES - 1) / QUERIES;
  T tile{a, blockIdx.y / tiles, lane / 4, lane % 4};
  const u32 first_head = tile.kv_head * group + blockIdx.y % tiles * QUERIES;
  const u32 queries = min(QUERIES, (tile.kv_head + 1) * group - first_head);
  tile.load_query(tile.g < queries ? query_of(a, token, first_head + tile.g, DK) : nullptr);

  const Range all_seen = sees(a, token), range = share(a, token, token, split, STEP);
  for (u32 first = range.start + warp * STEP; first < range.end; first += WARPS * STEP) {
    tile.step(first, range.end - 1, token, {all_seen.start, range.end});
  }

  // What the warps gathered becomes one.
  tile.sum += __shfl_xor_sync(EVERY_LANE, tile.sum, 1);
  tile.sum += __shfl_xor_sync(EVERY_LANE, tile.sum, 2);
  if (tile.t == 0) largest[warp][tile.g] = tile.largest, sums[warp][tile.g] = tile.sum;
  __syncthreads();
  float most = NEGATIVE, sum = 0.0f;
  for (u32 w = 0; w < WARPS; w++) most = fmaxf(most, largest[w][tile.g]);
  for (u32 w = 0; w < WARPS; w++) sum += sums[w][tile.g] * power_of_two(largest[w][tile.g] - most);
  tile.shrink(power_of_two(tile.largest - most));
  for (u32 w = 0; w < WARPS; w++) {
    if (w == warp) {
#pragma unroll
      for (u32 c = 0; c < T::VALUE_PARTS; c++) {
#pragma unroll
        for (u32 j = 0; j < T::EACH; j++) {
#pragma unroll
          for (u32 i = 0; i < 2; i++) {
            float& to = all[tile.g][c * T::WIDE + T::EACH * (2 * tile.t + i) + j];
            const float x = tile.values[c][j][i] + tile.values[c][j][2 + i];
            to = w == 0 ? x : to + x;
          }
        }
      }
    }
    __syncthreads();
  }
  if (tile.g < queries && warp == 0 && tile.t == 0) {
    largest[0][tile.g] = a.partial ? 1.0f : final_weight(a, first_head + tile.g, most, sum);
    if (a.partial) {
      float* rest = gathered(a, token, first_head + tile.g, split) + DV;
      rest[0] = most, rest[1] = sum;
    }
  }
  __syncthreads();
  for (u32 i = threadIdx.x; i < queries * DV; i += blockDim.x) {
    const u32 n = i / DV, d = i % DV;
    float* out = a.partial ? gathered(a, token, first_head + n, split) : output_of(a, token, first_head + n, DV);
    out[d] = all[n][d] * largest[0][n];
  }
}

#define DECODE(name, dk, dv, k, v) \
  extern "C" __global__ void __launch_bounds__(WARPS * WARP) name(Attention a) { decode<dk, dv, k, v>(a); }

#define DECODE_OF(dk, dv) \
  DECODE(decode_##dk##_##dv##_f16_f16, dk, dv, KV_F16, KV_F16) \
  DECODE(decode_##dk##_##dv##_q8_0_q8_0, dk, dv, KV_Q8, KV_Q8)

DECODE_OF(64, 64)
DECODE_OF(96, 96)
DECODE_OF(128, 128)
DECODE_OF(192, 128)
DECODE_OF(256, 256)
