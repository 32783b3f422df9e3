// Rows of quantized blocks times quantized columns: how a block of threads shares, reads, unpacks and multiplies a tile of rows.
//
// A segment is 1024 numbers of every row of the tile; a warp takes one segment at a time, a lane 32 numbers of it, whose columns stay in registers
// while the rows go by. Rows are copied to shared memory by 16 bytes (cp.async), some steps ahead of the arithmetic, and unpacked from
// there: they begin at any even address, and blocks have lengths such as 18, 66 or 210 bytes, of which no wide load from global memory could
// be made. Sums over lanes are taken for several rows at once, and those over segments at the end, in one order whatever the tile.
#pragma once

#include "blocks/group.cuh"
#include "columns.cuh"

constexpr u32 SEGMENT_GROUPS = WARP;
constexpr u32 SEGMENTS_AT_ONCE = 8;  // Sums of a row that are kept apart until the end.
constexpr int ROW_WARPS = 8;         // Of a block, at most.

__device__ __forceinline__ void copy_16_bytes(u32 shared, u64 global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

__device__ __forceinline__ void end_of_step() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until no more than AHEAD of this thread's steps are on their way.
template <int AHEAD>
__device__ __forceinline__ void wait_for_step() {
  asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD) : "memory");
}

// Up to 1024 numbers of the rows of a tile, and what they are multiplied with.
struct Segment {
  u64 even, odd;  // Addresses of its bytes in the first two rows; other rows lie `step` bytes for every two behind them.
  u64 step;
  u32 bytes, groups;  // Of a row.
  const i8* codes;
  const GroupScale* scales;
  u32 stride;  // From one column's codes to the next one's.
  float weight;
};

// How M columns meet type T: rows of a step, their room in shared memory, and how many steps are on their way or in use.
template <class T, int M>
struct Steps {
  static constexpr int BYTES = static_cast<int>(SEGMENT_GROUPS) * GROUP / T::NUMBERS * T::BYTES;
  // With up to 15 bytes before the first, in whole 16 bytes.
  static constexpr int PIECES = (BYTES + (T::ALIGN % 16 == 0 ? 0 : 15) + 15) / 16;
  // What reading words touches behind.
  static constexpr int ROOM = PIECES * 16 + 16;
  static constexpr int ROWS = M == 1 && ROOM <= 480 ? 4 : 2;
  static constexpr int COPIES = (ROWS * PIECES + WARP - 1) / WARP;
  static constexpr int STEP_BYTES = ROWS * ROOM;
  static constexpr int AT_ONCE = 4 * STEP_BYTES <= 3072 ? 4 : 3 * STEP_BYTES <= 4800 ? 3 : 2;
  static constexpr int WARP_BYTES = AT_ONCE * STEP_BYTES;
  static constexpr int TILE = M > 2 ? 32 : 64;  // Rows at most.
};

// A block's shared memory.
template <class T, int M>
struct Workspace {
  alignas(16) u8 steps[ROW_WARPS][Steps<T, M>::WARP_BYTES];
  alignas(16) u32 table[T::TABLE > 0 ? T::TABLE : 4];
  // By task (rows of a tile that meet every eighth segment or so), row of the task, column.
  float sums[SEGMENTS_AT_ONCE][Steps<T, M>::TILE * M];
};

// Who takes what of a tile of `rows` rows and `segments` segments. Which sums are kept apart follows from the number of segments alone.
struct Shares {
  u32 segments, apart, parts, rows;

  __device__ __forceinline__ Shares(u32 tile_rows, u32 segments, u32 warps) : segments(segments) {
    const u32 each = (segments + SEGMENTS_AT_ONCE - 1) / SEGMENTS_AT_ONCE;
    apart = segments == 0 ? 1 : (segments + each - 1) / each;
    parts = max(warps / apart, 1u);
    rows = ((tile_rows + parts - 1) / parts + 1) & ~1u;  // Even, as pairs of rows share an address.
  }

  __device__ __forceinline__ u32 tasks() const { return segments == 0 ? 0 : apart * parts; }
};

// A warp's way through its tasks and their segments.
struct Cursor {
  u32 task, segment;

  __device__ __forceinline__ explicit Cursor(const Shares& shares) : task(threadIdx.x / WARP), segment(task % shares.apart) {}

  __device__ __forceinline__ void advance(const Shares& shares) {
    segment += shares.apart;
    if (segment >= shares.segments) {
      task += blockDim.x / WARP;
      segment = task % shares.apart;
    }
  }
};

