//! Columns of activations as 8-bit integers, the form in which they meet quantized weights.
//!
//! Each [`GROUP`] numbers have a scale, their largest magnitude over 127 (as in `Q8_0`). Made once for all matrices that read the
//! same columns.

use plan::cost;

use super::wide::ROWS;
use crate::cpu::Pool;
use crate::cpu::isa::Kernel;
use crate::cpu::outputs::Scattered;
use crate::cpu::simd::Simd;

/// Numbers that are multiplied with a block of a panel; a column ends with a shorter run where its length is no multiple.
pub(super) const RUN: usize = cost::RUN_NUMBERS as usize;

const _: () = assert!(size_of::<Run>() as u64 == cost::RUN.0, "the plan counts what is allocated");

/// Numbers that share a scale.
const GROUP: usize = 32;
/// Such groups in a run.
const GROUPS: usize = RUN / GROUP;

/// Runs quantized by one task: a few microseconds.
const TASK_RUNS: usize = 64;

/// Up to 256 numbers of a column: `scale · code`, and zeros behind them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Four at a time, as products take them.
    pub(super) codes: [[i8; 4]; RUN / 4],
    /// Sums of sixteen codes.
    pub(super) sums: [i16; ROWS],
    /// Sums of 32 codes, and zeros behind them.
    pub(super) wide_sums: [i16; ROWS],
    /// The negatives of both times their scales, for types with minima.
    pub(super) minus: [f32; ROWS],
    pub(super) wide_minus: [f32; GROUPS],
    /// Each group's.
    pub(super) scales: [f32; GROUPS],
}

impl Run {
    const ZERO: Self = Self {
        codes: [[0; 4]; RUN / 4],
        sums: [0; ROWS],
        wide_sums: [0; ROWS],
        minus: [0.0; ROWS],
        wide_minus: [0.0; GROUPS],
        scales: [0.0; GROUPS],
    };
}

/// Columns of one length, quantized.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    /// Block after block, each with a run of every column: what is read together lies together.
    runs: Vec<Run>,
    /// Numbers of a column.
    width: usize,
    columns: usize,
}

impl Activations {
    /// Room for `bytes` bytes of runs ([`cost::quantized`]); more columns make it grow.
    #[must_use]
    pub fn with_capacity(bytes: plan::Bytes) -> Self {
        Self { runs: Vec::with_capacity(bytes.0 as usize / size_of::<Run>()), width: 0, columns: 0 }
    }

    /// Replaces all columns by those of `x`, `width` numbers each.
    ///
    /// A number that is not finite makes its group's scale NaN, and so every product that it takes part in.
    ///
    /// # Panics
    /// Where `x` is not whole columns.
    pub fn quantize(&mut self, pool: &Pool, x: &[f32], width: usize) {
        assert!(x.len().is_multiple_of(width.max(1)), "{} numbers are not columns of {width}", x.len());
        self.width = width;
        self.columns = x.len() / width.max(1);
        let columns = self.columns;
        self.runs.resize(columns * width.div_ceil(RUN), Run::ZERO);
        if self.runs.is_empty() {
            return;
        }
        let runs = Scattered::new(&mut self.runs);
        pool.run(runs.len().div_ceil(TASK_RUNS), &|task| {
            let first = task * TASK_RUNS;
            // SAFETY: tasks have runs of their own.
            let part = unsafe { runs.slice(first, TASK_RUNS.min(runs.len() - first)) };
            for (index, run) in (first..).zip(part) {
                let (column, start) = (index % columns, index / columns * RUN);
                let numbers = &x[column * width..][start..width.min(start + RUN)];
                pool.isa().run(Quantize { numbers, run });
            }
        });
    }

    /// Numbers of a column.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// How many columns.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The runs of all columns that meet a matrix's `block`-th block.
    #[inline(always)]
    pub(super) fn block(&self, block: usize) -> &[Run] {
        &self.runs[block * self.columns..][..self.columns]
    }
}

/// Quantizes up to [`RUN`] numbers.
struct Quantize<'a> {
    numbers: &'a [f32],
    run: &'a mut Run,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    /// Plain loops, which the compiler turns into vectors of the instruction set: no sum of floats, so no order of one.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        /// 1.5 · 2^23: adding it leaves a rounded integer in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let mut numbers = [0.0_f32; RUN];
        numbers[..self.numbers.len()].copy_from_slice(self.numbers);
        let run = self.run;
        let groups = numbers.as_chunks::<GROUP>().0.iter().zip(run.codes.as_flattened_mut().as_chunks_mut::<GROUP>().0);
        for (group, (numbers, codes)) in groups.enumerate() {
            // Magnitudes are ordered as their bits are, and what is not finite comes last.
            let largest = numbers.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff));
            let largest = f32::from_bits(largest);
            let (scale, inverse) = match largest {
                _ if !largest.is_finite() => (f32::NAN, 0.0),
                1e-36.. => (largest / 127.0, 127.0 / largest),
                // Too small for its inverse.
                _ => (0.0, 0.0),
            };
            for (code, x) in codes.iter_mut().zip(numbers) {
                *code = (x * inverse + ROUND).to_bits() as i8;
            }
            let (first, last) = codes.split_at(GROUP / 2);
            let halves = [first, last].map(|half| half.iter().map(|code| i16::from(*code)).sum::<i16>());
            run.sums[2 * group..2 * group + 2].copy_from_slice(&halves);
            run.minus[2 * group..2 * group + 2].copy_from_slice(&halves.map(|sum| -(scale * f32::from(sum))));
            run.wide_sums[group] = halves[0] + halves[1];
            run.wide_minus[group] = -(scale * f32::from(halves[0] + halves[1]));
            run.scales[group] = scale;
        }
    }
}
