//! A quantized matrix times columns of activations, in a summation order that no cut of the matrix changes.
//!
//! Each output is a sum over chunks of [`CHUNK`] numbers of the row, added up in order; a chunk's sum has sixteen lanes
//! (number k goes to lane k mod 16, in order of k) which [`Simd::sum`] adds up. The weights are decoded to exact `f32`
//! first. So an output depends on its row and its column alone: not on rows or columns beside them, not on tiles, not
//! on threads. One order serves decode and prefill.
//!
//! The work: rows are cut into tasks; a task decodes a few rows of one chunk into its stack (first-level cache) and
//! multiplies them with all its columns, a tile of rows × columns at once, each output of the tile in a register.

use std::marker::PhantomData;
use std::slice;

use plan::QuantType;

use super::decode::{Store, for_block};
use super::isa::Kernel;
use super::simd::{LANES, Simd, lanes};
use super::{Pool, supports};

/// Numbers of a row that are decoded and summed at a time: a multiple of every block, 4 KiB of first-level cache.
pub(super) const CHUNK: usize = 1024;

/// Columns that the inner loop takes at once.
const TILE_COLUMNS: usize = 6;

/// Columns of one task: their part of a chunk (512 KiB) stays in the second-level cache while rows pass.
const TASK_COLUMNS: usize = 128;

/// Rows that are decoded together where there are many columns.
const MANY_ROWS: usize = 32;

/// Rows that are decoded together where there are few: 16 KiB beside the columns' part of the first-level cache.
const FEW_ROWS: usize = 4;

/// From here on columns are many.
const MANY_COLUMNS: usize = 16;

/// Multiplications in one task, so that handing it out costs little beside it.
const TASK_WORK: usize = 64 * 1024;

/// `out[t·out_stride + out_offset + r] = Σ_k w[r][k]·x[t][k]` for the `rows` rows of `weights` and the `m` columns of
/// `x` (m × `row_elements`, column after column).
///
/// Weights are decoded exactly, at any alignment; activations stay `f32`. `weights` may be any run of whole rows of a
/// matrix: the outputs are the same bits however it is cut.
///
/// # Panics
/// Where the type is not [supported](supports), a row is not whole blocks, or a slice is too short.
#[allow(clippy::too_many_arguments)] // The shape of a matrix product; a struct would only rename them.
pub fn matmul(
    pool: &Pool,
    quant: QuantType,
    weights: &[u8],
    rows: usize,
    row_elements: usize,
    x: &[f32],
    m: usize,
    out: &mut [f32],
    out_stride: usize,
    out_offset: usize,
) {
    assert!(supports(quant), "no kernel multiplies {quant}: ask `supports` first");
    let blocks = row_elements / quant.block_elements();
    assert!(blocks * quant.block_elements() == row_elements, "a row of {row_elements} is not whole blocks of {quant}");
    let row_bytes = blocks * quant.block_bytes();
    assert!(weights.len() >= rows * row_bytes, "{} bytes for {rows} rows of {row_bytes}", weights.len());
    assert!(x.len() >= m * row_elements, "{} numbers for {m} columns of {row_elements}", x.len());
    if rows == 0 || m == 0 {
        return;
    }
    let end = (m - 1) * out_stride + out_offset + rows;
    assert!(out.len() >= end && (m == 1 || out_stride >= rows), "output of {} for {end}", out.len());
    let out = &Scattered::new(&mut out[out_offset..]);
    let product = Product { quant, weights, row_bytes, row_elements, x, out, out_stride };

    let columns = m.min(TASK_COLUMNS);
    let task_rows = (TASK_WORK / (row_elements * columns).max(1)).clamp(FEW_ROWS, MANY_ROWS).next_multiple_of(FEW_ROWS);
    let row_tasks = rows.div_ceil(task_rows);
    pool.run(row_tasks * m.div_ceil(columns), &|i| {
        let (row, column) = (i % row_tasks * task_rows, i / row_tasks * columns);
        let rows = row..rows.min(row + task_rows);
        let columns = column..m.min(column + columns);
        if columns.len() >= MANY_COLUMNS {
            pool.isa().run(Task::<MANY_ROWS> { product, rows, columns });
        } else {
            pool.isa().run(Task::<FEW_ROWS> { product, rows, columns });
        }
    });
}

/// What all tasks of a product share.
#[derive(Clone, Copy)]
struct Product<'a> {
    quant: QuantType,
    weights: &'a [u8],
    row_bytes: usize,
    row_elements: usize,
    x: &'a [f32],
    out: &'a Scattered<'a>,
    out_stride: usize,
}

/// Some rows times some columns; `ROWS` rows are decoded together.
struct Task<'a, const ROWS: usize> {
    product: Product<'a>,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