// 32 numbers of a column.
struct ColumnGroup {
  i32 codes[8];
  float scale;
  i32 sums[2];

  __device__ __forceinline__ void load(const Segment& segment, u32 m) {
    const u32 lane = threadIdx.x % WARP;
    const int4* from = reinterpret_cast<const int4*>(segment.codes + m * segment.stride + lane * GROUP);
    const int4 first = __ldg(from), last = __ldg(from + 1);
    codes[0] = first.x, codes[1] = first.y, codes[2] = first.z, codes[3] = first.w;
    codes[4] = last.x, codes[5] = last.y, codes[6] = last.z, codes[7] = last.w;
    const int2 packed = __ldg(reinterpret_cast<const int2*>(segment.scales + m * (segment.stride / GROUP) + lane));
    scale = __int_as_float(packed.x);
    sums[0] = static_cast<i16>(packed.y), sums[1] = packed.y >> 16;
  }
};

template <class T>
__device__ __forceinline__ float multiply(const Group<T::SCALES>& row, const ColumnGroup& column) {
  float total = 0.0f;
#pragma unroll
  for (int h = 0; h < T::SCALES; ++h) {
    constexpr int WORDS = 8 / T::SCALES;
    const i32 sum = T::SCALES == 1 ? column.sums[0] + column.sums[1] : column.sums[h];
    i32 dot = -T::OFFSET * sum;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) dot = __dp4a(static_cast<i32>(row.codes[h * WORDS + i]), column.codes[h * WORDS + i], dot);
    total = fmaf(row.scale[h], static_cast<float>(dot), total);
    if (T::MINIMUM) total = fmaf(-row.minimum[h], static_cast<float>(sum), total);
  }
  return column.scale * total;
}

// Sums of COUNT numbers (a power of two up to 32) over the lanes: that of number i for all lanes l with l * COUNT / 32 = i. Each number's tree
// of sums is the same, whatever COUNT is.
template <int COUNT>
__device__ __forceinline__ float sums_of(float (&numbers)[COUNT]) {
  const u32 lane = threadIdx.x % WARP;
  int offset = WARP / 2;
#pragma unroll
  for (int left = COUNT; left > 1; left /= 2, offset /= 2) {
    const bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < left / 2; ++i) {
      const float given = upper ? numbers[i] : numbers[i + left / 2];
      const float kept = upper ? numbers[i + left / 2] : numbers[i];
      numbers[i] = kept + __shfl_xor_sync(EVERY_LANE, given, offset);
    }
  }
#pragma unroll
  for (; offset > 0; offset /= 2) numbers[0] += __shfl_xor_sync(EVERY_LANE, numbers[0], offset);
  return numbers[0];
}

// A lane's part of copying steps of rows to shared memory, some ahead of their use.
template <class T, int M>
struct Copier {
  using S = Steps<T, M>;
  u64 from[S::COPIES];
  u64 advance;
  u32 target, slot = 0, row = 0, bytes = 0;

  __device__ __forceinline__ explicit Copier(u8* shared) : target(static_cast<u32>(__cvta_generic_to_shared(shared))) {}

  static __device__ __forceinline__ u32 piece(int i) { return threadIdx.x % WARP + i * WARP; }

  __device__ __forceinline__ void start(const Segment& segment) {
#pragma unroll
    for (int i = 0; i < S::COPIES; ++i) {
      const u32 row = piece(i) / S::PIECES;
      from[i] = (row % 2 == 0 ? segment.even : segment.odd) + row / 2 * segment.step;
    }
    advance = S::ROWS / 2 * segment.step;
    bytes = segment.bytes;
    row = 0;
  }

  // Copies the next step of `rows` rows in all.
  __device__ __forceinline__ void step(u32 rows) {
#pragma unroll
    for (int i = 0; i < S::COPIES; ++i) {
      const u32 here = piece(i) / S::PIECES, at = piece(i) % S::PIECES * 16;
      const u32 before = T::ALIGN % 16 == 0 ? 0 : static_cast<u32>(from[i]) & 15;
      if (here < S::ROWS && row + here < rows && at < before + bytes) {
        copy_16_bytes(target + slot + here * S::ROOM + at, from[i] - before + at);
      }
      from[i] += advance;
    }
    row += S::ROWS;
    slot = slot + S::STEP_BYTES == S::WARP_BYTES ? 0 : slot + S::STEP_BYTES;
  }
};

