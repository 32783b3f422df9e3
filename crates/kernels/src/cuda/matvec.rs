//! A matrix times one to eight columns, as decoding and small batches ask for: what counts is reading the weights once, at the memory's rate.
//!
//! A block of threads takes a tile of rows. A warp takes a segment of them, 1024 numbers wide, whose columns stay in its registers while rows go by;
//! a lane reads 32 numbers from shared memory (where rows arrive by whole 16 bytes), unpacks them to eight words of codes and takes eight
//! `dp4a` a column. `cuda/rows.cuh` says how, `cuda/blocks/` how each type is unpacked.
//!
//! At its memory's rate an H100 (3.0 TB/s, 132 multiprocessors) has time for 9.8 instructions of a lane for each byte of weights, an RTX 3060 (360 GB/s,
//! 28 multiprocessors) for 17.7; logic and shifts count double. For 32 numbers by one column:
//!
//! | type | bytes | an H100 allows | a 3060 allows | instructions unpacking and multiplying |
//! |---|---|---|---|---|
//! | `IQ1_S` | 6.25 | 61 | 110 | 82 |
//! | `IQ2_XXS` | 8.25 | 81 | 146 | 122 |
//! | `Q2_K` | 10.5 | 103 | 186 | 78 |
//! | `IQ3_S`, `Q3_K` | 13.75 | 135 | 243 | 153, 134 |
//! | `MXFP4` | 17 | 167 | 301 | 123 |
//! | `Q4_K` | 18 | 176 | 319 | 67 |
//!
//! Copying adds 15 to 50. So an H100 waits for its memory with types of 4 bits and more, and for its arithmetic with grids; a 3060 for its memory with
//! nearly all. More than four columns would leave room for few warps in the registers: other blocks take them, whose weights come from
//! the second-level cache.

use plan::QuantType;

use super::launch::{Shape, launch};
use super::{CudaError, Quantized, Slice, SliceMut, Stream};

/// The most columns of one launch.
pub const MATVEC_COLUMNS: usize = 8;
/// Numbers of a row that a warp takes at a time, and sums of a row that are kept apart: as in `rows.cuh`.
const SEGMENT: usize = 1024;
const APART: usize = 8;
/// Warps of a block at most, and columns: more than four would leave room for few blocks in the registers.
const ROW_WARPS: usize = 8;
const COLUMNS_OF_BLOCK: usize = 4;
/// Warps of a block of floats.
const WARPS: usize = 8;
/// Warps that take a row of floats together, and the width from which on: four times as many loads are under way then. A router of 256 rows of 7,168
/// numbers took 27 µs with a warp for each row.
const TOGETHER: usize = 4;
const TOGETHER_FROM: usize = 2048;

/// Whether matrices of this type are multiplied on cards.
#[must_use]
pub fn supports(quant: QuantType) -> bool {
    in_integers(quant) || in_floats(quant)
}

/// Whether weights of this type meet columns in 8 bits ([`matvec`]).
#[must_use]
pub fn in_integers(quant: QuantType) -> bool {
    use QuantType as Q;
    matches!(
        quant,
        Q::Q4_0
            | Q::Q4_1
            | Q::Q5_0
            | Q::Q5_1
            | Q::Q8_0
            | Q::Q2K
            | Q::Q3K
            | Q::Q4K
            | Q::Q5K
            | Q::Q6K
            | Q::Iq1S
            | Q::Iq1M
            | Q::Iq2Xxs
            | Q::Iq2Xs
            | Q::Iq2S
            | Q::Iq3Xxs
            | Q::Iq3S
            | Q::Iq4Nl
            | Q::Iq4Xs
            | Q::Mxfp4
    )
}

/// Whether weights of this type meet columns of floats ([`matvec_floats`]).
#[must_use]
pub fn in_floats(quant: QuantType) -> bool {
    matches!(quant, QuantType::F32 | QuantType::F16 | QuantType::Bf16)
}

