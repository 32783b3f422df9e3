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

use super::decode::{Block, Dequantize, ForBlock, Sink, for_block};
use super::isa::{Isa, Kernel};
use super::simd::{LANES, Lanes, Simd, lanes};
use super::{Pool, supports};

/// Numbers of a row that are decoded and summed at a time: a multiple of every block, 4 KiB of first-level cache.
pub(super) const CHUNK: usize = 1024;

/// Rows that pass through the inner loops side by side: one row's sum alone would wait for itself.
const TOGETHER: usize = 4;

/// Columns that the inner loop takes at once, where there are many registers and where there are few. Four rows of six
/// and two rows of three keep all sums in registers.
const TILE_COLUMNS: (usize, usize) = (6, 3);

/// Columns of one task: their part of a chunk (512 KiB) stays in the second-level cache while rows pass.
const TASK_COLUMNS: usize = 128;

/// From here on columns are many: they are what a decoded row is reused for, so more rows are decoded together.
const MANY_COLUMNS: usize = 16;

/// Rows decoded together for many columns: 128 KiB in the second-level cache, which save reading columns again.
const MANY_ROWS: usize = 32;

/// Multiplications in one task, from where handing it out costs little beside it to where nothing more is gained.
const TASK_WORK: (usize, usize) = (64 * 1024, 1024 * 1024);

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
    let product = Product { isa: pool.isa(), quant, weights, row_bytes, row_elements, x, out, out_stride };

    let columns = m.min(TASK_COLUMNS);
    let task_rows = if columns >= MANY_COLUMNS {
        // Fewer where there are not enough rows for all threads.
        rows.div_ceil(2 * pool.threads()).clamp(TOGETHER, MANY_ROWS)
    } else {
        let row_work = (row_elements * columns).max(1);
        rows.div_ceil(8 * pool.threads()).clamp(TASK_WORK.0 / row_work, TASK_WORK.1 / row_work)
    };
    let task_rows = task_rows.max(1).next_multiple_of(TOGETHER);
    let row_tasks = rows.div_ceil(task_rows);
    pool.run(row_tasks * m.div_ceil(columns), &|i| {
        let (row, column) = (i % row_tasks * task_rows, i / row_tasks * columns);
        let rows = row..rows.min(row + task_rows);
        let columns = column..m.min(column + columns);
        if columns.len() >= MANY_COLUMNS {
            product.isa.run(Task::<MANY_ROWS> { product, rows, columns });
        } else if m == 1 && row_elements.is_multiple_of(LANES) {
            product.isa.run(OneColumn { product, rows });
        } else {
            product.isa.run(Task::<TOGETHER> { product, rows, columns });
        }
    });
}

/// What all tasks of a product share.
#[derive(Clone, Copy)]
struct Product<'a> {
    isa: Isa,
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
        let Product { isa, quant, weights, row_bytes, row_elements, .. } = self.product;
        let mut decoded = [[0.0; CHUNK]; ROWS];
        for first in self.rows.clone().step_by(ROWS) {
            let rows = ROWS.min(self.rows.end - first);
            for start in (0..row_elements).step_by(CHUNK) {
                let length = CHUNK.min(row_elements - start);
                let from = start / quant.block_elements() * quant.block_bytes();
                let bytes = length / quant.block_elements() * quant.block_bytes();
                for (r, decoded) in decoded[..rows].iter_mut().enumerate() {
                    let block = &weights[(first + r) * row_bytes + from..][..bytes];
                    isa.run(Dequantize { quant, bytes: block, out: &mut decoded[..length] });
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
                4 | 5 if S::MANY_REGISTERS => self.row_tiles::<S, 4>(s, decoded, first, column, start, length),
                6.. if S::MANY_REGISTERS => {
                    self.row_tiles::<S, { TILE_COLUMNS.0 }>(s, decoded, first, column, start, length)
                }
                _ => self.row_tiles::<S, { TILE_COLUMNS.1 }>(s, decoded, first, column, start, length),
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
        let Product { row_elements, x, .. } = self.product;
        let x: [&[f32]; M] = std::array::from_fn(|c| &x[(column + c) * row_elements + start..][..length]);
        if S::MANY_REGISTERS || M == 1 {
            self.some_row_tiles::<S, TOGETHER, M>(s, decoded, x, first, column, start);
        } else {
            self.some_row_tiles::<S, 2, M>(s, decoded, x, first, column, start);
        }
        M
    }

    /// `M` columns with every decoded row, `R` rows at a time.
    #[inline(always)]
    fn some_row_tiles<S: Simd, const R: usize, const M: usize>(
        &self,
        s: S,
        decoded: &[[f32; CHUNK]],
        x: [&[f32]; M],
        first: usize,
        column: usize,
        start: usize,
    ) {
        let length = x[0].len();
        let (groups, rest) = decoded.as_chunks::<R>();
        for (group, rows) in groups.iter().enumerate() {
            for (r, sums) in dot_tile(s, rows.each_ref().map(|w| &w[..length]), x).into_iter().enumerate() {
                self.put(first + group * R + r, column, start, sums);
            }
        }
        for (r, w) in rest.iter().enumerate() {
            let [sums] = dot_tile(s, [&w[..length]], x);
            self.put(first + groups.len() * R + r, column, start, sums);
        }
    }

    /// Adds a chunk's sums to the outputs of one row and the columns from `column` on.
    #[inline(always)]
    fn put<const M: usize>(&self, row: usize, column: usize, start: usize, sums: [f32; M]) {
        for (c, sum) in sums.into_iter().enumerate() {
            // SAFETY: row and column belong to this task alone, so nobody else touches their output.
            let out = unsafe { self.product.out.at((column + c) * self.product.out_stride + row) };
            *out = if start == 0 { sum } else { *out + sum };
        }
    }
}

/// Some rows times the only column: decode. Numbers are multiplied while they are in registers.
struct OneColumn<'a> {
    product: Product<'a>,
    rows: std::ops::Range<usize>,
}