impl<const ROWS: usize> Kernel for Task<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { quant, weights, row_bytes, row_elements, .. } = self.product;
        let mut decoded = [[0.0; CHUNK]; ROWS];
        for first in self.rows.clone().step_by(ROWS) {
            let rows = ROWS.min(self.rows.end - first);
            for start in (0..row_elements).step_by(CHUNK) {
                let length = CHUNK.min(row_elements - start);
                let from = start / quant.block_elements() * quant.block_bytes();
                let bytes = length / quant.block_elements() * quant.block_bytes();
                for (r, decoded) in decoded[..rows].iter_mut().enumerate() {
                    let block = &weights[(first + r) * row_bytes + from..][..bytes];
                    for_block(s, quant, Store { quant, bytes: block, out: &mut decoded[..length] });
                }
                self.tiles(s, &decoded[..rows], first, start, length);
            }
        }
    }
}

impl<const ROWS: usize> Task<'_, ROWS> {
    /// All columns of the task, a tile at a time.
    #[inline(always)]
    fn tiles<S: Simd>(&self, s: S, decoded: &[[f32; CHUNK]], first: usize, start: usize, length: usize) {
        let mut column = self.columns.start;
        while column < self.columns.end {
            let left = self.columns.end - column;
            column += match left {
                1 => self.row_tiles::<S, 1>(s, decoded, first, column, start, length),
                2 => self.row_tiles::<S, 2>(s, decoded, first, column, start, length),
                3 => self.row_tiles::<S, 3>(s, decoded, first, column, start, length),
                4 | 5 => self.row_tiles::<S, 4>(s, decoded, first, column, start, length),
                _ => self.row_tiles::<S, TILE_COLUMNS>(s, decoded, first, column, start, length),
            };
        }
    }

    /// `M` columns with every decoded row. Returns `M`.
    #[inline(always)]
    fn row_tiles<S: Simd, const M: usize>(
        &self,
        s: S,
        decoded: &[[f32; CHUNK]],
        first: usize,
        column: usize,
        start: usize,
        length: usize,
    ) -> usize {
        let Product { row_elements, x, out, out_stride, .. } = self.product;
        let x: [&[f32]; M] = std::array::from_fn(|c| &x[(column + c) * row_elements + start..][..length]);
        let put = |row: usize, sums: [f32; M]| {
            for (c, sum) in sums.into_iter().enumerate() {
                // SAFETY: row and column belong to this task alone, so nobody else touches their output.
                let out = unsafe { out.at((column + c) * out_stride + first + row) };
                *out = if start == 0 { sum } else { *out + sum };
            }
        };
        let mut row = 0;
        while row + 4 <= decoded.len() {
            let w: [&[f32]; 4] = std::array::from_fn(|r| &decoded[row + r][..length]);
            for (r, sums) in dot_tile::<S, 4, M>(s, w, x).into_iter().enumerate() {
                put(row + r, sums);
            }
            row += 4;
        }
        for (row, w) in decoded.iter().enumerate().skip(row) {
            let [sums] = dot_tile::<S, 1, M>(s, [&w[..length]], x);
            put(row, sums);
        }
        M
    }
}

/// The products of `R` rows with `M` columns of the same length, each summed in the order that the module describes.
#[inline(always)]
pub(super) fn dot_tile<S: Simd, const R: usize, const M: usize>(s: S, w: [&[f32]; R], x: [&[f32]; M]) -> [[f32; M]; R] {
    let length = w[0].len();
    let whole = length / LANES;
    let w_lanes = w.map(|w| &lanes(w).0[..whole]);
    let x_lanes = x.map(|x| &lanes(x).0[..whole]);
    let mut sums = [[s.splat(0.0); M]; R];
    for k in 0..whole {
        let x: [S::F; M] = std::array::from_fn(|c| s.load(&x_lanes[c][k]));
        for r in 0..R {
            let w = s.load(&w_lanes[r][k]);
            for c in 0..M {
                sums[r][c] = s.mul_add(w, x[c], sums[r][c]);
            }
        }
    }
    if whole * LANES < length {
        let x: [S::F; M] = std::array::from_fn(|c| s.load_part(&x[c][whole * LANES..]));
        for r in 0..R {
            let w = s.load_part(&w[r][whole * LANES..]);
            for c in 0..M {
                sums[r][c] = s.mul_add(w, x[c], sums[r][c]);
            }
        }
    }
    sums.map(|row| row.map(|sum| s.sum(sum)))
}

/// A slice whose parts several threads write, each its own.
pub(super) struct Scattered<'a> {
    start: *mut f32,
    length: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]`; its unsafe methods leave it to the caller that no two threads share a number.
unsafe impl Sync for Scattered<'_> {}

impl<'a> Scattered<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), life: PhantomData }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The number at `index`.
    ///
    /// # Safety
    /// Nobody else has it meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn at(&self, index: usize) -> &mut f32 {
        assert!(index < self.length);
        // SAFETY: it lies within the slice, and by contract it is the caller's alone.
        unsafe { &mut *self.start.add(index) }
    }

    /// `length` numbers from `from`.
    ///
    /// # Safety
    /// Nobody else has any of them meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn slice(&self, from: usize, length: usize) -> &mut [f32] {
        assert!(from <= self.length && length <= self.length - from);
        // SAFETY: they lie within the slice, and by contract they are the caller's alone.
        unsafe { slice::from_raw_parts_mut(self.start.add(from), length) }
    }
}
