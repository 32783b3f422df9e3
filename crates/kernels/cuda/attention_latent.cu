// Absorbed latent attention: all heads look at one row of 576 numbers a position, of which the first 512 are the values too.
//
// Nine warps have 64 numbers of every row each, as key and, but for the ninth, as value: a row is brought once and stays where it is used.
// A warp multiplies its part of 32 queries with its part of 16 keys; the parts are summed in the block's memory, and every warp turns the
// sums into powers for its own values. So a row of the cache, 1152 bytes, serves 32 heads at a time: 60 operations a byte.

#include "attention.cuh"
#include "mma.cuh"

constexpr u32 SLICE = 64;
constexpr u32 RANK = 512;
constexpr u32 WIDTH = 576;
constexpr u32 SLICES = WIDTH / SLICE;
constexpr u32 THREADS = SLICES * WARP;
constexpr u32 QUERIES = 32;
constexpr u32 POSITIONS = 16;
// Numbers behind each row: rows fall on different banks.
constexpr u32 PAD = 8;
constexpr u32 SCORE_STEP = POSITIONS + 4;
constexpr u32 BLOCKS = QUERIES / 16;

struct Memory {
  __half rows[2][SLICES][POSITIONS][SLICE + PAD];
  float parts[SLICES][QUERIES][SCORE_STEP];
  float scores[QUERIES][SCORE_STEP];
};

// Brings this warp's numbers of rows `first` to `first + 16`, zeros from `end` on.
template <u32 KIND>
__device__ __forceinline__ void bring(__half (*to)[SLICE + PAD], const KvRows& kv, u32 slice, u32 first, u32 end) {
  constexpr u32 PIECES = SLICE / 8;
#pragma unroll
  for (u32 task = threadIdx.x % WARP; task < POSITIONS * PIECES; task += WARP) {
    const u32 row = task / PIECES, from = slice * SLICE + task % PIECES * 8;
    const bool real = first + row < end;
    __half* place = &to[row][task % PIECES * 8];
    if constexpr (KIND == KV_F16) {
      const u64 at = kv_row(kv, 0, real ? first + row : first) * WIDTH + from;
      copy_async(place, reinterpret_cast<const __half*>(kv.base) + at, real);
    } else {
      *reinterpret_cast<uint4*>(place) = real ? eight<KIND>(kv, WIDTH, 0, first + row, from) : uint4{};
    }
  }
  copy_commit();
}

// A warp's part of 32 queries. Lane (g, t) holds rows g, g + 8, g + 16 and g + 24.
struct Tile {
  const Attention& a;
  Memory& m;
  u32 lane, slice;
  u32 token[4];
  Range range[4];
  u32 q[BLOCKS][SLICE / 16][4];
  float values[BLOCKS][SLICE / 8][4] = {};
  float largest[4] = {NEGATIVE, NEGATIVE, NEGATIVE, NEGATIVE};
  float sum[4] = {};

  __device__ __forceinline__ void load_queries(const float* const (&query)[4]) {
#pragma unroll
    for (u32 b = 0; b < BLOCKS; b++) {
#pragma unroll
      for (u32 s = 0; s < SLICE / 16; s++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          const float* from = query[2 * b + i % 2];
          const u32 at = slice * SLICE + s * 16 + i / 2 * 8 + 2 * (lane % 4);
          const float2 x = from ? *reinterpret_cast<const float2*>(from + at) : float2{};
          q[b][s][i] = halves(x.x, x.y);
        }
      }
    }
  }

  // This warp's part of the products goes to the block's memory.
  __device__ __forceinline__ void multiply(const __half (*rows)[SLICE + PAD]) {
    float product[BLOCKS][2][4] = {};
#pragma unroll
    for (u32 s = 0; s < SLICE / 16; s++) {
      u32 keys[4];
      load_matrices(keys, &rows[lane % 8 + lane / 16 * 8][s * 16 + lane / 8 % 2 * 8]);
#pragma unroll
      for (u32 b = 0; b < BLOCKS; b++) {
        mma_f16(product[b][0], q[b][s], keys[0], keys[1]);
        mma_f16(product[b][1], q[b][s], keys[2], keys[3]);
      }
    }
#pragma unroll
    for (u32 b = 0; b < BLOCKS; b++) {
#pragma unroll
      for (u32 n = 0; n < 4; n++) {
        float* to = &m.parts[slice][b * 16 + n % 2 * 8 + lane / 4][n / 2 * 8 + 2 * (lane % 4)];
        *reinterpret_cast<float2*>(to) = {product[b][n / 2][n % 2 * 2], product[b][n / 2][n % 2 * 2 + 1]};
      }
    }
  }

  // Scores become powers: of row b · 16 + g + 8h those at 2t, 2t + 1, 2t + 8 and 2t + 9.
  __device__ __forceinline__ void weigh(u32 first, u32 row, float (&power)[4]) {
    const u32 t = lane % 4;
    float most = NEGATIVE;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 at = i / 2 * 8 + 2 * t + i % 2, position = first + at;
      const bool seen = position >= range[row].start && position < range[row].end && is_selected(a, token[row], position);
      power[i] = seen ? score_of(a, m.scores[row / 2 * 16 + row % 2 * 8 + lane / 4][at]) : NEGATIVE;
      most = fmaxf(most, power[i]);
    }
    most = fmaxf(most, __shfl_xor_sync(EVERY_LANE, most, 1));
    most = fmaxf(most, __shfl_xor_sync(EVERY_LANE, most, 2));
    const float grown = fmaxf(largest[row], most), by = power_of_two(largest[row] - grown);
    largest[row] = grown;
    sum[row] *= by;
