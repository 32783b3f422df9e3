// What happens to heads of queries, keys and values between the matrices that make them and attention: norm, rotation, growth with the
// position, and the way into the cache. One warp for each head of each token, one launch for all heads of a layer.

#include "kv.cuh"

enum NormWhen : u32 { NORM_NEVER = 0, NORM_FIRST = 1, NORM_LAST = 2 };

// Some heads of each token that are treated alike: the queries, the keys, or the values.
struct HeadPart {
  // Head h of token t: `x + t · token_step + h · head_step`, `dim` numbers.
  const float* x;
  // Where the result goes, heads `out_step` apart, token after token; may be `x`. Nowhere where it goes into the cache.
  float* out;
  // Where it goes in the cache, from number `kept_from` of each row on; `base` is null where it goes to `out`.
  KvRows kept;
  u32 kept_from;
  u32 out_step;
  u32 token_step;
  u32 head_step;
  u32 heads;
  u32 dim;
  // The weights of the norm, which is over the first `normed` numbers; null: all 1.
  const float* weight;
  u32 normed;
  u32 norm;
  float eps;
  // From number `turned_from` on `2 · pairs` numbers are rotated; no pairs: none.
  u32 turned_from;
  u32 pairs;
  // Neighbours are a pair, not numbers half the rotated width apart.
  u32 interleaved;
  // With a floor, numbers grow by `1 + growth · ln(1 + ⌊(position + 1) / floor⌋)`.
  float floor;
  float growth;
};

struct HeadParts {
  HeadPart part[3];
};

// All lanes have their numbers of the row `x` in the block's memory, number i in lane i % 32.
__device__ __forceinline__ void norm_row(float* x, const HeadPart& p, u32 lane) {
  float squares = 0.0f;
  for (u32 i = lane; i < p.normed; i += WARP) squares += x[i] * x[i];
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(p.normed) + p.eps);
  for (u32 i = lane; i < p.normed; i += WARP) x[i] = x[i] * scale * (p.weight ? p.weight[i] : 1.0f);
}

// `turns`: the cosines of all pairs, and then the sines.
__device__ __forceinline__ void turn_row(float* x, const HeadPart& p, const float* turns, u32 lane) {
  __syncwarp();
  for (u32 i = lane; i < p.pairs; i += WARP) {
    const u32 a = p.turned_from + (p.interleaved ? 2 * i : i), b = a + (p.interleaved ? 1 : p.pairs);
    const float c = turns[i], s = turns[p.pairs + i], u = x[a], v = x[b];
    x[a] = u * c - v * s;
    x[b] = u * s + v * c;
  }
  __syncwarp();
}

// Grid: tokens × (all parts' heads over the warps of a block). The block's memory: `room` numbers for each warp, the widest head.
extern "C" __global__ void __launch_bounds__(128) heads(
    HeadParts parts, u32 count, u32 room, const float* __restrict__ turns, const u32* __restrict__ first_position) {
  extern __shared__ float rows[];
  const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, token = blockIdx.x;
  u32 head = blockIdx.y * (blockDim.x / WARP) + warp, which = 0;
  while (which < count && head >= parts.part[which].heads) head -= parts.part[which++].heads;
  if (which == count) return;
  const HeadPart& p = parts.part[which];
  const u32 position = *first_position + token;
  float* x = rows + warp * room;
  const float* from = p.x + static_cast<u64>(token) * p.token_step + head * p.head_step;
  for (u32 i = lane; i < p.dim; i += WARP) x[i] = from[i];
  if (p.norm == NORM_FIRST) norm_row(x, p, lane);
  if (p.pairs > 0) turn_row(x, p, turns + static_cast<u64>(token) * 2 * p.pairs, lane);
  if (p.norm == NORM_LAST) norm_row(x, p, lane);
  float factor = 1.0f;
  if (p.floor > 0.0f) factor += p.growth * log1pf(floorf(static_cast<float>(position + 1) / p.floor));
  float* out = p.out + (static_cast<u64>(token) * p.heads + head) * p.out_step;
  for (u32 start = 0; start < p.dim; start += WARP) {
    const u32 i = start + lane;
    const bool inside = i < p.dim;
    const float number = inside ? x[i] * factor : 0.0f;
    if (p.kept.base) {
      if (position < p.kept.capacity) kv_keep(p.kept, head, position, p.kept_from + i, number, inside);
    } else if (inside) {
      out[i] = number;
    }
  }
}

// For each token all cosines and then all sines of `position · frequency`, times `factor`. A block for each token.
extern "C" __global__ void __launch_bounds__(128) turns(
    const u32* __restrict__ first_position, const float* __restrict__ frequencies, float factor, u32 pairs, float* __restrict__ out) {
  const double position = *first_position + blockIdx.x;
  out += static_cast<u64>(blockIdx.x) * 2 * pairs;
  for (u32 i = threadIdx.x; i < pairs; i += blockDim.x) {
    double sine, cosine;
    sincos(position * static_cast<double>(frequencies[i]), &sine, &cosine);
    out[i] = static_cast<float>(cosine * factor);
    out[pairs + i] = static_cast<float>(sine * factor);
  }
}

// Adds `count` to the position: the last step of a pass that is replayed.
extern "C" __global__ void __launch_bounds__(32) advance(u32* position, u32 count) {
  if (threadIdx.x == 0) *position += count;
}
