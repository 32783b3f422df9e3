// Rows of quantized blocks times quantized columns: how a warp reads, unpacks and multiplies. What is multiplied with what is the caller's.
//
// A warp copies runs of R rows to shared memory by 16 bytes (cp.async), some runs ahead of its arithmetic, and unpacks them from there: rows
// begin at any even address, and blocks have lengths such as 18, 66 or 210 bytes, of which no wide load from global memory could be
// made. Each lane takes one group of 32 numbers of each row, so that columns are loaded once for R rows.
#pragma once

#include "blocks/group.cuh"
#include "columns.cuh"

__device__ __forceinline__ void copy_16_bytes(u32 shared, const u8* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

__device__ __forceinline__ void end_of_run() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until no more than AHEAD of this thread's runs are on their way.
template <int AHEAD>
__device__ __forceinline__ void wait_for_run() {
  asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD) : "memory");
}

// The columns that a strip of rows meets.
struct Inputs {
  const i8* codes;
  const GroupScale* scales;
  u32 stride;
};

// R rows of one matrix or several, by their first bytes, and their columns.
template <int R>
struct Strip {
  const u8* rows[R];
  Inputs inputs;
};

// How type T is read: numbers and bytes of a run, its room in shared memory, and how many are on their way or in use.
template <class T, int R>
struct Runs {
  static constexpr int LANE_GROUPS = T::BYTES * (1024 / T::NUMBERS) <= 400 ? 2 : 1;
  static constexpr int GROUPS = WARP * LANE_GROUPS;
  static constexpr int NUMBERS = GROUPS * GROUP;
  static constexpr int BYTES = NUMBERS / T::NUMBERS * T::BYTES;
  // Up to 15 bytes before the first, the rest of the last 16, and what reading words touches behind.
  static constexpr int ROOM = (BYTES + 15 + 15) / 16 * 16 + 16;
  static constexpr int STAGES = 3 * R * ROOM <= 4608 ? (4 * R * ROOM <= 3072 ? 4 : 3) : 2;
  static constexpr int WARP_BYTES = STAGES * R * ROOM;
};

// Adds what R groups (one of each row) give with group `group` of M columns to `sums`.
template <class T, int M, int R>
__device__ __forceinline__ void multiply(const Group<T::SCALES> (&rows)[R], const Inputs& inputs, u32 group, u32 columns, float (&sums)[R][M]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    if (m > 0 && m >= columns) break;
    const int4* codes = reinterpret_cast<const int4*>(inputs.codes + m * inputs.stride + group * GROUP);
    const int4 first = __ldg(codes), last = __ldg(codes + 1);
    const i32 x[8] = {first.x, first.y, first.z, first.w, last.x, last.y, last.z, last.w};
    const int2 packed = __ldg(reinterpret_cast<const int2*>(inputs.scales + m * (inputs.stride / GROUP) + group));
    const float scale = __int_as_float(packed.x);
    const i32 sum[2] = {static_cast<i16>(packed.y), packed.y >> 16};
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Group<T::SCALES>& row = rows[r];
      float total = 0.0f;
#pragma unroll
      for (int h = 0; h < T::SCALES; ++h) {
        constexpr int WORDS = 8 / T::SCALES;
        const i32 codes_sum = T::SCALES == 1 ? sum[0] + sum[1] : sum[h];
        i32 dot = -T::OFFSET * codes_sum;
#pragma unroll
        for (int i = 0; i < WORDS; ++i) dot = __dp4a(static_cast<i32>(row.codes[h * WORDS + i]), x[h * WORDS + i], dot);
        total = fmaf(row.scale[h], static_cast<float>(dot), total);
        if (T::MINIMUM) total = fmaf(-row.minimum[h], static_cast<float>(codes_sum), total);
      }
      sums[r][m] = fmaf(scale, total, sums[r][m]);
    }
  }
}