/// A matrix on a card: `rows` rows of `width` numbers, in the blocks of the file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The type of its blocks.
    pub quant: QuantType,
    /// Its bytes, row after row. They begin at a multiple of the largest power of two that divides the bytes of a block, up to 16: so do all
    /// rows of a matrix that begins at a multiple of 16.
    pub weights: Slice<'a, u8>,
    /// Rows.
    pub rows: usize,
    /// Numbers of a row: whole blocks.
    pub width: usize,
}

impl Matrix<'_> {
    /// Checks that the bytes are those of the rows, at an address that kernels can read.
    pub(crate) fn check(&self) {
        let Self { quant, weights, rows, width } = *self;
        let bytes = quant.bytes(width as u64).and_then(|row| row.0.checked_mul(rows as u64));
        assert_eq!(bytes, Some(weights.len() as u64), "the bytes of {rows} rows of {width} in {quant}");
        let alignment = 1 << quant.block_bytes().trailing_zeros().min(4);
        assert!(weights.address().0.is_multiple_of(alignment), "{quant} blocks at no multiple of {alignment} bytes");
        assert!(u32::try_from(rows).is_ok() && u32::try_from(width).is_ok(), "{rows} rows of {width}");
    }
}

/// `out[t·out_stride + r] = Σ_k w[r][k]·x[t][k]` for each column `t`, or that added to what is there. Each output is summed in one order,
/// whatever the other rows and columns.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the type is not multiplied [in integers](in_integers), there are more than [`MATVEC_COLUMNS`] columns, or lengths do not fit.
pub fn matvec(
    stream: &Stream,
    matrix: &Matrix<'_>,
    columns: &Quantized,
    out: &mut SliceMut<'_, f32>,
    out_stride: usize,
    add: bool,
) -> Result<(), CudaError> {
    let Matrix { quant, weights, rows, width } = *matrix;
    matrix.check();
    assert!(in_integers(quant), "no integer kernel for {quant}");
    assert_eq!(columns.width(), width, "numbers of a column");
    let m = columns.columns();
    assert!(m <= MATVEC_COLUMNS, "{m} columns are more than {MATVEC_COLUMNS}");
    if rows == 0 || m == 0 {
        return Ok(());
    }
    check_out(rows, m, out, out_stride);
    let compiled = at_most(m.min(COLUMNS_OF_BLOCK));
    let parts = m.div_ceil(compiled);
    let kernel = stream.kernel(&format!("matvec_{}_{compiled}", quant.name()))?;
    // Rows of a tile at most, as in `rows.cuh`, and blocks that the registers of a multiprocessor hold.
    let (largest, resident) = if compiled <= 2 { (64, 3) } else { (32, 2) };
    let slots = stream.info().multiprocessors as usize * resident / parts;
    let Cut { tile, warps } = Cut::new(slots, largest, rows, width);
    let shape = Shape::line((rows.div_ceil(tile) * parts) as u32, (warps * 32) as u32);
    // SAFETY: `check` and `check_out` hold the lengths of weights and outputs against what is written and read; the columns are whole. Weights
    // are read by whole 16 bytes around a row, which an allocation, beginning and ending at multiples of 256, always has.
    unsafe {
        launch!(
            stream,
            kernel,
            shape,
            weights.address(),
            rows as u32,
            tile as u32,
            (width / 32) as u32,
            columns.codes().address(),
            columns.scales().address(),
            columns.stride() as u32,
            m as u32,
            out.address(),
            out_stride as u32,
            u32::from(add)
        )
    }
}

