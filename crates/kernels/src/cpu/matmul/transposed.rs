//! Products with a transposed matrix: columns combine its rows.
//!
//! A task decodes some rows, as far as its part of their numbers goes, and adds them to the sums of all its columns, a
//! tile of columns × vectors at once in registers; where there is a single column, numbers are added while they are in
//! registers themselves. Each output takes one multiply-add for each row, in order of rows.

use std::ops::Range;

use plan::QuantType;

use super::cut::{Cut, Cuts};
use super::job::{self, Job, row_bytes};
use crate::cpu::Pool;
use crate::cpu::decode::{Block, Dequantize, ForBlock, Sink, for_block};
use crate::cpu::isa::{Isa, Kernel};
use crate::cpu::outputs::Cells;
use crate::cpu::simd::{LANES, Lanes, Simd};

/// Numbers of a row that one task takes: a multiple of every block.
const NUMBERS: usize = 256;
const VECTORS: usize = NUMBERS / LANES;

/// Rows decoded together: 16 KiB of first-level cache.
const ROWS: usize = 16;

/// Columns of one task, whose sums (64 KiB) stay in the second-level cache; and the few of decode.
const COLUMNS: (usize, usize) = (64, 8);

/// `out[to + l] = Σ_j x[from + j]·w[j][l]` over the rows j of each job's matrix, for each of its columns and each number l
/// of a row; with `add`, this is added to what is there.
///
/// A column has one number for each of the job's rows, its outputs are `row_elements`. Each output takes one
/// multiply-add for each row, in order of rows, so cutting a matrix by rows into calls of which all but the first add
/// changes no bit; nor do threads, other columns or other jobs.
///
/// # Panics
/// As [`matmul_jobs`](super::matmul_jobs).
pub fn matmul_transposed(pool: &Pool, jobs: &[Job], row_elements: usize, x: &[f32], out: &mut [f32], add: bool) {
    for job in jobs {
        job::check_weights(job.quant, job.weights, job.rows, row_elements);
        job.columns.check((job.rows, x.len()), (row_elements, out.len()));
    }
    debug_assert!(job::apart(jobs, |_| row_elements), "two products of one call share an output");
    let out = Cells::new(out);
    // Fewer columns to a task where there are not enough for all threads.
    let columns: usize = jobs.iter().map(|job| job.columns.len()).sum();
    let spread = (columns * row_elements.div_ceil(NUMBERS)).div_ceil(2 * pool.threads());
    let task_columns = spread.clamp(COLUMNS.1, COLUMNS.0);
    let cuts = Cuts::new(jobs.iter().map(|job| Cut::new(row_elements, job.columns.len(), NUMBERS, task_columns)));
    pool.run(cuts.tasks(), &|i| {
        let (job, numbers, columns) = cuts.task(i);
        let (isa, job) = (pool.isa(), jobs[job]);
        let part = Part { isa, job, row_elements, x, out, numbers, columns, add };
        if part.columns.len() == 1 && part.numbers.len().is_multiple_of(LANES) {
            isa.run(OneColumn(part));
        } else if part.columns.len() <= COLUMNS.1 {
            isa.run(Task::<{ COLUMNS.1 }>(part));
        } else {
            isa.run(Task::<{ COLUMNS.0 }>(part));
        }
    });
}

/// Some numbers of all rows of a job, for some columns.
struct Part<'a> {
    isa: Isa,
    job: Job<'a>,
    row_elements: usize,
    x: &'a [f32],
    out: Cells<'a>,
    numbers: Range<usize>,
    columns: Range<usize>,
    add: bool,
}

/// Numbers of one row or one column's outputs, zeros after them.
type Wide = [Lanes; VECTORS];

/// A part with room for the sums of `M` columns.
struct Task<'a, const M: usize>(Part<'a>);

impl<const M: usize> Kernel for Task<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { job, columns, .. } = &self.0;
        let mut sums = [[[0.0; LANES]; VECTORS]; M];
        let sums = &mut sums[..columns.len()];
        for (c, sums) in sums.iter_mut().enumerate() {
            self.0.begin(c, sums);
        }
        let mut decoded = [[[0.0; LANES]; VECTORS]; ROWS];
        for first in (0..job.rows).step_by(ROWS) {
            let decoded = &mut decoded[..ROWS.min(job.rows - first)];
            self.0.decode(first, decoded);
            self.0.tiles(s, first, decoded, sums);
        }
        for (c, sums) in sums.iter().enumerate() {
            self.0.finish(c, sums);
        }
    }
}

impl<'a> Part<'a> {
    /// What the sums of the part's `c`-th column start from, where not from zeros.
    #[inline(always)]
    fn begin(&self, c: usize, sums: &mut Wide) {
        if self.add {
            let to = self.job.columns.at(self.columns.start + c).to + self.numbers.start;
            self.out.read(to, &mut sums.as_flattened_mut()[..self.numbers.len()]);
        }
    }

    /// Puts the sums of the part's `c`-th column where they belong.
    #[inline(always)]
    fn finish(&self, c: usize, sums: &Wide) {
        let to = self.job.columns.at(self.columns.start + c).to + self.numbers.start;
        self.out.write(to, &sums.as_flattened()[..self.numbers.len()]);
    }