// Multiplies `count` strips in turn: `strip(s)` names one, `finish(s, sums)` takes the products of its rows with M columns, the same in all
// lanes. `shared` is this warp's own Runs<T, R>::WARP_BYTES bytes; `table` the type's table in shared memory.
template <class T, int M, int R, class StripOf, class Finish>
__device__ __forceinline__ void multiply_strips(
    u8* shared, const u32* table, u32 count, u32 groups, u32 columns, StripOf strip, Finish finish) {
  using Run = Runs<T, R>;
  constexpr u32 BLOCK_GROUPS = T::NUMBERS / GROUP;
  const u32 lane = threadIdx.x % WARP;
  const u32 runs = (groups + Run::GROUPS - 1) / Run::GROUPS, row_bytes = groups / BLOCK_GROUPS * T::BYTES;
  const u32 total = count * runs;
  const u32 target = static_cast<u32>(__cvta_generic_to_shared(shared));

  // What is copied next.
  u32 next = 0, next_strip = 0, next_run = 0;
  Strip<R> source;
  if (count > 0) source = strip(0);
  const auto copy_next = [&] {
    if (next < total) {
      const u32 from = next_run * Run::BYTES, bytes = min(row_bytes - from, static_cast<u32>(Run::BYTES));
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const u8* first = source.rows[r] + from;
        const u32 before = static_cast<u32>(reinterpret_cast<u64>(first)) & 15;
        const u32 room = target + (next % Run::STAGES * R + r) * Run::ROOM;
        for (u32 at = lane * 16; at < before + bytes; at += WARP * 16) copy_16_bytes(room + at, first - before + at);
      }
      ++next;
      if (++next_run == runs) {
        next_run = 0;
        if (++next_strip < count) source = strip(next_strip);
      }
    }
    end_of_run();
  };
  for (int ahead = 0; ahead < Run::STAGES - 1; ++ahead) copy_next();

  float sums[R][M] = {};
  u32 s = 0, run = 0;
  Strip<R> current;
  if (count > 0) current = strip(0);
  for (u32 item = 0; item < total; ++item) {
    wait_for_run<Run::STAGES - 2>();
    __syncwarp();  // All lanes' copies are there, and all have read what is overwritten now.
    copy_next();
#pragma unroll
    for (int part = 0; part < Run::LANE_GROUPS; ++part) {
      const u32 in_run = part * WARP + lane, group = run * Run::GROUPS + in_run;
      if (group < groups) {
        Group<T::SCALES> unpacked[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const u32 before = static_cast<u32>(reinterpret_cast<u64>(current.rows[r]) + run * Run::BYTES) & 15;
          const u8* room = shared + (item % Run::STAGES * R + r) * Run::ROOM;
          const Bytes block = {reinterpret_cast<const u32*>(room), before + in_run / BLOCK_GROUPS * T::BYTES};
          T::read(block, in_run % BLOCK_GROUPS, table, unpacked[r]);
        }
        multiply<T, M, R>(unpacked, current.inputs, group, columns, sums);
      }
    }
    if (++run == runs) {
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int m = 0; m < M; ++m) sums[r][m] = warp_sum(sums[r][m]);
      finish(s, sums);
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int m = 0; m < M; ++m) sums[r][m] = 0.0f;
      run = 0;
      if (++s < count) current = strip(s);
    }
  }
}

// Shared memory of a block of WARPS warps: the type's table, then each warp's runs.
template <class T, int R, int WARPS>
struct Workspace {
  alignas(16) u8 runs[WARPS][Runs<T, R>::WARP_BYTES];
  alignas(16) u32 table[T::TABLE > 0 ? T::TABLE : 4];

  // All threads of the block together.
  __device__ __forceinline__ void fill_table() {
    if (T::TABLE > 0) {
      for (int i = threadIdx.x; i < T::TABLE; i += WARPS * WARP) table[i] = T::table(i);
      __syncthreads();
    }
  }
};
