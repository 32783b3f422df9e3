// Matrix products of a warp, and the ways into their operands. All of it is in sm_80.
//
// A lane is (g, t) = (lane / 4, lane % 4). The result of 16 × 8 numbers: d[0], d[1] are row g, columns 2t and 2t + 1; d[2], d[3] the same
// columns of row g + 8. Source: PTX ISA, "Matrix fragments for mma.m16n8k16" and "mma.m16n8k32".
#pragma once

#include "common.cuh"

// d += a · b: halves, 16 × 16 times 16 × 8. a: (row g, columns 2t, 2t + 1), (row g + 8), then both with columns + 8. b: rows 2t, 2t + 1 and
// those + 8 of column g.
__device__ __forceinline__ void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a · b: the same with bfloat16s.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d = c + a · b: signed bytes, 16 × 32 times 32 × 8. a: (row g, columns 4t to 4t + 3), (row g + 8), then both with columns + 16.
__device__ __forceinline__ void mma_s8(i32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, i32 c) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c));
}

// d = c + a · b: signed bytes, 16 × 16 times 16 × 8. a: (row g, columns 4t to 4t + 3), (row g + 8).
__device__ __forceinline__ void mma_s8_short(i32 (&d)[4], u32 a0, u32 a1, u32 b, i32 c) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(c));
}

// Four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of matrix l / 8, r[i] is word t of row g of matrix i.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], const void* row) {
  const u32 at = static_cast<u32>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// The same, transposed: r[i] holds the halves g of rows 2t and 2t + 1 of matrix i.
__device__ __forceinline__ void load_transposed(u32 (&r)[4], const void* row) {
  const u32 at = static_cast<u32>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// 16 bytes from the device's memory to the block's, in the background; zeros where `real` is not set.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool real = true) {
  const u32 at = static_cast<u32>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(real ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the latest `N` groups of this thread's copies are under way.
template <int N>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Two numbers as halves, the first in the lower bits.
__device__ __forceinline__ u32 halves(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const u32*>(&both);
}

// The same as bfloat16s.
__device__ __forceinline__ u32 bfloats(float low, float high) {
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
