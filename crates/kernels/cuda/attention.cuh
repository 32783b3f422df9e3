// What all forms of attention share: sizes and rules, which positions a token sees, and what a split leaves for the merge.
//
// Scores are kept times log2(e), so that powers are powers of two.
#pragma once

#include "kv.cuh"

constexpr float LOG2_E = 1.44269504f;
constexpr float NEGATIVE = -1e30f;  // Below all scores, and no infinity: differences of two such are numbers.

struct Attention {
  // Of each token heads × dim_k, tokens `q_step` apart.
  const float* q;
  KvRows k;
  KvRows v;
  // Of each token heads × dim_v, tokens `out_step` apart.
  float* out;
  // For each token, head and split what `Share` says; null where there is one split.
  float* partial;
  // A score for each head, or null.
  const float* sinks;
  // For each token `words` words with a bit for each position that it may see, or null.
  const u64* selected;
  // Where the first token stands.
  const u32* first_position;
  u32 words;
  u32 tokens;
  u32 heads;
  u32 kv_heads;
  u32 dim_k;
  u32 dim_v;
  u32 q_step;
  u32 out_step;
  u32 splits;
  // Positions that a token sees, itself included; 0: all.
  u32 window;
  // Length of the chunks outside of which a token sees nothing; 0: none.
  u32 chunk;
  float scale;
  // Scores become `softcap · tanh(score / softcap)`; 0: as they are.
  float softcap;
};

// Positions from `start` up to `end`.
struct Range {
  u32 start;
  u32 end;
};

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What a token sees, but for the selection. Never more than there is, whatever the position's word says.
__device__ __forceinline__ Range sees(const Attention& a, u32 token) {
  const u32 capacity = min(a.k.capacity, a.v.capacity), end = min(min(*a.first_position, capacity) + token + 1, capacity);
  u32 start = a.window && end > a.window ? end - a.window : 0;
  if (a.chunk) start = max(start, (end - 1) / a.chunk * a.chunk);
  return {start, end};
}

// The part of what tokens `first` to `last` see that is this split's: runs of whole `step`s, counted from position 0.
__device__ __forceinline__ Range share(const Attention& a, u32 first, u32 last, u32 split, u32 step) {
  const u32 start = sees(a, first).start / step * step, end = sees(a, last).end;
  const u32 each = ((end - start + step - 1) / step + a.splits - 1) / a.splits * step;
  return {min(start + split * each, end), min(start + (split + 1) * each, end)};
}

__device__ __forceinline__ bool is_selected(const Attention& a, u32 token, u32 position) {
  return !a.selected || (a.selected[static_cast<u64>(token) * a.words + position / 64] >> (position % 64) & 1);
}

// A product of query and key as a score.
__device__ __forceinline__ float score_of(const Attention& a, float product) {
  const float x = product * a.scale;
  if (a.softcap == 0.0f) return x * LOG2_E;
  // tanh(y) = 1 − 2 / (e^2y + 1)
  return a.softcap * LOG2_E * (1.0f - __fdividef(2.0f, power_of_two(2.0f * LOG2_E * __fdividef(x, a.softcap)) + 1.0f));
}

// The numbers of a query, and its place in the output.
__device__ __forceinline__ const float* query_of(const Attention& a, u32 token, u32 head, u32 width) {
  return a.q + static_cast<u64>(token) * a.q_step + head * width;
}
__device__ __forceinline__ float* output_of(const Attention& a, u32 token, u32 head, u32 width) {
  return a.out + static_cast<u64>(token) * a.out_step + head * width;
}

// What a query gathered in a split: values that are sums of powers relative to the largest score, that score, and the sum of the powers.
__device__ __forceinline__ float* gathered(const Attention& a, u32 token, u32 head, u32 split) {
  return a.partial + ((static_cast<u64>(token) * a.heads + head) * a.splits + split) * (a.dim_v + 2);
}

// The weight of a query's values, with its head's sink: what they are multiplied by at last.
__device__ __forceinline__ float final_weight(const Attention& a, u32 head, float largest, float sum) {
  float weight = 1.0f;
  if (a.sinks) {
    const float sink = a.sinks[head] * LOG2_E, all = fmaxf(largest, sink);
    weight = power_of_two(largest - all);
    sum = sum * weight + power_of_two(sink - all);
  }
  return sum == 0.0f ? 0.0f : __fdividef(weight, sum);
}
