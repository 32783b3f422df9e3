// Functions of single numbers and sums of rows.

#include "round.cuh"

enum GateKind : u32 { GATE_SILU = 0, GATE_GELU_TANH = 1, GATE_CLAMPED = 2, GATE_SIGMOID = 3 };

struct Gated {
  // Row t: from t · step on, `width` numbers.
  const float* gate;
  const float* up;
  u32 gate_step;
  u32 up_step;
  // rows × width; null: only rounded.
  float* out;
  ColumnsOut rounded;
  u32 width;
  u32 kind;
  float limit;
  float alpha;
};

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float open_gate(const Gated& p, float gate, float up) {
  if (p.kind == GATE_CLAMPED) {
    // What is no number stays none.
    gate = gate > p.limit ? p.limit : gate;
    up = (up > p.limit ? p.limit : up < -p.limit ? -p.limit : up) + 1.0f;
    return gate * sigmoid_of(p.alpha * gate) * up;
  }
  // ½·x·(1 + tanh(y)) is x·sigmoid(2y), with y = √(2/π)·(x + 0.044715·x³).
  const float x = p.kind == GATE_GELU_TANH ? 1.595769f * (gate + 0.044715f * gate * gate * gate) : gate;
  const float opened = sigmoid_of(x);
  return (p.kind == GATE_SIGMOID ? opened : gate * opened) * up;
}

// out = activation(gate) · up. Grid: runs of 1024 numbers × rows.
extern "C" __global__ void __launch_bounds__(256) gated(Gated p) {
  const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  const u64 row = blockIdx.y;
  float x[4] = {};
#pragma unroll
  for (u32 j = 0; j < 4; j++) {
    if (i + j < p.width) {
      x[j] = open_gate(p, p.gate[row * p.gate_step + i + j], p.up[row * p.up_step + i + j]);
      if (p.out) p.out[row * p.width + i + j] = x[j];
    }
  }
  if (p.rounded.codes) keep_rounded(p.rounded, row * p.width + i, x, i < p.width);
}

enum Unary : u32 { UNARY_SCALE = 0, UNARY_SIGMOID = 1, UNARY_SOFTCAP = 2 };

// x = x · by; 1 / (1 + e^−x); by · tanh(x / by).
extern "C" __global__ void __launch_bounds__(256) change(float* x, u64 count, u32 kind, float by) {
  const u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float number = x[i];
  if (kind == UNARY_SCALE) x[i] = number * by;
  if (kind == UNARY_SIGMOID) x[i] = sigmoid_of(number);
  if (kind == UNARY_SOFTCAP) x[i] = by * tanhf(number / by);
}

// x += y, which is read anew after each `period` numbers: as long as x, or one row for all of its rows.
extern "C" __global__ void __launch_bounds__(256) add_rows(float* x, const float* __restrict__ y, u64 count, u64 period) {
  const u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) x[i] += y[i % period];
}

// x[t] = x[t] · factor[t]. Grid: runs of numbers × rows.
extern "C" __global__ void __launch_bounds__(256) scale_rows(float* x, const float* __restrict__ factors, u32 width) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < width) x[static_cast<u64>(blockIdx.y) * width + i] *= factors[blockIdx.y];
}

// out[t] += Σ_j weight[t][j] · y[place[t][j] − first], j in order; places that `y`, of `available` rows, has not are left out. Grid: runs of
// numbers × rows.
extern "C" __global__ void __launch_bounds__(256) add_weighted(
    float* out, const float* __restrict__ y, const u32* __restrict__ places, const float* __restrict__ weights, u32 used, u32 width,
    u32 first, u32 available) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width) return;
  const u64 row = blockIdx.y;
  // Of many tokens a few experts' rows are some's alone: the others' sums are not touched.
  bool any = false;
  for (u32 j = 0; j < used; j++) any |= places[row * used + j] - first < available;  // Below the first, it is far beyond the last.
  if (!any) return;
  float sum = out[row * width + i];
  for (u32 j = 0; j < used; j++) {
    const u32 place = places[row * used + j] - first;
    if (place < available) sum += weights[row * used + j] * y[static_cast<u64>(place) * width + i];
  }
  out[row * width + i] = sum;
}
