// Columns of activations in 8 bits, as products with quantized weights take them.
#pragma once

#include "common.cuh"

// Numbers that share a scale.
constexpr int GROUP = 32;

// Of 32 numbers `scale * code`: the scale, and the sums of the first and the last 16 codes, for types with minima.
struct alignas(8) GroupScale {
  float scale;
  i16 low, high;
};
