//! One task of a product in integers: some rows of a quantized matrix with some columns.

use std::mem::MaybeUninit;
use std::ops::Range;

use plan::QuantType;

use super::activations::{Activations, Run};
use super::blocks::{Direct, Dots, Source, Unpack, direct};
use super::lanes::{Lanes, Layout};
use super::panel::{Rows, Tail, Unpacked};
use super::tile::{MANY, Sums, add_dots, multiply, starts};
use super::wide::{Column, Quad, ROWS, Wide};
use crate::cpu::isa::{Isa, WideKernel};
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

/// Sums that few columns have at once, where rows are streams: so many outputs of a lane are written together. A cache line of
/// outputs each with eight columns.
const STREAM_SUMS: usize = 8 * ROWS;

/// How far ahead in each stream bytes are asked for. A processor does so by itself only where it sees them read in order, and few
/// types keep their scales before their codes.
const STREAM_AHEAD: usize = 512;

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
        let Some(layout) = Layout::new(self.quant, self.row_elements) else { return };
        let Range { start, end } = self.rows;
        if self.columns.len() < PAIR_COLUMNS {
            let each = layout.streamed(end - start, self.columns.len());
            self.streams(layout, each);
            return self.panels::<1>(layout, start + ROWS * each..end, &mut [MaybeUninit::uninit(); PAIR_COLUMNS]);
        }
        // The last panel is alone where they are odd.
        let single = end.min(start + (end - start).div_ceil(ROWS) / 2 * 2 * ROWS);
        self.panels::<2>(layout, start..single, &mut [MaybeUninit::uninit(); PAIRS * TASK_COLUMNS]);
        self.panels::<1>(layout, single..end, &mut [MaybeUninit::uninit(); TASK_COLUMNS]);
    }

    /// Few columns times the first `16 · each` rows, of which each lane goes through `each`.
    fn streams(&self, layout: Layout, each: usize) {
        if each == 0 {
            return;
        }
        let columns = self.columns.len();
        let mut panels = [Unpacked::ZERO];
        let mut room = [const { MaybeUninit::uninit() }; STREAM_SUMS];
        let mut products = [0.0; STREAM_SUMS];
        let most = STREAM_SUMS / columns.max(1);
        for first in (0..each).step_by(most) {
            let count = most.min(each - first);
            let sums = filled(&mut room, count * columns, [Column([0.0; ROWS])]);
            let first = self.rows.start + first;
            for (index, sums) in sums.chunks_exact_mut(columns).enumerate() {
                let lanes = [Lanes { first: first + index, apart: each, count: ROWS }];
                let panels = &mut panels;
                self.isa.run_wide(Multiply { task: self, layout, lanes, blocks: 0..layout.blocks, panels, sums });
            }
            let products = &mut products[..count];
            for (column, lane) in (0..columns).flat_map(|column| (0..ROWS).map(move |lane| (column, lane))) {
                for (product, [sums]) in products.iter_mut().zip(sums[column..].iter().step_by(columns)) {
                    *product = sums.0[lane];
                }
                self.finish.finish(column, first + lane * each, products);
            }
        }
    }

    /// `P` panels at a time, and as many such sets side by side as there is room for their sums.
    fn panels<const P: usize>(&self, layout: Layout, rows: Range<usize>, room: &mut [MaybeUninit<[Sums; P]>]) {
        // Room is not cleared for nothing: small matrices have a thousand tasks a token.
        if rows.is_empty() {
            return;
        }
        let mut panels = [const { Unpacked::ZERO }; P];
        let columns = self.columns.len();
        // How many blocks of the columns are taken at a time.
        let part = (PART_BYTES / (columns * size_of::<Run>())).max(1);
        let sets = (room.len() / columns).min(rows.len().div_ceil(P * ROWS));
        for first in rows.clone().step_by((sets * P * ROWS).max(1)) {
            let sums = filled(room, sets * columns, [Column([0.0; ROWS]); P]);
            for start in (0..layout.blocks).step_by(part) {
                let firsts = (first..rows.end).step_by(P * ROWS);
                for (first, sums) in firsts.zip(sums.chunks_exact_mut(columns)) {
                    let blocks = start..layout.blocks.min(start + part);
                    let lanes = std::array::from_fn(|p| Lanes::neighbours(&self.rows, first + p * ROWS));
                    let panels = &mut panels;
                    self.isa.run_wide(Multiply { task: self, layout, lanes, blocks, panels, sums });
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
    #[inline(always)]
    fn unpack(&self, layout: Layout, lanes: Lanes, block: usize, out: &mut Unpacked) {
        if lanes.count < ROWS {
            return self.unpack_last(layout, lanes, block, out);
        }
        let rows = self.whole_rows(layout, lanes, block);
        let source = &Source { quant: self.quant, rows, groups: layout.groups(block) };
        self.isa.run_wide(Unpack { source, out });
    }

    /// A block of sixteen rows.
    #[inline(always)]
    fn whole_rows(&self, layout: Layout, Lanes { first, apart, .. }: Lanes, block: usize) -> Rows<'_> {
        let (from, bytes) = layout.place(first, block);
        let rows = Rows::new(&self.weights[from..], apart * layout.stride, bytes);
        if apart == 1 {
            // These rows are one run of memory, but they are not read in its order. So the next sixteen are asked for in theirs.
            let next = (first + ROWS) * layout.stride + ROWS * block * layout.run_bytes;
            rows.asking_for(self.weights.as_ptr().wrapping_add(next))
        } else {
            rows.asking_ahead(STREAM_AHEAD)
        }
    }

    /// Some blocks of sixteen rows times the only column, where zero has the code `zero`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // Parts of `Multiply`, where there is one of each.
    fn multiply_directly<W: Wide>(
        &self,
        w: W,
        layout: Layout,
        lanes: Lanes,
        blocks: Range<usize>,
        zero: u8,
        panel: &mut Unpacked,
        sums: &mut Sums,
    ) {
        let mut dots: Dots = [Quad([[0; 4]; ROWS]); ROWS];
        for block in blocks {
            let run = &self.activations.block(block)[self.columns[0] as usize];
            let rows = self.whole_rows(layout, lanes, block);
            let source = &Source { quant: self.quant, rows, groups: layout.groups(block) };
            let starts = &starts(w, layout.form.group, zero, run);
            self.isa.run_wide(Direct { source, run, starts, out: panel, dots: &mut dots });
            add_dots(w, layout.form, panel, &dots, run, sums);
        }
    }

    /// A block of the last rows, which are fewer than sixteen: of a copy, which is room that other blocks need not have.
    #[inline(never)]
    fn unpack_last(&self, layout: Layout, lanes: Lanes, block: usize, out: &mut Unpacked) {
        let (from, bytes) = layout.place(lanes.first, block);
        let mut tail = Tail::EMPTY;
        let rows = tail.fill(&self.weights[from..], layout.stride, lanes.count, bytes);
        let source = &Source { quant: self.quant, rows, groups: layout.groups(block) };
        self.isa.run_wide(Unpack { source, out });
    }
}

/// Some blocks of some panels times all columns.
struct Multiply<'a, 'b, F, const P: usize> {
    task: &'b Task<'a, F>,
    layout: Layout,
    /// Of each panel.
    lanes: [Lanes; P],
    blocks: Range<usize>,
    panels: &'b mut [Unpacked; P],
    sums: &'b mut [[Sums; P]],
}

impl<F: Finish, const P: usize> WideKernel for Multiply<'_, '_, F, P> {
    type Output = ();

    #[inline(always)]
    fn run<W: Wide>(self, w: W) {
        let Self { task, layout, lanes, blocks, panels, sums } = self;
        let zero = if W::PAIRS && lanes[0].count == ROWS { direct(task.quant) } else { None };
        if let ([lanes], [panel], [sums], Some(zero)) = (&lanes[..], &mut panels[..], &mut *sums, zero) {
            return task.multiply_directly(w, layout, *lanes, blocks, zero, panel, &mut sums[0]);
        }
        for block in blocks {
            for (lanes, panel) in lanes.into_iter().zip(&mut *panels) {
                task.unpack(layout, lanes, block, panel);
            }
            for (columns, sums) in task.columns.chunks(LISTED).zip(sums.chunks_mut(LISTED)) {
                let all = task.activations.block(block);
                let mut room = [const { MaybeUninit::uninit() }; LISTED];
                let runs = filled(&mut room, columns.len(), &all[columns[0] as usize]);
                for (run, column) in runs.iter_mut().zip(columns) {
                    *run = &all[*column as usize];
                }
                multiply(w, layout.form, layout.groups(block), panels, runs, sums);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::blocks::tests::blocks;
    use super::*;
    use crate::cpu::Pool;

    /// Keeps the products, column by column.
    struct Kept<'a>(&'a Mutex<Vec<Vec<f32>>>);

    impl Finish for Kept<'_> {
        fn finish(&self, column: usize, first: usize, products: &[f32]) {
            self.0.lock().expect("no panic")[column][first..first + products.len()].copy_from_slice(products);
        }
    }

    #[test]
    fn streams_have_the_bits_of_single_rows() {
        // 41 rows of a lane, the first row and the last ones in no stream.
        let (row_elements, rows, start) = (1024, 1 + 42 * ROWS + 7, 1);
        let pool = Pool::new(1, Isa::PORTABLE).expect("a pool");
        let x: Vec<f32> = (0..8 * row_elements).map(|i| (i * 29 % 97) as f32 - 48.0).collect();
        let mut activations = Activations::default();
        activations.quantize(&pool, &x, row_elements);
        for quant in QuantType::ALL.iter().copied() {
            let Some(layout) = Layout::new(quant, row_elements) else { continue };
            let mut weights = vec![0; rows * layout.stride];
            blocks(quant, 1, &mut weights);
            // With eight, a lane's outputs are written in several pieces.
            let lists = [&[2][..], &[3, 0, 1], &[7, 6, 5, 4, 3, 2, 1, 0]];
            for (isa, columns) in Isa::all().flat_map(|isa| lists.map(|columns| (isa, columns))) {
                let products = |pieces: &mut dyn Iterator<Item = Range<usize>>| {
                    let kept = Mutex::new(vec![vec![0.0; rows]; columns.len()]);
                    for rows in pieces {
                        let (weights, activations, finish) = (&weights, &activations, Kept(&kept));
                        Task { isa, quant, weights, row_elements, rows, activations, columns, finish }.run();
                    }
                    kept.into_inner().expect("no panic").into_iter().flatten().map(f32::to_bits).collect::<Vec<_>>()
                };
                let all = products(&mut std::iter::once(start..rows));
                let single = products(&mut (start..rows).map(|row| row..row + 1));
                assert!(all == single, "{quant}, {} columns, {}", columns.len(), isa.name());
            }
        }
    }
}
