//! Quantized matrices times columns of activations, in a summation order that no cut of a matrix changes.
//!
//! Each output is a sum over chunks of [`CHUNK`] numbers of the row, added up in order; a chunk's sum has sixteen lanes
//! (number k goes to lane k mod 16, in order of k) which `Simd::sum` adds up. The weights are decoded to exact `f32`
//! first. So an output depends on its row and its column alone: not on rows or columns beside them, not on tiles, not
//! on threads, not on other jobs of the call. One order serves decode and prefill.
//!
//! - `job`: what a caller asks for, and whether it fits;
//! - `cut`: rows and columns of all jobs as numbered tasks;
//! - `product`: a task: some rows are decoded into its stack and multiplied with all its columns;
//! - `tile`: rows × columns at once, each output of the tile in a register;
//! - `transposed`: the product with the transposed matrix, which has an order of its own.

mod cut;
mod job;
mod product;
mod tile;
mod transposed;

use plan::QuantType;

use self::cut::{Cut, Cuts};
use self::product::{Outputs, Part, Product};
use super::outputs::Cells;
use super::{Activations, Pool, integer};

pub(super) use self::job::row_bytes;
pub use self::job::{Column, Columns, Input, Job, WeightedColumn, WeightedJob};
pub(super) use self::tile::dot_tile;
pub use self::transposed::matmul_transposed;

/// Numbers of a row that are decoded and summed at a time: a multiple of every block, 4 KiB of first-level cache.
pub(super) const CHUNK: usize = 1024;

/// Rows that pass through the inner loops side by side: one row's sum alone would wait for itself.
const TOGETHER: usize = 4;

/// Columns of one task: their part of a chunk (512 KiB) stays in the second-level cache while rows pass.
const TASK_COLUMNS: usize = 128;

/// From here on columns are many: they are what a decoded row is reused for, so more rows are decoded together.
const MANY_COLUMNS: usize = 16;

/// Rows decoded together for many columns: 128 KiB in the second-level cache, which save reading columns again.
const MANY_ROWS: usize = 32;

/// Tasks that each thread should find, where there is work for so many.
const TASKS: usize = 8;

/// Multiplications in one task, from where handing it out costs little beside it to where nothing more is gained.
const TASK_WORK: (usize, usize) = (64 * 1024, 1024 * 1024);

/// `out[t·out_stride + out_offset + r] = Σ_k w[r][k]·x[t][k]` for the `rows` rows of `weights` and the `m` columns of
/// `x` (m × `row_elements`, column after column).
///
/// Weights are decoded exactly, at any alignment; activations stay `f32`. `weights` may be any run of whole rows of a
/// matrix: the outputs are the same bits however it is cut.
///
/// # Panics
/// Where the type is not [supported](super::supports), a row is not whole blocks, or a slice is too short.
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
    assert!(m <= 1 || out_stride >= rows, "outputs of {rows} rows every {out_stride}");
    let columns = Columns::Strided { from: 0, from_step: row_elements, to: out_offset, to_step: out_stride, count: m };
    let mut quantized = Activations::default();
    if in_integers(quant) {
        quantized.quantize(pool, &x[..m * row_elements], row_elements);
    }
    let input = Input { numbers: x, quantized: Some(&quantized) };
    matmul_jobs(pool, &[Job { quant, weights, rows, columns }], row_elements, input, out);
}

/// Whether matrices of this type are multiplied in integers, with quantized columns.
#[must_use]
pub fn in_integers(quant: QuantType) -> bool {
    integer::takes(quant)
}

/// `out[to + r] = Σ_k w[r][k]·x[from + k]` for the rows of each job's matrix and each of its columns, all at once: every
/// thread has work as long as the jobs together have enough.
///
/// The bits are those of [`matmul`] for each row and column. All rows have `row_elements` numbers.
///
/// # Panics
/// Where a type is not [supported](super::supports), a row is not whole blocks, `weights` are too short, or a column or
/// its outputs lie outside of `x` or `out`. Each output should belong to one row and one column: where two share one,
/// debug builds panic and others leave there something that either of them wrote.
pub fn matmul_jobs(pool: &Pool, jobs: &[Job], row_elements: usize, x: Input, out: &mut [f32]) {
    for job in jobs {
        job::check_weights(job.quant, job.weights, job.rows, row_elements);
        job.columns.check((row_elements, x.numbers.len()), (job.rows, out.len()));
        job::check_quantized(job.quant, row_elements, &x);
    }
    debug_assert!(job::apart(jobs, |job| job.rows), "two products of one call share an output");
    let out = Cells::new(out);
    // Columns of one task, about as many in each; and rows of all jobs, one that meets several tasks of columns counted for each.
    let task_columns = |job: &Job| {
        let columns = job.columns.len();
        columns.div_ceil(columns.div_ceil(x.task_columns(job.quant)).max(1))
    };
    let rows = jobs.iter().map(|job| job.rows * job.columns.len().div_ceil(task_columns(job).max(1))).sum();
    let cuts = Cuts::new(jobs.iter().map(|job| {
        let columns = task_columns(job);
        let task_rows = task_rows(pool, x.integers(job.quant).is_some(), rows, columns, row_elements);
        Cut::new(job.rows, job.columns.len(), task_rows, columns)
    }));
    pool.run(cuts.tasks(), &|i| {
        let (job, rows, columns) = cuts.task(i);
        let Job { quant, weights, columns: all, .. } = jobs[job];
        let outputs = Outputs::Set(all);
        let product = Product { isa: pool.isa(), quant, weights, row_elements, x, out, outputs };
        Part { product, rows, columns }.run();
    });
}

