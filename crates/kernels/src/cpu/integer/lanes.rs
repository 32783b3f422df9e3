//! Which rows of a matrix make a panel, and where the blocks of these rows lie. Must never know what becomes of them.

use std::ops::Range;

use plan::QuantType;

use super::activations::RUN;
use super::blocks::{Form, form, streamed_columns};
use super::wide::ROWS;
use crate::cpu::matmul::row_bytes;

/// Rows are read as streams where each has at least so many bytes: at each page a processor begins anew to read ahead.
const STREAM_BYTES: usize = 8 << 10;

/// Addresses that differ in these bits alone are in sets of their own.
const SET_BITS: u32 = 12;

/// The rows of a panel: lane l has row `first + l · apart`, while l is less than `count`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    pub(super) first: usize,
    pub(super) apart: usize,
    pub(super) count: usize,
}

impl Lanes {
    /// Up to sixteen rows that follow one another.
    pub(super) fn neighbours(rows: &Range<usize>, first: usize) -> Self {
        Self { first, apart: 1, count: ROWS.min(rows.end - first) }
    }
}

/// What is the same for all blocks of a task.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) form: Form,
    /// Bytes of a row, and of a block of it (the last may have fewer).
    pub(super) stride: usize,
    pub(super) run_bytes: usize,
    /// Blocks of a row.
    pub(super) blocks: usize,
    /// Groups of a block, and of the last.
    whole_groups: usize,
    last_groups: usize,
    /// Up to how many columns streams pay.
    streamed_columns: usize,
}

impl Layout {
    /// Of rows of so many numbers, if they are multiplied in integers.
    pub(super) fn new(quant: QuantType, row_elements: usize) -> Option<Self> {
        let form = form(quant)?;
        let blocks = row_elements.div_ceil(RUN);
        Some(Self {
            form,
            stride: row_bytes(quant, row_elements),
            run_bytes: row_bytes(quant, RUN),
            blocks,
            whole_groups: RUN / form.group,
            last_groups: (row_elements - blocks.saturating_sub(1) * RUN) / form.group,
            streamed_columns: streamed_columns(quant),
        })
    }

    /// Groups of a block.
    #[inline(always)]
    pub(super) fn groups(&self, block: usize) -> usize {
        if block + 1 == self.blocks { self.last_groups } else { self.whole_groups }
    }

    /// Where a block of the row `first` begins, and how many bytes it has.
    #[inline(always)]
    pub(super) fn place(&self, first: usize, block: usize) -> (usize, usize) {
        let before = block * self.run_bytes;
        (first * self.stride + before, self.run_bytes.min(self.stride - before))
    }

    /// How many rows of `rows` each lane goes through where they are read as sixteen streams: none where neighbours are faster.
    ///
    /// With neighbours a processor sees short runs, whose next ones must be asked for; and what a program asks for waits in the
    /// buffers of the first-level cache, which are few. In long streams it reads ahead by itself, and farther.
    pub(super) fn streamed(&self, rows: usize, columns: usize) -> usize {
        // Streams whole pages apart would meet in one set of the first-level cache: four of them may, else an odd number of rows parts them.
        let all = rows / ROWS;
        let meeting = ROWS << (all * self.stride).trailing_zeros().min(SET_BITS) >> SET_BITS;
        let each = if all > 0 && meeting <= 4 { all } else { all.saturating_sub(1) | 1 };
        let long = rows >= each * ROWS && each * self.stride >= STREAM_BYTES;
        if long && columns <= self.streamed_columns { each } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_long_and_meet_in_few_sets() {
        // Type, numbers of a row, rows, columns: rows of each lane.
        let cases = [
            (QuantType::Q4K, 2048, 512, 1, 31),
            (QuantType::Q4K, 2048, 512, 15, 31),
            (QuantType::Q4K, 2048, 511, 1, 31),
            (QuantType::Q4K, 2048, 128, 1, 8),
            (QuantType::Q4K, 2048, 112, 1, 0),
            (QuantType::Q4K, 8192, 31, 1, 0),
            (QuantType::Q4K, 8192, 47, 1, 2),
            (QuantType::Q4K, 8192, 48, 1, 3),
            (QuantType::Q8_0, 16384, 16, 1, 1),
            (QuantType::Q8_0, 16384, 15, 1, 0),
            (QuantType::Q3K, 2048, 512, 1, 32),
            (QuantType::Q3K, 2048, 512, 2, 0),
            (QuantType::Iq2Xxs, 8192, 512, 1, 0),
        ];
        for (quant, row_elements, rows, columns, wanted) in cases {
            let layout = Layout::new(quant, row_elements).expect("multiplied in integers");
            let what = format!("{quant}, {rows} × {row_elements}, {columns} columns");
            assert_eq!(layout.streamed(rows, columns), wanted, "{what}");
        }
    }
}