/// [`matvec`] for weights and columns of floats: `x` is columns of `width` numbers, one behind another.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the type is not multiplied [in floats](in_floats), there are more than [`MATVEC_COLUMNS`] columns, or lengths do not fit.
pub fn matvec_floats(
    stream: &Stream,
    matrix: &Matrix<'_>,
    x: Slice<'_, f32>,
    out: &mut SliceMut<'_, f32>,
    out_stride: usize,
    add: bool,
) -> Result<(), CudaError> {
    let Matrix { quant, weights, rows, width } = *matrix;
    matrix.check();
    assert!(in_floats(quant), "no float kernel for {quant}");
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers are not columns of {width}", x.len());
    let m = x.len() / width;
    assert!(m <= MATVEC_COLUMNS, "{m} columns are more than {MATVEC_COLUMNS}");
    if rows == 0 || m == 0 {
        return Ok(());
    }
    check_out(rows, m, out, out_stride);
    let kernel = stream.kernel(&format!("matvec_{}_{}", quant.name(), at_most(m)))?;
    // By the width alone: a row is summed in one order, whatever other rows there are.
    let together = if width < TOGETHER_FROM { 1 } else { TOGETHER };
    let shape = Shape::line(rows.div_ceil(WARPS / together) as u32, (WARPS * 32) as u32);
    // SAFETY: as in `matvec`; only what is inside the rows is read.
    unsafe {
        launch!(
            stream,
            kernel,
            shape,
            weights.address(),
            rows as u32,
            width as u32,
            x.address(),
            width as u32,
            m as u32,
            out.address(),
            out_stride as u32,
            u32::from(add),
            together as u32
        )
    }
}

/// How a matrix is cut into blocks of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Rows of a block.
    pub(super) tile: usize,
    /// Its warps.
    pub(super) warps: usize,
}

impl Cut {
    /// For `rows` rows of `width` numbers where `slots` blocks of up to `largest` rows run at a time: as many warps as have equal shares of
    /// a row's segments, and tiles that fill the card once, or in equal waves.
    pub(super) fn new(slots: usize, largest: usize, rows: usize, width: usize) -> Self {
        let segments = width.div_ceil(SEGMENT).max(1);
        let apart = segments.div_ceil(segments.div_ceil(APART));
        let parts = ROW_WARPS / apart;
        let slots = slots.max(1);
        let waves = rows.div_ceil(slots * largest).max(1);
        // Each part of the warps takes pairs of rows.
        let tile = rows.div_ceil(slots * waves).max(1).next_multiple_of(2 * parts).min(largest);
        Self { tile, warps: parts * apart }
    }
}

/// Checks that the outputs of `rows` rows by `columns` columns, `out_step` apart, fit.
pub(super) fn check_out(rows: usize, columns: usize, out: &SliceMut<'_, f32>, out_step: usize) {
    let end = columns.saturating_sub(1).checked_mul(out_step).and_then(|start| start.checked_add(rows));
    assert!(
        columns == 0 || (rows <= out_step && end.is_some_and(|end| end <= out.len())),
        "{rows} rows by {columns} columns {out_step} apart do not fit {} outputs",
        out.len()
    );
    assert!(u32::try_from(out_step).is_ok() && u32::try_from(columns).is_ok(), "outputs {out_step} apart");
}

/// The fewest columns that a kernel was compiled for and that hold `m`.
const fn at_most(m: usize) -> usize {
    if m <= 2 { m } else { m.next_power_of_two() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_a_card_in_equal_waves() {
        let cut = |rows, width| Cut::new(132 * 3, 64, rows, width);
        assert_eq!(cut(8192, 8192), Cut { tile: 22, warps: 8 });
        assert_eq!(cut(1024, 8192), Cut { tile: 4, warps: 8 });
        assert_eq!(cut(7168, 2048), Cut { tile: 24, warps: 8 });
        assert_eq!(cut(2048, 7168), Cut { tile: 6, warps: 7 });
        // More segments than are kept apart: several for each warp.
        assert_eq!(cut(8192, 28_672), Cut { tile: 22, warps: 7 });
        assert_eq!(cut(128_256, 8192), Cut { tile: 54, warps: 8 });
        assert_eq!(cut(1, 32), Cut { tile: 16, warps: 8 });
    }

    #[test]
    fn every_cut_keeps_within_the_kernels_limits() {
        for (slots, largest) in [(84, 64), (28, 32), (0, 64)] {
            for rows in [1, 7, 100, 4096, 151_936] {
                for width in (32..40_000).step_by(992) {
                    let Cut { tile, warps } = Cut::new(slots, largest, rows, width);
                    assert!((4..=8).contains(&warps) && (1..=largest).contains(&tile), "{rows} × {width}");
                }
            }
        }
    }
}
