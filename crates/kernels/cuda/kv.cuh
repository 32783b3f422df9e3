// The rows of keys or values that attention looks back at, as they lie on the device.
//
// For each head `capacity` rows of `dim` numbers, as on the processor. Rows of `q8_0` differ: there the codes of all rows lie first, and the
// scales of all rows behind them, so that codes are read by whole words. The bytes are as many.
#pragma once

#include "common.cuh"

// `plan::KvType` in its order.
enum KvKind : u32 { KV_F32 = 0, KV_F16 = 1, KV_Q8 = 2 };

constexpr u32 KV_GROUP = 32;

// One layer's K or V.
struct KvRows {
  u8* base;
  u32 kind;
  u32 heads;
  u32 dim;
  u32 capacity;
};

__device__ __forceinline__ u32 kv_groups(const KvRows& kv) { return (kv.dim + KV_GROUP - 1) / KV_GROUP; }

__device__ __forceinline__ u64 kv_row(const KvRows& kv, u32 head, u32 position) {
  return static_cast<u64>(head) * kv.capacity + position;
}

// The codes of a row of `q8_0`: whole groups.
__device__ __forceinline__ i8* kv_codes(const KvRows& kv, u32 head, u32 position) {
  return reinterpret_cast<i8*>(kv.base) + kv_row(kv, head, position) * (kv_groups(kv) * KV_GROUP);
}

// The scales of a row of `q8_0`.
__device__ __forceinline__ __half* kv_scales(const KvRows& kv, u32 head, u32 position) {
  const u64 codes = static_cast<u64>(kv.heads) * kv.capacity * (kv_groups(kv) * KV_GROUP);
  return reinterpret_cast<__half*>(kv.base + codes) + kv_row(kv, head, position) * kv_groups(kv);
}

// One number of a row.
template <u32 KIND>
__device__ __forceinline__ float kv_number(const KvRows& kv, u32 head, u32 position, u32 i) {
  if constexpr (KIND == KV_F32) return reinterpret_cast<const float*>(kv.base)[kv_row(kv, head, position) * kv.dim + i];
  if constexpr (KIND == KV_F16) {
    return __half2float(reinterpret_cast<const __half*>(kv.base)[kv_row(kv, head, position) * kv.dim + i]);
  }
  return __half2float(kv_scales(kv, head, position)[i / KV_GROUP]) * static_cast<float>(kv_codes(kv, head, position)[i]);
}

// Keeps number `i` of a row, lane l that of number i ≡ l (mod 32). All lanes of a warp come here together; those beyond the row's end
// with `inside` not set. Rounds as the processor does.
__device__ __forceinline__ void kv_keep(const KvRows& kv, u32 head, u32 position, u32 i, float x, bool inside) {
  if (kv.kind == KV_Q8) {
    const float scale = warp_max(inside ? fabsf(x) : 0.0f) / 127.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    kv_codes(kv, head, position)[i] = static_cast<i8>(inside ? roundf(x * inverse) : 0.0f);
    if (threadIdx.x % WARP == 0) kv_scales(kv, head, position)[i / KV_GROUP] = __float2half_rn(scale);
  } else if (inside) {
    const u64 at = kv_row(kv, head, position) * kv.dim + i;
    if (kv.kind == KV_F16) {
      reinterpret_cast<__half*>(kv.base)[at] = __float2half_rn(x);
    } else {
      reinterpret_cast<float*>(kv.base)[at] = x;
    }
  }
}

// Eight neighbouring numbers of a row as halves.
template <u32 KIND>
__device__ __forceinline__ uint4 eight(const KvRows& kv, u32 dim, u32 head, u32 position, u32 from) {
  if constexpr (KIND == KV_F16) {
    return *reinterpret_cast<const uint4*>(reinterpret_cast<const __half*>(kv.base) + kv_row(kv, head, position) * dim + from);
  }
  const uint2 codes = *reinterpret_cast<const uint2*>(kv_codes(kv, head, position) + from);
  const __half2 scale = __half2half2(kv_scales(kv, head, position)[from / KV_GROUP]);
  u32 out[4];
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    // 0x6400 + n are the bits of 1024 + n, and a code's upper bit turned over adds 128.
    const u32 pair = __byte_perm((i < 2 ? codes.x : codes.y) ^ 0x80808080u, 0x64646464u, i % 2 ? 0x4342 : 0x4140);
    const __half2 number = __hmul2(__hsub2(*reinterpret_cast<const __half2*>(&pair), __half2half2(__ushort_as_half(0x6480))), scale);
    out[i] = *reinterpret_cast<const u32*>(&number);
  }
  return {out[0], out[1], out[2], out[3]};
}

// The same for four.
template <u32 KIND>
__device__ __forceinline__ uint2 four(const KvRows& kv, u32 dim, u32 head, u32 position, u32 from) {
  const uint4 all = eight<KIND>(kv, dim, head, position, from & ~7u);
  return from & 4 ? uint2{all.z, all.w} : uint2{all.x, all.y};
}
