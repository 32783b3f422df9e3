// Unpacks rows of quantized matrices, and columns, to halves: once, for many columns (`matmul_halves.cu`).

#include "blocks/grids.cuh"
#include "columns.cuh"
#include "mma.cuh"

struct HalveRows {
  const u8* weights;
  // rows × 32 · groups
  __half* out;
  u32 rows;
  // Groups of a row, the first that is wanted, and how many.
  u32 row_groups;
  u32 first;
  u32 groups;
};

// A lane takes a group; neighbours write side by side. Grid: runs of 256 groups of all rows.
template <class T>
__device__ __forceinline__ void halve(const HalveRows& p) {
  constexpr u32 OF_BLOCK = T::NUMBERS / GROUP;
  __shared__ alignas(16) u32 table[T::TABLE > 0 ? T::TABLE : 4];
  if constexpr (T::TABLE > 0) {
    for (u32 i = threadIdx.x; i < T::TABLE; i += blockDim.x) table[i] = T::table(i);
    __syncthreads();
  }
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x, row = i / p.groups, g = p.first + i % p.groups;
  if (row >= p.rows) return;
  const u64 at = reinterpret_cast<u64>(p.weights) + static_cast<u64>(row) * (p.row_groups / OF_BLOCK * T::BYTES);
  const Bytes bytes = {reinterpret_cast<const u32*>(at & ~15ull), static_cast<u32>(at & 15)};
  Group<T::SCALES> group = {};
  T::read(bytes.from(g / OF_BLOCK * T::BYTES), g % OF_BLOCK, table, group);
  uint4* out = reinterpret_cast<uint4*>(p.out + static_cast<u64>(i) * GROUP);
#pragma unroll
  for (u32 eight = 0; eight < GROUP / 8; eight++) {
    u32 words[4];
#pragma unroll
    for (u32 k = 0; k < 4; k++) {
      const u32 n = eight * 8 + k * 2, h = T::SCALES == 2 ? n / 16 : 0;
      const u32 codes = group.codes[n / 4] >> (n % 4 * 8);
      const float less = T::MINIMUM ? group.minimum[h] : 0.0f;
      const float low = static_cast<float>(static_cast<i8>(codes) - T::OFFSET), high = static_cast<float>(static_cast<i8>(codes >> 8) - T::OFFSET);
      words[k] = halves(group.scale[h] * low - less, group.scale[h] * high - less);
    }
    out[eight] = {words[0], words[1], words[2], words[3]};
  }
}

#define HALVES_OF(T) \
  extern "C" __global__ void __launch_bounds__(256) halve_##T(HalveRows p) { halve<T>(p); }

HALVES_OF(Q4_0) HALVES_OF(Q4_1) HALVES_OF(Q5_0) HALVES_OF(Q5_1) HALVES_OF(Q8_0)
HALVES_OF(Q2_K) HALVES_OF(Q3_K) HALVES_OF(Q4_K) HALVES_OF(Q5_K) HALVES_OF(Q6_K)
HALVES_OF(IQ1_S) HALVES_OF(IQ1_M) HALVES_OF(IQ2_XXS) HALVES_OF(IQ2_XS) HALVES_OF(IQ2_S) HALVES_OF(IQ3_XXS) HALVES_OF(IQ3_S)
HALVES_OF(IQ4_NL) HALVES_OF(IQ4_XS)

struct HalveColumns {
  // Columns of `stride` codes, and a scale for each 32 of them.
  const i8* codes;
  const GroupScale* scales;
  // columns × 32 · groups
  __half* out;
  // What each column was divided by, a power of two.
  float* factors;
  u32 stride;
  // The first group that is wanted, and how many.
  u32 first;
  u32 groups;
};

// Columns are divided by a power of two so that their largest number is below 2: halves end at 65,504, and activations do not.
// Grid: columns.
extern "C" __global__ void __launch_bounds__(256) halve_columns(HalveColumns p) {
  __shared__ float largest[256 / WARP];
  const u64 start = static_cast<u64>(blockIdx.x) * p.stride + p.first * GROUP;
  const GroupScale* scales = p.scales + start / GROUP;
  float most = 0.0f;
  for (u32 g = threadIdx.x; g < p.groups; g += blockDim.x) most = fmaxf(most, scales[g].scale * 127.0f);
  most = warp_max(most);
  if (threadIdx.x % WARP == 0) largest[threadIdx.x / WARP] = most;
  __syncthreads();
  most = largest[0];
#pragma unroll
  for (u32 i = 1; i < 256 / WARP; i++) most = fmaxf(most, largest[i]);
  // The power of two at or below it; 1 for what is so small, or so large, that its reciprocal is no usual number.
  const u32 exponent = __float_as_uint(most) & 0x7f800000u;
  const float factor = exponent >= 0x01000000u && exponent < 0x7e800000u ? __uint_as_float(exponent) : 1.0f;
  const float less = 1.0f / factor;
  if (threadIdx.x == 0) p.factors[blockIdx.x] = factor;
  const u32* codes = reinterpret_cast<const u32*>(p.codes + start);
  uint2* out = reinterpret_cast<uint2*>(p.out + static_cast<u64>(blockIdx.x) * p.groups * GROUP);
  for (u32 i = threadIdx.x; i < p.groups * (GROUP / 4); i += blockDim.x) {
    const float scale = scales[i / (GROUP / 4)].scale * less;
    const u32 four = codes[i];
    float x[4];
#pragma unroll
    for (u32 k = 0; k < 4; k++) x[k] = scale * static_cast<float>(static_cast<i8>(four >> (8 * k)));
    out[i] = {halves(x[0], x[1]), halves(x[2], x[3])};
  }
}
