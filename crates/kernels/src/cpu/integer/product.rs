//! One task of a product in integers: some rows of a quantized matrix with some columns.

use std::mem::MaybeUninit;
use std::ops::Range;

use plan::QuantType;

use super::activations::{Activations, RUN, Run};
use super::blocks::{Unpack, form};
use super::panel::{Rows, Tail, Unpacked};
use super::tile::{MANY, Sums, multiply};
use super::wide::{Column, ROWS, Wide};
use crate::cpu::isa::{Isa, WideKernel};
use crate::cpu::matmul::row_bytes;
use crate::cpu::room::filled;

/// Columns of one task, at most.
pub(crate) const TASK_COLUMNS: usize = 256;

/// Pairs of panels that have sums at once, where columns are long.
const PAIRS: usize = 4;

/// Rows of one task that are worth while where columns are long.
pub(crate) const TASK_ROWS: usize = PAIRS * 2 * ROWS;

/// What the columns of a task may take of the second-level cache, where they stay while rows pass: so many of their blocks
/// at a time.
const PART_BYTES: usize = 1 << 20;

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
    pub(crate) activations: &'a Activations,
    /// Which of its columns.
    pub(crate) columns: &'a [u32],
    pub(crate) finish: F,
}

impl<F: Finish> Task<'_, F> {
    #[allow(clippy::large_stack_arrays)] // 128 KiB, which the plan counts for each thread.
    pub(crate) fn run(&self) {
        let Range { start, end } = self.rows;
        if self.columns.len() < PAIR_COLUMNS {
            return self.panels::<1>(start..end, &mut [MaybeUninit::uninit(); PAIR_COLUMNS]);
        }
        // The last panel is alone where they are odd.
        let single = end.min(start + (end - start).div_ceil(ROWS) / 2 * 2 * ROWS);
        self.panels::<2>(start..single, &mut [MaybeUninit::uninit(); PAIRS * TASK_COLUMNS]);
        self.panels::<1>(single..end, &mut [MaybeUninit::uninit(); TASK_COLUMNS]);
    }

    fn blocks(&self) -> usize {
        self.row_elements.div_ceil(RUN)
    }

    /// How many blocks of the columns are taken at a time.
    fn part(&self) -> usize {
        (PART_BYTES / (self.columns.len() * size_of::<Run>())).max(1)
    }

    /// `P` panels at a time, and as many such sets side by side as there is room for their sums.
    fn panels<const P: usize>(&self, rows: Range<usize>, room: &mut [MaybeUninit<[Sums; P]>]) {
        let mut panels = [const { Unpacked::ZERO }; P];
        let columns = self.columns.len();
        let sets = (room.len() / columns).min(rows.len().div_ceil(P * ROWS));
        for first in rows.clone().step_by((sets * P * ROWS).max(1)) {
            let sums = filled(room, sets * columns, [Column([0.0; ROWS]); P]);
            for part in (0..self.blocks()).step_by(self.part()) {
                let firsts = (first..rows.end).step_by(P * ROWS);
                for (first, sums) in firsts.zip(sums.chunks_exact_mut(columns)) {
                    for block in part..self.blocks().min(part + self.part()) {
                        for (p, panel) in panels.iter_mut().enumerate() {
                            self.unpack(first + p * ROWS, block, panel);
                        }
                        self.isa.run_wide(Multiply { task: self, block, panels: &panels, sums });
                    }
                }
            }
            self.finish(first..rows.end, sums);
        }
    }

    /// All products with `rows`, column by column: outputs of one column are neighbours in memory.
    fn finish<const P: usize>(&self, rows: Range<usize>, sums: &[[Sums; P]]) {
        for column in 0..self.columns.len() {
            let sums = sums[column..].iter().step_by(self.columns.len()).flatten();
            for (first, sums) in rows.clone().step_by(ROWS).zip(sums) {
                self.finish.finish(column, first, &sums.0[..ROWS.min(rows.end - first)]);
            }
        }
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

/// A block of some panels times all columns.
struct Multiply<'a, 'b, F, const P: usize> {
    task: &'b Task<'a, F>,
    block: usize,
    panels: &'b [Unpacked; P],
    sums: &'b mut [[Sums; P]],
}

impl<F: Finish, const P: usize> WideKernel for Multiply<'_, '_, F, P> {
    type Output = ();

    #[inline(always)]
    fn run<W: Wide>(self, w: W) {
        let Self { task, block, panels, sums } = self;
        let Some(form) = form(task.quant) else { return };
        let groups = RUN.min(task.row_elements - block * RUN) / form.group;
        for (columns, sums) in task.columns.chunks(LISTED).zip(sums.chunks_mut(LISTED)) {
            let all = task.activations.block(block);
            let mut runs = [&all[columns[0] as usize]; LISTED];
            for (run, column) in runs.iter_mut().zip(columns) {
                *run = &all[*column as usize];
            }
            multiply(w, form, groups, panels, &runs[..columns.len()], sums);
        }
    }
}
