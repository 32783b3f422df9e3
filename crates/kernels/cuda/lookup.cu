// The vectors of tokens, out of matrices of every type.

#include "lookup.cuh"

#define LOOKUP(T) \
  extern "C" __global__ void __launch_bounds__(128) lookup_##T(Lookup p) { look_up_blocks<T>(p); }

LOOKUP(Q4_0) LOOKUP(Q4_1) LOOKUP(Q5_0) LOOKUP(Q5_1) LOOKUP(Q8_0) LOOKUP(IQ4_NL) LOOKUP(MXFP4)
LOOKUP(Q2_K) LOOKUP(Q3_K) LOOKUP(Q4_K) LOOKUP(Q5_K) LOOKUP(Q6_K) LOOKUP(IQ4_XS)
LOOKUP(IQ1_S) LOOKUP(IQ1_M) LOOKUP(IQ2_XXS) LOOKUP(IQ2_XS) LOOKUP(IQ2_S) LOOKUP(IQ3_XXS) LOOKUP(IQ3_S)

extern "C" __global__ void __launch_bounds__(128) lookup_F32(Lookup p) {
  look_up_numbers(p, [&](u64 i) { return reinterpret_cast<const float*>(p.weights)[i]; });
}

extern "C" __global__ void __launch_bounds__(128) lookup_F16(Lookup p) {
  look_up_numbers(p, [&](u64 i) { return __half2float(reinterpret_cast<const __half*>(p.weights)[i]); });
}

extern "C" __global__ void __launch_bounds__(128) lookup_BF16(Lookup p) {
  look_up_numbers(p, [&](u64 i) { return __uint_as_float(static_cast<u32>(reinterpret_cast<const u16*>(p.weights)[i]) << 16); });
}
