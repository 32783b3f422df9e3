//! One task of a product: some rows of a matrix with some of its columns.
//!
//! A few rows of one chunk are decoded into the stack (first-level cache) and multiplied with all columns; or, where
//! there is a single column, numbers are multiplied while they are in registers.

use std::ops::Range;

use plan::QuantType;

use super::job::{Columns, Input, WeightedColumn, row_bytes};
use super::tile::dot_tile;
use super::{CHUNK, MANY_COLUMNS, MANY_ROWS, TASK_COLUMNS, TOGETHER};
use crate::cpu::Activations;
use crate::cpu::decode::{Block, Dequantize, ForBlock, Sink, for_block};
use crate::cpu::integer::{self, Finish};
use crate::cpu::isa::{Isa, Kernel};
use crate::cpu::outputs::Cells;
use crate::cpu::simd::{LANES, Lanes, Simd, lanes};

/// Columns that the inner loop takes at once, where there are many registers and where there are few. Four rows of six
/// and two rows of three keep all sums in registers.
const TILE_COLUMNS: (usize, usize) = (6, 3);

/// What all tasks of a product share.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) isa: Isa,
    pub(super) quant: QuantType,
    pub(super) weights: &'a [u8],
    pub(super) row_elements: usize,
    pub(super) x: Input<'a>,
    pub(super) out: Cells<'a>,
    pub(super) outputs: Outputs<'a>,
}

/// Where columns lie, and what becomes of their products.
#[derive(Clone, Copy)]
pub(super) enum Outputs<'a> {
    /// They are the outputs.
    Set(Columns<'a>),
    /// They are weighted and added to the outputs.
    Add(&'a [WeightedColumn]),
}

/// Some rows times some columns, at most [`TASK_COLUMNS`].
pub(super) struct Part<'a> {
    pub(super) product: Product<'a>,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Part<'_> {
    pub(super) fn run(self) {
        let isa = self.product.isa;
        if let Some(quantized) = self.product.x.integers(self.product.quant) {
            self.run_in_integers(quantized);
        } else if self.columns.len() >= MANY_COLUMNS {
            isa.run(Task::<MANY_ROWS>(self));
        } else if self.columns.len() == 1 && self.product.row_elements.is_multiple_of(LANES) {
            isa.run(OneColumn(self));
        } else {
            isa.run(Task::<TOGETHER>(self));
        }
    }

    fn run_in_integers(self, activations: &Activations) {
        let Self { product, rows, columns } = self;
        let mut places = [0; integer::TASK_COLUMNS];
        let places = &mut places[..columns.len()];
        for (place, column) in places.iter_mut().zip(columns.clone()) {
            let from = product.from(column);
            let whole = from.is_multiple_of(product.row_elements);
            assert!(whole, "a column from {from}, but they were quantized every {}", product.row_elements);
            *place = (from / product.row_elements) as u32;
        }
        let Product { isa, quant, weights, row_elements, .. } = product;
        let finish = FinishFrom { product, first: columns.start };
        integer::Task { isa, quant, weights, row_elements, rows, activations, columns: places, finish }.run();
    }
}

/// Finishes the products of columns from `first` on.
struct FinishFrom<'a> {
    product: Product<'a>,
    first: usize,
}

impl Finish for FinishFrom<'_> {
    #[inline(always)]
    fn finish(&self, column: usize, first: usize, products: &[f32]) {
        self.product.finish(self.first + column, first, products);
    }
}

impl<'a> Product<'a> {
    /// The numbers of a column.
    #[inline(always)]
    fn column(&self, column: usize) -> &'a [f32] {
        &self.x.numbers[self.from(column)..][..self.row_elements]
    }

    #[inline(always)]
    fn from(&self, column: usize) -> usize {
        match self.outputs {
            Outputs::Set(columns) => columns.at(column).from,
            Outputs::Add(columns) => columns[column].from,
        }
    }

    /// The finished products of a column with the rows from `first` on.
    #[inline(always)]
    fn finish(&self, column: usize, first: usize, products: &[f32]) {
        match self.outputs {
            Outputs::Set(columns) => self.out.write(columns.at(column).to + first, products),
            Outputs::Add(columns) => {
                let WeightedColumn { to, weight, .. } = columns[column];
                self.out.add(to + first, weight, products);
            }
        }
    }
}

/// Sums of some rows, each with all columns of a task.
type Sums = [[f32; TASK_COLUMNS]];

/// `ROWS` rows are decoded together.
struct Task<'a, const ROWS: usize>(Part<'a>);