impl Kernel for OneColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_block(s, self.product.quant, self);
    }
}

impl ForBlock for OneColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, B: Block>(self, s: S) {
        let mut row = self.rows.start;
        while row + TOGETHER <= self.rows.end {
            self.some_rows::<S, B, TOGETHER>(s, row);
            row += TOGETHER;
        }
        while row < self.rows.end {
            self.some_rows::<S, B, 1>(s, row);
            row += 1;
        }
    }

    #[inline(always)]
    fn run_slow<S: Simd>(self, s: S, _: QuantType) {
        Task::<TOGETHER> { product: self.product, rows: self.rows, columns: 0..1 }.run(s);
    }
}

impl OneColumn<'_> {
    /// `R` rows side by side, block by block, summed in the order that the module describes.
    #[inline(always)]
    fn some_rows<S: Simd, B: Block, const R: usize>(&self, s: S, first: usize) {
        let Product { weights, row_bytes, row_elements, x, out, .. } = self.product;
        let chunk_bytes = CHUNK / B::ELEMENTS * B::BYTES;
        let rows: [&[u8]; R] = std::array::from_fn(|r| &weights[(first + r) * row_bytes..][..row_bytes]);
        let rest = &weights[(first + R).min(self.rows.end) * row_bytes..self.rows.end * row_bytes];
        let mut totals = [0.0; R];
        for (chunk, x) in x[..row_elements].chunks(CHUNK).enumerate() {
            let (x, _) = lanes(x);
            let mut products = [Products { x, sum: s.splat(0.0) }; R];
            for block in 0..x.len() * LANES / B::ELEMENTS {
                for (r, (row, products)) in rows.iter().zip(&mut products).enumerate() {
                    let from = chunk * chunk_bytes + block * B::BYTES;
                    // Rows are short runs of memory: the processor's own prefetch starts anew at each. So the block of
                    // the row that comes here next is asked for, if it is this task's.
                    if let Some(next) = rest.get(r * row_bytes + from..) {
                        s.prefetch(&next[..B::BYTES.min(next.len())]);
                    }
                    B::decode(s, &row[from..from + B::BYTES], block * (B::ELEMENTS / LANES), products);
                }
            }
            for (total, products) in totals.iter_mut().zip(products) {
                let sum = s.sum(products.sum);
                *total = if chunk == 0 { sum } else { *total + sum };
            }
        }
        for (r, total) in totals.into_iter().enumerate() {
            // SAFETY: these rows belong to this task alone, so nobody else touches their outputs.
            unsafe { *out.at(first + r) = total }
        }
    }
}

/// Multiplies numbers with a chunk of the column and sums the products.
#[derive(Clone, Copy)]
struct Products<'a, S: Simd> {
    x: &'a [Lanes],
    sum: S::F,
}

impl<S: Simd> Sink<S> for Products<'_, S> {
    #[inline(always)]
    fn put(&mut self, s: S, group: usize, numbers: S::F) {
        self.sum = s.mul_add(numbers, s.load(&self.x[group]), self.sum);
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
    let mut column = [s.splat(0.0); M];
    for k in 0..whole {
        for (column, x) in column.iter_mut().zip(&x_lanes) {
            *column = s.load(&x[k]);
        }
        for (sums, w) in sums.iter_mut().zip(&w_lanes) {
            add_products(s, s.load(&w[k]), &column, sums);
        }
    }
    if whole * LANES < length {
        for (column, x) in column.iter_mut().zip(&x) {
            *column = s.load_part(&x[whole * LANES..]);
        }
        for (sums, w) in sums.iter_mut().zip(&w) {
            add_products(s, s.load_part(&w[whole * LANES..]), &column, sums);
        }
    }
    let mut totals = [[0.0; M]; R];
    for (totals, sums) in totals.iter_mut().zip(&sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = s.sum(*sum);
        }
    }
    totals
}

/// One step of a row: `sums[c] += w·x[c]`.
#[inline(always)]
fn add_products<S: Simd, const M: usize>(s: S, w: S::F, x: &[S::F; M], sums: &mut [S::F; M]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = s.mul_add(w, *x, *sum);
    }
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