#pragma unroll
    for (u32 j = 0; j < SLICE / 8; j++) {
#pragma unroll
      for (u32 i = 0; i < 2; i++) values[row / 2][j][row % 2 * 2 + i] *= by;
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      power[i] = power[i] != NEGATIVE ? power_of_two(power[i] - grown) : 0.0f;
      sum[row] += power[i];
    }
  }

  __device__ __forceinline__ void gather(u32 first, const __half (*rows)[SLICE + PAD]) {
    u32 p[BLOCKS][4];
#pragma unroll
    for (u32 row = 0; row < 4; row++) {
      float power[4];
      weigh(first, row, power);
      p[row / 2][row % 2] = halves(power[0], power[1]);
      p[row / 2][row % 2 + 2] = halves(power[2], power[3]);
    }
#pragma unroll
    for (u32 j = 0; j < SLICE / 8; j += 2) {
      u32 x[4];
      load_transposed(x, &rows[lane % 16][j * 8 + lane / 16 * 8]);
#pragma unroll
      for (u32 b = 0; b < BLOCKS; b++) {
        mma_f16(values[b][j], p[b], x[0], x[1]);
        mma_f16(values[b][j + 1], p[b], x[2], x[3]);
      }
    }
  }

  __device__ __forceinline__ void store(const float* const (&query)[4], const u32 (&head)[4], u32 split) {
#pragma unroll
    for (u32 row = 0; row < 4; row++) {
      float all = sum[row];
      all += __shfl_xor_sync(EVERY_LANE, all, 1);
      all += __shfl_xor_sync(EVERY_LANE, all, 2);
      if (!query[row] || slice * SLICE >= RANK) continue;
      float* out = a.partial ? gathered(a, token[row], head[row], split)
                             : output_of(a, token[row], head[row], RANK);
      const float last = a.partial ? 1.0f : final_weight(a, head[row], largest[row], all);
#pragma unroll
      for (u32 j = 0; j < SLICE / 8; j++) {
        const float* x = &values[row / 2][j][row % 2 * 2];
        *reinterpret_cast<float2*>(out + slice * SLICE + j * 8 + 2 * (lane % 4)) = {x[0] * last, x[1] * last};
      }
      if (a.partial && slice == 0 && lane % 4 == 0) *reinterpret_cast<float2*>(out + RANK) = {largest[row], all};
    }
  }
};

// Grid: tiles of 32 queries, heads after heads and token after token, × splits.
template <u32 KIND>
__device__ __forceinline__ void attend(const Attention& a) {
  extern __shared__ __align__(16) u8 shared[];
  auto& m = *reinterpret_cast<Memory*>(shared);
  const u32 lane = threadIdx.x % WARP, slice = threadIdx.x / WARP, split = blockIdx.y;
  const u32 count = a.tokens * a.heads, first_query = blockIdx.x * QUERIES;
  Tile tile{a, m, lane, slice};
  const float* query[4];
  u32 head[4];
#pragma unroll
  for (u32 row = 0; row < 4; row++) {
    const u32 n = first_query + row * 8 + lane / 4;
    tile.token[row] = min(n, count - 1) / a.heads;
    head[row] = min(n, count - 1) % a.heads;
    tile.range[row] = sees(a, tile.token[row]);
    query[row] = n < count ? query_of(a, tile.token[row], head[row], WIDTH) : nullptr;
  }
  tile.load_queries(query);
  const u32 last_query = min(first_query + QUERIES, count) - 1;
  const Range range = share(a, first_query / a.heads, last_query / a.heads, split, POSITIONS);
  if (range.start < range.end) bring<KIND>(m.rows[0][slice], a.k, slice, range.start, range.end);
  u32 turn = 0;
  for (u32 first = range.start; first < range.end; first += POSITIONS, turn ^= 1) {
    __syncwarp();  // All lanes have read what the next rows replace.
    if (first + POSITIONS < range.end) {
      bring<KIND>(m.rows[turn ^ 1][slice], a.k, slice, first + POSITIONS, range.end);
    } else {
      copy_commit();
    }
    copy_wait<1>();
    __syncwarp();
    tile.multiply(m.rows[turn][slice]);
    __syncthreads();
    if (threadIdx.x < QUERIES * POSITIONS / 2) {
      const u32 row = threadIdx.x / (POSITIONS / 2), at = threadIdx.x % (POSITIONS / 2) * 2;
      float2 sum = {};
#pragma unroll
      for (u32 s = 0; s < SLICES; s++) {
        const float2 part = *reinterpret_cast<const float2*>(&m.parts[s][row][at]);
        sum.x += part.x, sum.y += part.y;
      }
      *reinterpret_cast<float2*>(&m.scores[row][at]) = sum;
    }
    __syncthreads();
    if (slice * SLICE < RANK) tile.gather(first, m.rows[turn][slice]);
  }
  tile.store(query, head, split);
}

extern "C" __global__ void __launch_bounds__(THREADS) latent_f16(Attention a) { attend<KV_F16>(a); }
extern "C" __global__ void __launch_bounds__(THREADS) latent_q8_0(Attention a) { attend<KV_Q8>(a); }
