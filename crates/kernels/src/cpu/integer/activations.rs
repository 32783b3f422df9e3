//! Columns of activations as 8-bit integers, the form in which they meet quantized weights.
//!
//! A run of [`RUN`] numbers has one scale, its largest magnitude over 127 (as in `Q8_K`); a column ends with a shorter run where
//! its length is no multiple. Made once for all matrices that read the same columns.

use plan::cost;

use super::wide::ROWS;
use crate::cpu::Pool;
use crate::cpu::isa::Kernel;
use crate::cpu::outputs::Scattered;
use crate::cpu::simd::Simd;

/// Numbers that share a scale, and are multiplied with a block of a panel.
pub(super) const RUN: usize = cost::RUN_NUMBERS as usize;

const _: () = assert!(size_of::<Run>() as u64 == cost::RUN.0, "the plan counts what is allocated");

/// Numbers in the smallest groups that weights have scales for.
const GROUP: usize = 16;

/// Runs quantized by one task: a few microseconds.
const TASK_RUNS: usize = 64;

/// Up to 256 numbers of a column: `scale · code`, and zeros behind them.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Four at a time, as products take them.
    pub(super) codes: [[i8; 4]; RUN / 4],
    /// Sums of sixteen codes.
    pub(super) sums: [i16; ROWS],
    /// Sums of 32 codes, and zeros behind them.
    pub(super) wide_sums: [i16; ROWS],
    /// The negatives of both, for types with minima.
    pub(super) minus: [f32; ROWS],
    pub(super) wide_minus: [f32; ROWS / 2],
    pub(super) scale: f32,
}

impl Run {
    const ZERO: Self = Self {
        codes: [[0; 4]; RUN / 4],
        sums: [0; ROWS],
        wide_sums: [0; ROWS],
        minus: [0.0; ROWS],
        wide_minus: [0.0; ROWS / 2],
        scale: 0.0,
    };
}

/// Columns of one length, quantized.
#[derive(Clone, Debug, Default)]
pub struct Activations {
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
    /// A number that is not finite makes its run's scale NaN, and so every product that it takes part in.
    ///
    /// # Panics
    /// Where `x` is not whole columns.
    pub fn quantize(&mut self, pool: &Pool, x: &[f32], width: usize) {
        assert!(x.len().is_multiple_of(width.max(1)), "{} numbers are not columns of {width}", x.len());
        self.width = width;
        self.columns = x.len() / width.max(1);
        let per_column = width.div_ceil(RUN);
        self.runs.resize(self.columns * per_column, Run::ZERO);
        if self.runs.is_empty() {
            return;
        }
        let runs = Scattered::new(&mut self.runs);
        pool.run(runs.len().div_ceil(TASK_RUNS), &|task| {
            let first = task * TASK_RUNS;
            // SAFETY: tasks have runs of their own.
            let part = unsafe { runs.slice(first, TASK_RUNS.min(runs.len() - first)) };
            for (index, run) in (first..).zip(part) {
                let (column, start) = (index / per_column, index % per_column * RUN);
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

    /// The runs of a column.
    #[inline(always)]
    pub(crate) fn column(&self, column: usize) -> &[Run] {
        let runs = self.width.div_ceil(RUN);
        &self.runs[column * runs..][..runs]
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
        let mut largest = [0_u32; ROWS];
        for group in numbers.as_chunks::<ROWS>().0 {
            for (largest, x) in largest.iter_mut().zip(group) {
                // Magnitudes are ordered as their bits are, and what is not finite comes last.
                *largest = (*largest).max(x.to_bits() & 0x7fff_ffff);
            }
        }
        let largest = f32::from_bits(largest.into_iter().fold(0, u32::max));
        let (scale, inverse) = if largest.is_finite() {
            (largest / 127.0, if largest > 1e-36 { 127.0 / largest } else { 0.0 })
        } else {
            (f32::NAN, 0.0)
        };
        let codes = self.run.codes.as_flattened_mut();
        for (code, x) in codes.iter_mut().zip(&numbers) {
            *code = (x * inverse + ROUND).to_bits() as i8;
        }
        self.run.scale = scale;
        for (sum, group) in self.run.sums.iter_mut().zip(codes.as_chunks::<GROUP>().0) {
            *sum = group.iter().map(|code| i16::from(*code)).sum();
        }
        self.run.wide_sums = [0; ROWS];
        for (wide, pair) in self.run.wide_sums.iter_mut().zip(self.run.sums.as_chunks::<2>().0) {
            *wide = pair[0] + pair[1];
        }
        self.run.minus = self.run.sums.map(|sum| -f32::from(sum));
        for (minus, sum) in self.run.wide_minus.iter_mut().zip(self.run.wide_sums) {
            *minus = -f32::from(sum);
        }
    }
}
