// Attention of many tokens, on tensor cores in halves with sums in f32.
//
// The queries of all heads that share a KV head, and of neighbouring tokens, go through the positions together as a tile of 64, sixteen to
// a warp. Keys and values of some positions come to the block's memory in the background: values while scores are computed, the next keys
// while values are summed. After Dao, "FlashAttention-2", 2023, <https://arxiv.org/abs/2307.08691>.

#include "attention.cuh"
#include "mma.cuh"

constexpr u32 WARPS = 4;
constexpr u32 THREADS = WARPS * WARP;
constexpr u32 QUERIES = WARPS * 16;
// Halves behind each row: eight rows fall on different banks.
constexpr u32 PAD = 8;

template <u32 DK, u32 DV, u32 K, u32 V>
struct Form {
  // Wide heads leave no room for their queries in registers.
  static constexpr bool WIDE = DK > 192;
  static constexpr u32 POSITIONS = WIDE ? 32 : 64;
  static constexpr u32 KEY_STEPS = DK / 16, SCORE_TILES = POSITIONS / 8, VALUE_TILES = DV / 8;
  struct Memory {
    __half keys[POSITIONS][DK + PAD];
    __half values[POSITIONS][DV + PAD];
    __half queries[WIDE ? QUERIES : 1][DK + PAD];
  };
};

// Brings rows `first` to `first + POSITIONS` of a head, zeros from `end` on.
template <u32 KIND, u32 DIM, u32 POSITIONS>
__device__ __forceinline__ void bring(__half (*to)[DIM + PAD], const KvRows& kv, u32 head, u32 first, u32 end) {
  constexpr u32 PIECES = DIM / 8;
#pragma unroll 4
  for (u32 task = threadIdx.x; task < POSITIONS * PIECES; task += THREADS) {
    const u32 row = task / PIECES, piece = task % PIECES, position = first + row;
    const bool real = position < end;
    __half* place = &to[row][piece * 8];
    if constexpr (KIND == KV_F16) {
      const __half* from = reinterpret_cast<const __half*>(kv.base) + kv_row(kv, head, real ? position : first) * DIM + piece * 8;
      copy_async(place, from, real);
    } else {
      *reinterpret_cast<uint4*>(place) = real ? eight<KIND>(kv, DIM, head, position, piece * 8) : uint4{};
    }
  }
  copy_commit();
}

// Sixteen queries of a warp. Lane (g, t) holds rows g and g + 8.
template <u32 DK, u32 DV, u32 K, u32 V>
struct Tile {
  using F = Form<DK, DV, K, V>;
  const Attention& a;
  typename F::Memory& m;
  u32 lane, warp;
  u32 token[2];
  Range range[2];
  u32 q[F::WIDE ? 1 : F::KEY_STEPS][4];
  float values[F::VALUE_TILES][4] = {};
  float largest[2] = {NEGATIVE, NEGATIVE};
  float sum[2] = {};

  // `query[h]`: the numbers of the query of row g + 8h, or null.
  __device__ __forceinline__ void load_queries(const float* const (&query)[2]) {
    const u32 g = lane / 4, t = lane % 4;
#pragma unroll
    for (u32 s = 0; s < F::KEY_STEPS; s++) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const u32 h = i % 2, at = s * 16 + i / 2 * 8 + 2 * t;
        const float2 x = query[h] ? *reinterpret_cast<const float2*>(query[h] + at) : float2{};
        if constexpr (F::WIDE) {
          *reinterpret_cast<u32*>(&m.queries[warp * 16 + g + 8 * h][at]) = halves(x.x, x.y);
        } else {
          q[s][i] = halves(x.x, x.y);
        }
      }
    }
  }

  __device__ __forceinline__ void score(float (&scores)[F::SCORE_TILES][4]) {
#pragma unroll
    for (u32 s = 0; s < F::KEY_STEPS; s++) {
      u32 wide[4];
      if constexpr (F::WIDE) load_matrices(wide, &m.queries[warp * 16 + lane % 16][s * 16 + lane / 16 * 8]);
#pragma unroll
      for (u32 j = 0; j < F::SCORE_TILES; j += 2) {
        u32 b[4];
        load_matrices(b, &m.keys[j * 8 + lane % 8 + lane / 16 * 8][s * 16 + lane / 8 % 2 * 8]);
        mma_f16(scores[j], F::WIDE ? wide : q[F::WIDE ? 0 : s], b[0], b[1]);
        mma_f16(scores[j + 1], F::WIDE ? wide : q[F::WIDE ? 0 : s], b[2], b[3]);
      }
    }
  }

  // Products become powers relative to the largest score.
  __device__ __forceinline__ void weigh(float (&scores)[F::SCORE_TILES][4], u32 first) {
    const u32 t = lane % 4;
    const bool whole = !a.selected && first >= max(range[0].start, range[1].start) &&
                       first + F::POSITIONS <= min(range[0].end, range[1].end);
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
      float most = NEGATIVE;
#pragma unroll
      for (u32 j = 0; j < F::SCORE_TILES; j++) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          const u32 position = first + j * 8 + 2 * t + i;
          float& x = scores[j][2 * h + i];
          const bool seen = whole || (position >= range[h].start && position < range[h].end && is_selected(a, token[h], position));
          x = seen ? score_of(a, x) : NEGATIVE;
          most = fmaxf(most, x);
        }
      }
      most = fmaxf(most, __shfl_xor_sync(EVERY_LANE, most, 1));
      most = fmaxf(most, __shfl_xor_sync(EVERY_LANE, most, 2));
      const float grown = fmaxf(largest[h], most), by = power_of_two(largest[h] - grown);
      largest[h] = grown;
      sum[h] *= by;
