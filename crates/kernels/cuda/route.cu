// The router of a mixture: which experts a token goes to, and how much each counts.

#include "common.cuh"

enum RouteGate : u32 { ROUTE_SOFTMAX = 0, ROUTE_SIGMOID = 1, ROUTE_SOFTMAX_OF_CHOSEN = 2 };

constexpr float LOWEST = -__builtin_huge_valf();
// Keeps a sum of weights that all vanished from dividing by zero.
constexpr float LEAST_SUM = 1e-20f;

struct Route {
  // tokens × experts
  const float* logits;
  // One for each expert, or null.
  const float* bias;
  // tokens × used each, on the device, and in the host's memory as well where that is not null.
  u32* chosen;
  float* weights;
  u32* host_chosen;
  float* host_weights;
  // With results in the host's memory: a word there that follows `turn`, which goes up by one for each pass, so that a pass can be replayed.
  // Null: nobody waits. One block then.
  volatile u32* signal;
  u32* turn;
  u32 tokens;
  u32 experts;
  u32 used;
  u32 gate;
  u32 groups;
  u32 groups_used;
  u32 group_best;
  u32 normalize;
  float scale;
};

// A place and what it is ranked by.
struct Best {
  float rank;
  u32 place;
};

// The best of what the lanes have: of equals the lower place.
__device__ __forceinline__ Best warp_best(Best mine) {
#pragma unroll
  for (u32 offset = WARP / 2; offset > 0; offset /= 2) {
    const Best other = {__shfl_xor_sync(EVERY_LANE, mine.rank, offset), __shfl_xor_sync(EVERY_LANE, mine.place, offset)};
    if (other.rank > mine.rank || (other.rank == mine.rank && other.place < mine.place)) mine = other;
  }
  return mine;
}

// The best of `count` ranks whose bit in `taken` is not set; marks it. Ranks lie in the block's memory, as do the bits.
__device__ __forceinline__ u32 take_best(const float* ranks, u32* taken, u32 first, u32 count, u32 lane) {
  Best best = {LOWEST, 0xffffffffu};
  for (u32 i = first + lane; i < first + count; i += WARP) {
    const bool open = !(taken[i / 32] >> (i % 32) & 1);
    if (open && (ranks[i] > best.rank || best.place == 0xffffffffu)) best = {ranks[i], i};
  }
  best = warp_best(best);
  __syncwarp();
  if (lane == 0 && best.place != 0xffffffffu) taken[best.place / 32] |= 1u << (best.place % 32);
  __syncwarp();
  return best.place;
}

// Marks all experts of the groups that are not among the best.
__device__ __forceinline__ void leave_groups(const Route& p, const float* ranks, float* group_ranks, u32* taken, u32 lane) {
  const u32 size = p.experts / p.groups, words = (p.experts + 31) / 32;
  for (u32 group = 0; group < p.groups; group++) {
    float sum = 0.0f;
    for (u32 n = 0; n < min(p.group_best, size); n++) sum += ranks[take_best(ranks, taken, group * size, size, lane)];
    if (lane == 0) group_ranks[group] = sum;
  }
  // All lanes read what the first wrote.
  __syncwarp();
  // Groups that are chosen are marked in two words behind those of the experts.
  u32* groups_taken = taken + words;
  for (u32 n = 0; n < p.groups_used; n++) take_best(group_ranks, groups_taken, 0, p.groups, lane);
  __syncwarp();
  for (u32 word = lane; word < words; word += WARP) {
    u32 out = 0;
    for (u32 bit = 0; bit < 32 && word * 32 + bit < p.experts; bit++) {
      const u32 group = (word * 32 + bit) / size;
      if (!(groups_taken[group / 32] >> (group % 32) & 1)) out |= 1u << bit;
    }
    taken[word] = out;
  }
  __syncwarp();
}

// What the chosen experts' scores become; lane n has that of the n-th.
__device__ __forceinline__ float weigh(const Route& p, float score, bool inside) {
  float weight = score;
  if (p.gate == ROUTE_SOFTMAX_OF_CHOSEN) {
    const float largest = warp_max(inside ? score : LOWEST);
    weight = inside ? expf(score - largest) : 0.0f;
    weight = weight / warp_sum(weight);
  }
  if (p.normalize) weight = weight / (warp_sum(inside ? weight : 0.0f) + LEAST_SUM);
  return weight * p.scale;
}

// A warp for each token. The block's memory, for each warp: the experts' scores and ranks, 64 groups' ranks, and bits of both.
extern "C" __global__ void __launch_bounds__(256) route(Route p) {
  extern __shared__ float memory[];
  const u32 lane = threadIdx.x % WARP, warps = blockDim.x / WARP, token = blockIdx.x * warps + threadIdx.x / WARP;
  const u32 words = (p.experts + 31) / 32;
  float* scores = memory + threadIdx.x / WARP * (2 * p.experts + 64 + words + 2);
  float* ranks = scores + p.experts;
  float* group_ranks = ranks + p.experts;
  u32* taken = reinterpret_cast<u32*>(group_ranks + 64);
  if (token < p.tokens) {
    const float* logits = p.logits + static_cast<u64>(token) * p.experts;
    float largest = LOWEST, sum = 0.0f;
    for (u32 e = lane; e < p.experts; e += WARP) largest = fmaxf(largest, logits[e]);
    largest = warp_max(largest);
    if (p.gate == ROUTE_SOFTMAX) {
      for (u32 e = lane; e < p.experts; e += WARP) sum += expf(logits[e] - largest);
      sum = warp_sum(sum);
    }
    for (u32 e = lane; e < p.experts; e += WARP) {
      float score = logits[e];
      if (p.gate == ROUTE_SOFTMAX) score = expf(score - largest) / sum;
      if (p.gate == ROUTE_SIGMOID) score = 1.0f / (1.0f + expf(-score));
      const float rank = score + (p.bias ? p.bias[e] : 0.0f);
      scores[e] = score;
      ranks[e] = rank == rank ? rank : LOWEST;
    }
    for (u32 w = lane; w < words + 2; w += WARP) taken[w] = 0;
    __syncwarp();
    if (p.groups > 1) leave_groups(p, ranks, group_ranks, taken, lane);
    // Lane n keeps the n-th.
    u32 mine = 0;
    for (u32 n = 0; n < p.used; n++) {
      const u32 best = take_best(ranks, taken, 0, p.experts, lane);
      if (lane == n) mine = best;
    }
    const bool inside = lane < p.used;
    const float weight = weigh(p, inside ? scores[mine] : 0.0f, inside);
    if (inside) {
      const u64 at = static_cast<u64>(token) * p.used + lane;
      p.chosen[at] = mine;
      p.weights[at] = weight;
      if (p.host_chosen) p.host_chosen[at] = mine;
      if (p.host_weights) p.host_weights[at] = weight;
    }
  }
  if (p.signal) {
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x == 0) *p.signal = ++*p.turn;
  }
}