/// `out[to + r] += weight·Σ_k w[r][k]·x[from + k]` for the jobs in order and for each job's columns in order:
/// what the experts of a mixture add to their tokens.
///
/// Several columns may add to the same outputs. Each output is added to in the order of jobs and columns, by a product
/// and a sum, each rounded, after the whole of the inner sum (the bits of [`matmul`]). So neither threads nor a cut of
/// the rows (a job may be some rows of its matrix: `to` is then that of the first) nor a cut of the list over several
/// calls changes a bit.
///
/// # Panics
/// Where the jobs of a call differ in rows, and as [`matmul_jobs`] does.
/// Columns whose outputs overlap must have the same `to`: debug builds panic where they do not, in others sums may miss
/// what another thread added.
pub fn matmul_weighted(pool: &Pool, jobs: &[WeightedJob], row_elements: usize, x: Input, out: &mut [f32]) {
    let rows = jobs.first().map_or(0, |job| job.rows);
    for job in jobs {
        assert!(job.rows == rows, "jobs of {rows} and of {} rows in one call", job.rows);
        job::check_weights(job.quant, job.weights, rows, row_elements);
        for column in job.columns {
            job::check_column(column.from, row_elements, x.numbers.len());
            job::check_column(column.to, rows, out.len());
        }
        job::check_quantized(job.quant, row_elements, &x);
    }
    debug_assert!(job::apart_or_equal(jobs, rows), "outputs overlap without being the same");
    let out = Cells::new(out);
    let columns: usize = jobs.iter().map(|job| job.columns.len()).sum();
    // One cut for all: types of a call seldom differ.
    let integers = jobs.first().is_some_and(|job| x.integers(job.quant).is_some());
    let task_rows = task_rows(pool, integers, rows, columns, row_elements);
    // A task is a run of rows of all jobs, so that one thread makes all additions to an output.
    pool.run(rows.div_ceil(task_rows), &|i| {
        let rows = i * task_rows..rows.min((i + 1) * task_rows);
        for WeightedJob { quant, weights, columns, .. } in jobs {
            let outputs = Outputs::Add(columns);
            let product = Product { isa: pool.isa(), quant: *quant, weights, row_elements, x, out, outputs };
            let most = x.task_columns(*quant);
            for first in (0..columns.len()).step_by(most) {
                let columns = first..columns.len().min(first + most);
                Part { product, rows: rows.clone(), columns }.run();
            }
        }
    });
}

impl Input<'_> {
    /// Columns of one task, at most.
    fn task_columns(&self, quant: QuantType) -> usize {
        if self.integers(quant).is_some() { integer::TASK_COLUMNS } else { TASK_COLUMNS }
    }
}

/// Rows of one task, of `rows` in all, where `columns` of `row_elements` numbers meet a row.
fn task_rows(pool: &Pool, integers: bool, rows: usize, columns: usize, row_elements: usize) -> usize {
    let task_rows = if columns >= MANY_COLUMNS {
        // Fewer where there are not enough rows for all threads.
        let (least, most) = if integers { (2 * integer::ROWS, integer::TASK_ROWS) } else { (TOGETHER, MANY_ROWS) };
        rows.div_ceil(TASKS * pool.threads()).next_multiple_of(least).min(most)
    } else {
        let work = columns.saturating_mul(row_elements).max(1);
        // In integers few columns cost little beside reading the row, and the longer a run of rows the better it is read.
        let longest = TASK_WORK.1 / if integers { work.min(row_elements.max(1)) } else { work };
        rows.div_ceil(TASKS * pool.threads()).clamp(TASK_WORK.0 / work, longest)
    };
    task_rows.max(1).next_multiple_of(if integers { integer::ROWS } else { TOGETHER })
}