#pragma unroll
      for (u32 j = 0; j < F::VALUE_TILES; j++) values[j][2 * h] *= by, values[j][2 * h + 1] *= by;
#pragma unroll
      for (u32 j = 0; j < F::SCORE_TILES; j++) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
          float& x = scores[j][2 * h + i];
          x = x != NEGATIVE ? power_of_two(x - grown) : 0.0f;
          sum[h] += x;
        }
      }
    }
  }

  __device__ __forceinline__ void gather(const float (&powers)[F::SCORE_TILES][4]) {
#pragma unroll
    for (u32 s = 0; s < F::POSITIONS / 16; s++) {
      const float(&low)[4] = powers[2 * s], (&high)[4] = powers[2 * s + 1];
      const u32 p[4] = {halves(low[0], low[1]), halves(low[2], low[3]), halves(high[0], high[1]), halves(high[2], high[3])};
#pragma unroll
      for (u32 j = 0; j < F::VALUE_TILES; j += 2) {
        u32 b[4];
        load_transposed(b, &m.values[s * 16 + lane % 16][j * 8 + lane / 16 * 8]);
        mma_f16(values[j], p, b[0], b[1]);
        mma_f16(values[j + 1], p, b[2], b[3]);
      }
    }
  }
};

// Grid: tiles of a KV head's queries × KV heads × splits.
template <u32 DK, u32 DV, u32 K, u32 V>
__device__ __forceinline__ void prefill(const Attention& a) {
  using F = Form<DK, DV, K, V>;
  extern __shared__ __align__(16) u8 shared[];
  auto& m = *reinterpret_cast<typename F::Memory*>(shared);
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4, kv_head = blockIdx.y, split = blockIdx.z;
  const u32 group = a.heads / a.kv_heads, count = a.tokens * group, first_query = blockIdx.x * QUERIES;
  Tile<DK, DV, K, V> tile{a, m, lane, warp};
  const float* query[2];
  u32 head[2];
#pragma unroll
  for (u32 h = 0; h < 2; h++) {
    const u32 n = first_query + warp * 16 + g + 8 * h;
    tile.token[h] = min(n, count - 1) / group;
    head[h] = kv_head * group + min(n, count - 1) % group;
    tile.range[h] = sees(a, tile.token[h]);
    query[h] = n < count ? query_of(a, tile.token[h], head[h], DK) : nullptr;
  }
  tile.load_queries(query);
  const u32 last_query = min(first_query + QUERIES, count) - 1;
  const Range range = share(a, first_query / group, last_query / group, split, F::POSITIONS);
  if (range.start < range.end) bring<K, DK, F::POSITIONS>(m.keys, a.k, kv_head, range.start, range.end);
  for (u32 first = range.start; first < range.end; first += F::POSITIONS) {
    copy_wait<0>();
    __syncthreads();
    bring<V, DV, F::POSITIONS>(m.values, a.v, kv_head, first, range.end);
    float scores[F::SCORE_TILES][4] = {};
    tile.score(scores);
    tile.weigh(scores, first);
    copy_wait<0>();
    __syncthreads();
    if (first + F::POSITIONS < range.end) bring<K, DK, F::POSITIONS>(m.keys, a.k, kv_head, first + F::POSITIONS, range.end);
    tile.gather(scores);
  }
#pragma unroll
  for (u32 h = 0; h < 2; h++) {
    float sum = tile.sum[h];
    sum += __shfl_xor_sync(EVERY_LANE, sum, 1);
    sum += __shfl_xor_sync(EVERY_LANE, sum, 2);
    if (!query[h]) continue;
    const u32 token = tile.token[h];
    float* out = a.partial ? gathered(a, token, head[h], split) : output_of(a, token, head[h], DV);
    const float last = a.partial ? 1.0f : final_weight(a, head[h], tile.largest[h], sum);
#pragma unroll
    for (u32 j = 0; j < F::VALUE_TILES; j++) {
      *reinterpret_cast<float2*>(out + j * 8 + 2 * t) = {tile.values[j][2 * h] * last, tile.values[j][2 * h + 1] * last};
    }
    if (a.partial && t == 0) *reinterpret_cast<float2*>(out + DV) = {tile.largest[h], sum};
  }
}

#define PREFILL(name, dk, dv, k, v) \
  extern "C" __global__ void __launch_bounds__(THREADS) name(Attention a) { prefill<dk, dv, k, v>(a); }

#define PREFILL_OF(dk, dv) \
  PREFILL(prefill_##dk##_##dv##_f16_f16, dk, dv, KV_F16, KV_F16) \
  PREFILL(prefill_##dk##_##dv##_q8_0_q8_0, dk, dv, KV_Q8, KV_Q8)

PREFILL_OF(64, 64)
PREFILL_OF(96, 96)
PREFILL_OF(128, 128)
PREFILL_OF(192, 128)
PREFILL_OF(256, 256)
