//! One task of a product in integers: some rows of a quantized matrix with some columns.

use std::ops::Range;

use plan::QuantType;

use super::activations::{RUN, Run};
use super::blocks::{Unpack, form};
use super::panel::{Rows, Tail, Unpacked};
use super::tile::{MANY, Sums, multiply};
use super::wide::{Column, ROWS, Wide};
use crate::cpu::isa::{Isa, WideKernel};
use crate::cpu::matmul::row_bytes;

/// Columns of one task, at most.
pub(crate) const TASK_COLUMNS: usize = 256;

/// What the columns of a task may take of the second-level cache, where they stay while all rows pass.
const COLUMNS_BYTES: usize = 768 << 10;

/// Columns of one task: fewer where they are long, but enough to unpack rows for.
pub(crate) const fn task_columns(row_elements: usize) -> usize {
    let column = row_elements.div_ceil(RUN) * size_of::<Run>();
    let fit = COLUMNS_BYTES / if column == 0 { 1 } else { column } / MANY * MANY;
    if fit < LISTED {
        LISTED
    } else if fit > TASK_COLUMNS {
        TASK_COLUMNS
    } else {
        fit
    }
}

/// From here on panels are unpacked in pairs, so that each load of a column serves both.
const PAIR_COLUMNS: usize = 16;

/// Columns whose runs are listed at a time: a multiple of those that are multiplied at once.
const LISTED: usize = 8 * MANY;

/// Takes what a task has computed.
pub(crate) trait Finish {
    /// The products of the task's `column`-th column with rows from `first` on.
    fn finish(&self, column: usize, first: usize, products: &[f32]);
}

/// Some rows times some columns, at most [`TASK_COLUMNS`].
pub(crate) struct Task<'a, F> {
    pub(crate) isa: Isa,
    pub(crate) quant: QuantType,
    /// The whole matrix.
    pub(crate) weights: &'a [u8],
    /// Numbers of a row.
    pub(crate) row_elements: usize,
    pub(crate) rows: Range<usize>,
    /// The runs of each column.
    pub(crate) columns: &'a [&'a [Run]],
    pub(crate) finish: F,
}

impl<F: Finish> Task<'_, F> {
    #[allow(clippy::large_stack_arrays)] // 32 KiB, which the plan counts for each thread.
    pub(crate) fn run(&self) {
        if self.columns.len() >= PAIR_COLUMNS {
            let mut sums = [[Column([0.0; ROWS]); 2]; TASK_COLUMNS];
            let single = self.panels(self.rows.start, &mut [Unpacked::ZERO, Unpacked::ZERO], &mut sums);
            if single < self.rows.end {
                let mut sums = [[Column([0.0; ROWS])]; TASK_COLUMNS];
                self.panels(single, &mut [Unpacked::ZERO], &mut sums);
            }
        } else {
            let mut sums = [[Column([0.0; ROWS])]; PAIR_COLUMNS];
            self.panels(self.rows.start, &mut [Unpacked::ZERO], &mut sums);
        }
    }

    /// `P` panels at a time from row `first` on. Returns the first row that is left.
    fn panels<const P: usize>(&self, first: usize, panels: &mut [Unpacked; P], sums: &mut [[Sums; P]]) -> usize {
        let mut row = first;
        // A last panel may have fewer rows, but a pair has at least one of its second.
        while row + (P - 1) * ROWS < self.rows.end {
            let sums = &mut sums[..self.columns.len()];
            sums.fill([Column([0.0; ROWS]); P]);
            for block in 0..self.row_elements.div_ceil(RUN) {
                for (p, panel) in panels.iter_mut().enumerate() {
                    self.unpack(row + p * ROWS, block, panel);
                }
                self.isa.run_wide(Multiply { task: self, block, panels, sums });
            }
            for (c, sums) in sums.iter().enumerate() {
                for (p, sums) in sums.iter().enumerate() {
                    let first = row + p * ROWS;
                    self.finish.finish(c, first, &sums.0[..ROWS.min(self.rows.end - first)]);
                }
            }
            row += P * ROWS;
        }
        row
    }

    /// A block of a panel.
    fn unpack(&self, first: usize, block: usize, out: &mut Unpacked) {
        let quant = self.quant;
        let stride = row_bytes(quant, self.row_elements);
        let numbers = RUN.min(self.row_elements - block * RUN);
        let (from, bytes) = (first * stride + row_bytes(quant, block * RUN), row_bytes(quant, numbers));
        let count = ROWS.min(self.rows.end - first);
        let groups = numbers / form(quant).map_or(RUN, |form| form.group);
        let mut tail;
        let rows = if count == ROWS {
            Rows::new(&self.weights[from..], stride, bytes)
        } else {
            tail = Tail::EMPTY;
            tail.fill(&self.weights[from..], stride, count, bytes)
        };
        // Sixteen rows are one run of memory, but they are not read in its order. So the next sixteen are asked for in theirs.
        let next = self.weights.as_ptr().wrapping_add((first + ROWS) * stride + ROWS * block * row_bytes(quant, RUN));
        let rows = rows.asking_for(next);
        self.isa.run_wide(Unpack { quant, rows, groups, out });
    }
}

struct Multiply<'a, 'b, F, const P: usize> {
    task: &'b Task<'a, F>,
    block: usize,
    panels: &'b [Unpacked; P],
    sums: &'b mut [[Sums; P]],
}

impl<F, const P: usize> WideKernel for Multiply<'_, '_, F, P> {
    type Output = ();

    #[inline(always)]
    fn run<W: Wide>(self, w: W) {
        let Self { task, block, panels, sums } = self;
        let Some(form) = form(task.quant) else { return };
        let groups = RUN.min(task.row_elements - block * RUN) / form.group;
        let mut first = 0;
        while first < sums.len() {
            let count = (sums.len() - first).min(LISTED);
            let mut runs = [&task.columns[first][block]; LISTED];
            for (run, column) in runs.iter_mut().zip(&task.columns[first..first + count]) {
                *run = &column[block];
            }
            multiply(w, form, groups, panels, &runs[..count], &mut sums[first..first + count]);
            first += count;
        }
    }
}