// Sums of a tile's rows with M columns, by task, into the workspace. All warps of the block call it; `segment_of(s, first)` is segment s of the
// rows from `first` on. `rows` of the tile.
template <class T, int M, class SegmentOf>
__device__ __forceinline__ void multiply_tile(
    Workspace<T, M>& workspace, const Shares& shares, u32 rows, u32 columns, SegmentOf segment_of) {
  using S = Steps<T, M>;
  constexpr u32 BLOCK_GROUPS = T::NUMBERS / GROUP;
  constexpr int SUMS = S::ROWS * M;
  const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const auto rows_of = [&](u32 task) {
    const u32 first = task / shares.apart * shares.rows;
    return first < rows ? min(shares.rows, rows - first) : 0;
  };

  Cursor next(shares);
  Copier<T, M> copier(workspace.steps[warp]);
  u32 next_rows = 0;
  const auto start = [&] {
    // Tasks behind the last row of a tile have none.
    while (next.task < shares.tasks() && rows_of(next.task) == 0) next.advance(shares);
    if (next.task < shares.tasks()) {
      next_rows = rows_of(next.task);
      copier.start(segment_of(next.segment, next.task / shares.apart * shares.rows));
    }
  };
  const auto copy_next = [&] {
    if (next.task < shares.tasks()) {
      copier.step(next_rows);
      if (copier.row >= next_rows) {
        next.advance(shares);
        start();
      }
    }
    end_of_step();
  };
  start();
  for (int ahead = 0; ahead < S::AT_ONCE - 1; ++ahead) copy_next();

  // The compiler would compute these anew for each row.
  u32 offset = warp * S::WARP_BYTES + lane / BLOCK_GROUPS * T::BYTES, place = lane % BLOCK_GROUPS;
  asm volatile("" : "+r"(offset), "+r"(place));
  const Bytes mine = {reinterpret_cast<const u32*>(workspace.steps), offset};

  u32 slot = 0;
  for (Cursor now(shares); now.task < shares.tasks(); now.advance(shares)) {
    const u32 here = rows_of(now.task);
    if (here == 0) continue;
    const Segment segment = segment_of(now.segment, now.task / shares.apart * shares.rows);
    // Lanes behind the last group and columns that are not there multiply by zeros; rows behind the last one give sums that nobody takes.
    const bool active = lane < segment.groups;
    ColumnGroup column[M] = {};
#pragma unroll
    for (int m = 0; m < M; ++m)
      if (active && (m == 0 || m < columns)) column[m].load(segment, m);
    u32 address[2] = {static_cast<u32>(segment.even), static_cast<u32>(segment.odd)};
    for (u32 row = 0; row < here; row += S::ROWS) {
      wait_for_step<S::AT_ONCE - 2>();
      __syncwarp();  // All lanes' copies are there, and all have read what is overwritten now.
      copy_next();
      float sums[SUMS];
#pragma unroll
      for (int b = 0; b < S::ROWS; ++b) {
        const u32 before = T::ALIGN % 16 == 0 ? 0 : address[b % 2] & 15;
        if (T::ALIGN % 16 != 0) address[b % 2] += static_cast<u32>(segment.step);
        Group<T::SCALES> group;
        T::read(mine.from(slot + b * S::ROOM + before), place, workspace.table, group);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          const float product = multiply<T>(group, column[m]);
          sums[b * M + m] = active ? product : 0.0f;
        }
      }
      const float sum = sums_of(sums) * segment.weight;
      const u32 which = row * M + lane * SUMS / WARP;
      if (lane % (WARP / SUMS) == 0 && which < here * M) {
        float* to = &workspace.sums[now.task][which];
        *to = now.segment < shares.apart ? sum : *to + sum;
      }
      slot = slot + S::STEP_BYTES == S::WARP_BYTES ? 0 : slot + S::STEP_BYTES;
    }
  }
}

// Fills the type's table. All threads of the block together; `__syncthreads` comes before its use.
template <class T, int M>
__device__ __forceinline__ void fill_table(Workspace<T, M>& workspace) {
  for (int i = threadIdx.x; i < T::TABLE; i += blockDim.x) workspace.table[i] = T::table(i);
}

// The sum of row `row` of the tile with column m over all segments, after `__syncthreads`.
template <class T, int M>
__device__ __forceinline__ float sum_of(const Workspace<T, M>& workspace, const Shares& shares, u32 row, u32 m) {
  float sum = 0.0f;
  if (shares.segments == 0) return sum;
  const u32 part = row / shares.rows, at = row % shares.rows * M + m;
  for (u32 i = 0; i < shares.apart; ++i) sum += workspace.sums[part * shares.apart + i][at];
  return sum;
}