    /// The bytes of the part's numbers of a row.
    #[inline(always)]
    fn bytes(&self, row: usize) -> &'a [u8] {
        let Job { quant, weights, .. } = self.job;
        let start = row * row_bytes(quant, self.row_elements) + row_bytes(quant, self.numbers.start);
        &weights[start..][..row_bytes(quant, self.numbers.len())]
    }

    /// The part's numbers of the rows from `first` on.
    #[inline(always)]
    fn decode(&self, first: usize, decoded: &mut [Wide]) {
        for (row, decoded) in (first..).zip(decoded) {
            let out = &mut decoded.as_flattened_mut()[..self.numbers.len()];
            self.isa.run(Dequantize { quant: self.job.quant, bytes: self.bytes(row), out });
        }
    }

    /// Adds the decoded rows to the sums of all columns, some columns at a time.
    #[inline(always)]
    fn tiles<S: Simd>(&self, s: S, first: usize, decoded: &[Wide], sums: &mut [Wide]) {
        let mut column = 0;
        while column < sums.len() {
            let left = sums.len() - column;
            column += match left {
                6.. if S::MANY_REGISTERS => self.columns_tile::<S, 6, 4>(s, first, decoded, column, sums),
                3.. => self.columns_tile::<S, 3, 2>(s, first, decoded, column, sums),
                2 => self.columns_tile::<S, 2, 2>(s, first, decoded, column, sums),
                _ if S::MANY_REGISTERS => self.columns_tile::<S, 1, 8>(s, first, decoded, column, sums),
                _ => self.columns_tile::<S, 1, 4>(s, first, decoded, column, sums),
            };
        }
    }

    /// `M` columns with all vectors of the rows, `L` at a time. Returns `M`.
    #[inline(always)]
    fn columns_tile<S: Simd, const M: usize, const L: usize>(
        &self,
        s: S,
        first: usize,
        decoded: &[Wide],
        column: usize,
        sums: &mut [Wide],
    ) -> usize {
        let x: [&[f32]; M] = std::array::from_fn(|c| {
            let from = self.job.columns.at(self.columns.start + column + c).from;
            &self.x[from + first..][..decoded.len()]
        });
        let Some(sums) = sums[column..].first_chunk_mut::<M>() else { return M };
        let vectors = self.numbers.len().div_ceil(LANES);
        let mut vector = 0;
        while vector + L <= vectors {
            add_rows::<S, M, L>(s, decoded, x, vector, sums);
            vector += L;
        }
        while vector < vectors {
            add_rows::<S, M, 1>(s, decoded, x, vector, sums);
            vector += 1;
        }
        M
    }
}

/// A part with a single column, of whole vectors: decode.
struct OneColumn<'a>(Part<'a>);

impl Kernel for OneColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_block(s, self.0.job.quant, self);
    }
}

impl ForBlock for OneColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, B: Block>(self, s: S) {
        let part = self.0;
        let mut sums = [[0.0; LANES]; VECTORS];
        part.begin(0, &mut sums);
        for row in 0..part.job.rows {
            let x = s.splat(part.x[part.job.columns.at(part.columns.start).from + row]);
            let blocks = part.bytes(row).chunks_exact(B::BYTES);
            for (block, sums) in blocks.zip(sums.chunks_exact_mut(B::ELEMENTS / LANES)) {
                B::decode(s, block, 0, &mut AddTimes { x, sums });
            }
        }
        part.finish(0, &sums);
    }

    #[inline(always)]
    fn run_slow<S: Simd>(self, s: S, _: QuantType) {
        Task::<1>(self.0).run(s);
    }
}

/// Adds numbers times `x` to sums.
struct AddTimes<'a, S: Simd> {
    x: S::F,
    sums: &'a mut [Lanes],
}

impl<S: Simd> Sink<S> for AddTimes<'_, S> {
    #[inline(always)]
    fn put(&mut self, s: S, group: usize, numbers: S::F) {
        let sum = s.mul_add(self.x, numbers, s.load(&self.sums[group]));
        s.store(sum, &mut self.sums[group]);
    }
}

/// `sums[c] += Σ x[c][j]·rows[j]` in order of j, for `L` vectors from `vector` on.
#[inline(always)]
fn add_rows<S: Simd, const M: usize, const L: usize>(
    s: S,
    rows: &[Wide],
    x: [&[f32]; M],
    vector: usize,
    sums: &mut [Wide; M],
) {
    let x = x.map(|x| &x[..rows.len()]);
    let mut totals = [[s.splat(0.0); L]; M];
    for (totals, sums) in totals.iter_mut().zip(&*sums) {
        for (total, sum) in totals.iter_mut().zip(&sums[vector..vector + L]) {
            *total = s.load(sum);
        }
    }
    let mut row = [s.splat(0.0); L];
    for (j, lanes) in rows.iter().enumerate() {
        for (row, lanes) in row.iter_mut().zip(&lanes[vector..vector + L]) {
            *row = s.load(lanes);
        }
        for (totals, x) in totals.iter_mut().zip(&x) {
            let x = s.splat(x[j]);
            for (total, row) in totals.iter_mut().zip(&row) {
                *total = s.mul_add(x, *row, *total);
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums) {
        for (total, sum) in totals.iter().zip(&mut sums[vector..vector + L]) {
            s.store(*total, sum);
        }
    }
}