impl<const ROWS: usize> Kernel for Task<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { product, rows, columns } = self.0;
        let Product { isa, quant, weights, row_elements, .. } = product;
        let row_bytes = row_bytes(quant, row_elements);
        let mut decoded = [[0.0; CHUNK]; ROWS];
        let mut sums = [[0.0; TASK_COLUMNS]; ROWS];
        for first in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - first);
            for start in (0..row_elements).step_by(CHUNK) {
                let length = CHUNK.min(row_elements - start);
                let from = start / quant.block_elements() * quant.block_bytes();
                let bytes = length / quant.block_elements() * quant.block_bytes();
                for (r, decoded) in decoded[..count].iter_mut().enumerate() {
                    let block = &weights[(first + r) * row_bytes + from..][..bytes];
                    isa.run(Dequantize { quant, bytes: block, out: &mut decoded[..length] });
                }
                Tiles { product, columns: columns.clone(), start, length }.run(s, &decoded[..count], &mut sums);
            }
            for (c, column) in columns.clone().enumerate() {
                let products: [f32; ROWS] = std::array::from_fn(|row| sums[row][c]);
                product.finish(column, first, &products[..count]);
            }
        }
    }
}

/// A chunk, from number `start` of the rows, of all columns of a task.
struct Tiles<'a> {
    product: Product<'a>,
    columns: Range<usize>,
    start: usize,
    length: usize,
}

impl Tiles<'_> {
    /// A tile at a time.
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, decoded: &[[f32; CHUNK]], sums: &mut Sums) {
        let mut column = 0;
        while column < self.columns.len() {
            column += match self.columns.len() - column {
                1 => self.row_tiles::<S, 1>(s, decoded, column, sums),
                2 => self.row_tiles::<S, 2>(s, decoded, column, sums),
                4 | 5 if S::MANY_REGISTERS => self.row_tiles::<S, 4>(s, decoded, column, sums),
                6.. if S::MANY_REGISTERS => self.row_tiles::<S, { TILE_COLUMNS.0 }>(s, decoded, column, sums),
                _ => self.row_tiles::<S, { TILE_COLUMNS.1 }>(s, decoded, column, sums),
            };
        }
    }

    /// `M` columns, from the task's `column`-th on, with every decoded row. Returns `M`.
    #[inline(always)]
    fn row_tiles<S: Simd, const M: usize>(
        &self,
        s: S,
        decoded: &[[f32; CHUNK]],
        column: usize,
        sums: &mut Sums,
    ) -> usize {
        let first = self.columns.start + column;
        let x: [&[f32]; M] = std::array::from_fn(|c| &self.product.column(first + c)[self.start..][..self.length]);
        if S::MANY_REGISTERS || M == 1 {
            self.some_row_tiles::<S, TOGETHER, M>(s, decoded, x, column, sums);
        } else {
            self.some_row_tiles::<S, 2, M>(s, decoded, x, column, sums);
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
        column: usize,
        sums: &mut Sums,
    ) {
        let (groups, rest) = decoded.as_chunks::<R>();
        let (group_sums, rest_sums) = sums.split_at_mut(groups.len() * R);
        for (rows, sums) in groups.iter().zip(group_sums.as_chunks_mut::<R>().0) {
            let products = dot_tile(s, rows.each_ref().map(|w| &w[..self.length]), x);
            for (sums, products) in sums.iter_mut().zip(products) {
                self.put(&mut sums[column..], products);
            }
        }
        for (w, sums) in rest.iter().zip(rest_sums) {
            let [products] = dot_tile(s, [&w[..self.length]], x);
            self.put(&mut sums[column..], products);
        }
    }

    /// Adds a chunk's products of one row.
    #[inline(always)]
    fn put<const M: usize>(&self, sums: &mut [f32], products: [f32; M]) {
        for (sum, product) in sums.iter_mut().zip(products) {
            *sum = if self.start == 0 { product } else { *sum + product };
        }
    }
}

/// Some rows times a single column: decode. Numbers are multiplied while they are in registers.
struct OneColumn<'a>(Part<'a>);

impl Kernel for OneColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_block(s, self.0.product.quant, self);
    }
}

impl ForBlock for OneColumn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, B: Block>(self, s: S) {
        let mut row = self.0.rows.start;
        while row + TOGETHER <= self.0.rows.end {
            self.some_rows::<S, B, TOGETHER>(s, row);
            row += TOGETHER;
        }
        while row < self.0.rows.end {
            self.some_rows::<S, B, 1>(s, row);
            row += 1;
        }
    }

    #[inline(always)]
    fn run_slow<S: Simd>(self, s: S, _: QuantType) {
        Task::<TOGETHER>(self.0).run(s);
    }
}

impl OneColumn<'_> {
    /// `R` rows side by side, block by block, summed in the order that the parent module describes.
    #[inline(always)]
    fn some_rows<S: Simd, B: Block, const R: usize>(&self, s: S, first: usize) {
        let Part { product, rows: all, columns } = &self.0;
        let weights = product.weights;
        let row_bytes = product.row_elements / B::ELEMENTS * B::BYTES;
        let chunk_bytes = CHUNK / B::ELEMENTS * B::BYTES;
        let rows: [&[u8]; R] = std::array::from_fn(|r| &weights[(first + r) * row_bytes..][..row_bytes]);
        let rest = &weights[(first + R).min(all.end) * row_bytes..all.end * row_bytes];
        let mut totals = [0.0; R];
        for (chunk, x) in product.column(columns.start).chunks(CHUNK).enumerate() {
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
        product.finish(columns.start, first, &totals);
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
