//! Products of latent attention's matrices, which hold some rows for each head, with columns that differ by head.

use kernels::cpu::{Columns, Input, Job, Pool, matmul_jobs, matmul_transposed};
use plan::QuantType;

use crate::spec::{HeadRows, Latent};

/// Numbers in x and out: where head 0 starts, from one head to the next, and from one column to the next.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    pub(super) start: usize,
    pub(super) head: usize,
    pub(super) column: usize,
}

/// A run of a unit's rows, which may start and end inside a head.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) quant: QuantType,
    /// The first row, counted from the unit's.
    pub(super) start: usize,
    pub(super) weights: &'a [u8],
}

/// The products of rows with the columns of their heads.
#[derive(Clone, Copy)]
pub(super) struct HeadProduct {
    /// Rows of one head in the unit, and where the part that is used starts among them.
    stride: usize,
    part: usize,
    /// Rows of one head that are used.
    rows: usize,
    /// Numbers of a row.
    row_elements: usize,
    /// The first head.
    first: usize,
    columns: usize,
    from: Strides,
    to: Strides,
    /// Whether rows are summed over instead of multiplied with.
    transposed: bool,
}

impl HeadProduct {
    /// Keys from latents: `K_h c`.
    pub(super) fn keys(l: &Latent, first: usize) -> Self {
        let s = l.sizes;
        let (stride, rows, row_elements, transposed) = match l.rows {
            HeadRows::Split { .. } => (s.rank, s.rank, s.plain, true),
            HeadRows::Combined(_) => (s.plain + s.value, s.plain, s.rank, false),
        };
        let steps = Strides { start: 0, head: 0, column: 0 };
        Self { stride, part: 0, rows, row_elements, first, columns: 0, from: steps, to: steps, transposed }
    }

    /// Queries into the latent's space: `K_hᵀ q`.
    pub(super) fn absorbing(l: &Latent, first: usize) -> Self {
        let keys = Self::keys(l, first);
        Self { transposed: !keys.transposed, ..keys }
    }

    /// Values from latents: `V_h c`.
    pub(super) fn values(l: &Latent, first: usize) -> Self {
        let s = l.sizes;
        let (stride, part) = match l.rows {
            HeadRows::Split { .. } => (s.value, 0),
            HeadRows::Combined(_) => (s.plain + s.value, s.plain),
        };
        Self { stride, part, rows: s.value, row_elements: s.rank, transposed: false, ..Self::keys(l, first) }
    }

    /// The same of so many columns.
    pub(super) const fn of(self, columns: usize, from: Strides, to: Strides) -> Self {
        Self { columns, from, to, ..self }
    }

    /// Multiplies these rows with the columns of their heads. Transposed products add to `out`.
    pub(super) fn run(&self, pool: &Pool, rows: &[Rows], x: &[f32], out: &mut [f32]) {
        let mut jobs = Vec::new();
        for rows in rows {
            self.list(rows, &mut jobs);
        }
        if self.transposed {
            matmul_transposed(pool, &jobs, self.row_elements, x, out, true);
        } else {
            matmul_jobs(pool, &jobs, self.row_elements, Input { numbers: x, quantized: None }, out);
        }
    }

    /// A job for each head that some of the rows belong to.
    fn list<'a>(&self, rows: &Rows<'a>, jobs: &mut Vec<Job<'a>>) {
        let Rows { quant, start, weights } = *rows;
        let row_bytes = self.row_elements / quant.block_elements() * quant.block_bytes();
        let end = start + weights.len() / row_bytes;
        let mut row = start;
        while row < end {
            let (head, within) = (row / self.stride, row % self.stride - self.part);
            let rows = (self.rows - within).min(end - row);
            let place = |steps: Strides, extra: usize| steps.start + (head - self.first) * steps.head + extra;
            let (in_x, in_out) = if self.transposed { (within, 0) } else { (0, within) };
            jobs.push(Job {
                quant,
                weights: &weights[(row - start) * row_bytes..][..rows * row_bytes],
                rows,
                columns: Columns::Strided {
                    from: place(self.from, in_x),
                    from_step: self.from.column,
                    to: place(self.to, in_out),
                    to_step: self.to.column,
                    count: self.columns,
                },
            });
            row += rows;
        }
    }
}
