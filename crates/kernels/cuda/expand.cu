// Keys and values of some heads, made from latents at all positions, for attention of prompts.
//
// Position p of head h has the key K_h · c_p with the rotated part that all heads share behind it, and the value V_h · c_p. Weights come
// unpacked to floats and are rounded to halves on their way to the block's memory, as latents are kept; sums are f32. A block makes 128 numbers at
// 128 positions; neighbours are tiles of positions, which read the same weights.

#include "kv.cuh"
#include "mma.cuh"

constexpr u32 THREADS = 256;
constexpr u32 POSITIONS = 128;
constexpr u32 OUTPUTS = 128;
constexpr u32 DEPTH = 64;
// Halves behind each row: eight rows fall on different banks.
constexpr u32 PAD = 8;
// Tiles of 16 positions and of 8 outputs that a warp makes, of which four stand one below another and two side by side.
constexpr u32 MT = 2;
constexpr u32 NT = 8;

struct Expansion {
  KvRows latents;
  // Of each head `key` (or `value`) rows of `rank` numbers; transposed: `rank` rows of `key`. Heads are so many numbers apart.
  const float* key_weights;
  const float* value_weights;
  u32 key_step, value_step;
  // heads × positions × (key + rotated), heads × positions × value
  __half* keys;
  __half* values;
  u32 positions;
  u32 rank, rotated, key, value;
};

struct Memory {
  alignas(16) __half latents[POSITIONS][DEPTH + PAD];
  union {
    alignas(16) __half rows[OUTPUTS][DEPTH + PAD];
    alignas(16) __half columns[DEPTH][OUTPUTS + PAD];
  };
};

// Numbers `from` on of the latents at positions `first` to `first + POSITIONS`, zeros beyond either end.
template <u32 KIND>
__device__ __forceinline__ void bring_latents(const Expansion& p, Memory& m, u32 first, u32 from) {
  constexpr u32 PIECES = DEPTH / 8;
#pragma unroll
  for (u32 task = threadIdx.x; task < POSITIONS * PIECES; task += THREADS) {
    const u32 row = task / PIECES, at = from + task % PIECES * 8;
    const bool real = first + row < p.positions && at < p.rank;
    *reinterpret_cast<uint4*>(&m.latents[row][task % PIECES * 8]) = real ? eight<KIND>(p.latents, p.latents.dim, 0, first + row, at) : uint4{};
  }
}

// The same of the weights of outputs `first` on, of `count`.
template <bool TRANSPOSED>
__device__ __forceinline__ void bring_weights(const float* weights, u32 count, u32 rank, Memory& m, u32 first, u32 from) {
  constexpr u32 PIECES = (TRANSPOSED ? OUTPUTS : DEPTH) / 4;
#pragma unroll
  for (u32 task = threadIdx.x; task < OUTPUTS * DEPTH / 4; task += THREADS) {
    const u32 row = task / PIECES, at = task % PIECES * 4;
    const u32 output = first + (TRANSPOSED ? at : row), number = from + (TRANSPOSED ? row : at);
    float4 x = {};
    if (output < count && number < rank) {
      x = *reinterpret_cast<const float4*>(weights + (TRANSPOSED ? number * count + output : output * rank + number));
    }
    *reinterpret_cast<uint2*>(TRANSPOSED ? &m.columns[row][at] : &m.rows[row][at]) = {halves(x.x, x.y), halves(x.z, x.w)};
  }
}

// Outputs `first_output` to `first_output + OUTPUTS` of `count`, at positions from `first` on; rows of them are `step` halves apart.
template <u32 KIND, bool TRANSPOSED>
__device__ __forceinline__ void multiply(
    const Expansion& p, Memory& m, const float* weights, u32 count, u32 first_output, u32 first, __half* out, u32 step) {
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = warp % 4 * MT * 16, column = warp / 4 * NT * 8;
  float sums[MT][NT][4] = {};
  for (u32 from = 0; from < p.rank; from += DEPTH) {
    __syncthreads();  // What was brought before has been used.
    bring_latents<KIND>(p, m, first, from);
    bring_weights<TRANSPOSED>(weights, count, p.rank, m, first_output, from);
    __syncthreads();
#pragma unroll
    for (u32 s = 0; s < DEPTH / 16; s++) {
      u32 a[MT][4];
#pragma unroll
      for (u32 i = 0; i < MT; i++) load_matrices(a[i], &m.latents[row + i * 16 + lane % 16][s * 16 + lane / 16 * 8]);
#pragma unroll
      for (u32 j = 0; j < NT; j += 2) {
        u32 b[4];
        if constexpr (TRANSPOSED) {
          load_transposed(b, &m.columns[s * 16 + lane % 16][column + j * 8 + lane / 16 * 8]);
        } else {
          load_matrices(b, &m.rows[column + j * 8 + lane % 8 + lane / 16 * 8][s * 16 + lane / 8 % 2 * 8]);
        }
#pragma unroll
        for (u32 i = 0; i < MT; i++) {
          mma_f16(sums[i][j], a[i], b[0], b[1]);
          mma_f16(sums[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }
#pragma unroll
  for (u32 i = 0; i < MT; i++) {
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
      const u32 position = first + row + i * 16 + h * 8 + lane / 4;
      if (position >= p.positions) continue;
#pragma unroll
      for (u32 j = 0; j < NT; j++) {
        const u32 output = first_output + column + j * 8 + 2 * (lane % 4);
        if (output < count) {
          *reinterpret_cast<u32*>(out + static_cast<u64>(position) * step + output) = halves(sums[i][j][2 * h], sums[i][j][2 * h + 1]);
        }
      }
    }
  }
}

// Grid: tiles of positions × heads × (tiles of a key's outputs, and then of a value's).
template <u32 KIND, bool TRANSPOSED>
__device__ __forceinline__ void expand(const Expansion& p) {
  __shared__ Memory m;
  const u32 head = blockIdx.y, first = blockIdx.x * POSITIONS, of_keys = (p.key + OUTPUTS - 1) / OUTPUTS;
  if (blockIdx.z >= of_keys) {
    __half* values = p.values + static_cast<u64>(head) * p.positions * p.value;
    const float* weights = p.value_weights + static_cast<u64>(head) * p.value_step;
    multiply<KIND, false>(p, m, weights, p.value, (blockIdx.z - of_keys) * OUTPUTS, first, values, p.value);
    return;
  }
  const u32 width = p.key + p.rotated;
  __half* keys = p.keys + static_cast<u64>(head) * p.positions * width;
  multiply<KIND, TRANSPOSED>(
      p, m, p.key_weights + static_cast<u64>(head) * p.key_step, p.key, blockIdx.z * OUTPUTS, first, keys, width);
  if (blockIdx.z > 0) return;
  const u32 pieces = p.rotated / 8, here = min(POSITIONS, p.positions - first);
  for (u32 task = threadIdx.x; task < here * pieces; task += THREADS) {
    const u32 position = first + task / pieces, at = task % pieces * 8;
    *reinterpret_cast<uint4*>(keys + static_cast<u64>(position) * width + p.key + at) =
        eight<KIND>(p.latents, p.latents.dim, 0, position, p.rank + at);
  }
}

#define EXPAND(name, kind, transposed) \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) name(Expansion p) { expand<kind, transposed>(p); }

EXPAND(expand_f16, KV_F16, false)
EXPAND(expand_q8_0, KV_Q8, false)
EXPAND(expand_transposed_f16, KV_F16, true)
EXPAND(expand_transposed_q8_0, KV_Q8, true)
