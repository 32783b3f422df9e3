//! A matrix times one to eight columns, as decoding and small batches ask for: what counts is reading the weights once, at the memory's rate.
//!
//! For each 32 numbers a lane reads them from shared memory (where whole runs of rows arrive by 16 bytes), unpacks eight words of codes,
//! and takes eight `dp4a`. On an RTX 3060 (28 multiprocessors, 199 G instructions of 32 lanes a second, 360 GB/s) there is time for 17.7 instructions
//! of a lane for each byte of weights, on an H100 for 8.8 (at 3.35 TB/s), and so for 32 numbers:
//!
//! | type | bytes | H100 allows | counted for one column |
//! |---|---|---|---|
//! | `IQ1_S` | 6.25 | 55 | 65 |
//! | `IQ2_XXS` | 8.25 | 73 | 100 |
//! | `Q2_K` | 10.5 | 93 | 75 |
//! | `IQ3_XXS` | 12.25 | 108 | 110 |
//! | `Q4_K`, `IQ4_NL` | 18 | 159 | 65, 95 |
//! | `Q6_K` | 26.25 | 232 | 100 |
//! | `Q8_0` | 34 | 300 | 45 |
//!
//! So a 3060 waits for its memory with every type, and an H100 with those of 3.5 bits a number and more.

use plan::QuantType;

use super::launch::{Shape, launch};
use super::{CudaError, Quantized, Slice, SliceMut, Stream};

/// The most columns of one launch.
pub const MATVEC_COLUMNS: usize = 8;
/// Warps of a block.
const WARPS: usize = 8;
/// Rows that a warp takes at a time.
const ROWS: usize = 2;
/// Blocks on each multiprocessor: as many as its registers hold.
const BLOCKS: usize = 4;

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
    /// Its bytes, row after row. They begin at an even address, or for floats at a multiple of their size.
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
        let alignment = if quant == QuantType::F32 { 4 } else { 2 };
        assert!(weights.address().0.is_multiple_of(alignment), "weights at an odd address");
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
    if !check_out(rows, m, out, out_stride) {
        return Ok(());
    }
    let kernel = stream.kernel(&format!("matvec_{}_{}", quant.name(), at_most(m)))?;
    let blocks = rows.div_ceil(ROWS * WARPS).min(stream.info().multiprocessors as usize * BLOCKS);
    let shape = Shape::line(blocks as u32, (WARPS * 32) as u32);
    // SAFETY: `check` and `check_out` hold the lengths of weights and outputs against what is written and read; the columns are whole. Weights
    // are read by whole 16 bytes around a row, which an allocation, beginning and ending at multiples of 256, always has.
    unsafe {
        launch!(
            stream,
            kernel,
            shape,
            weights.address(),
            rows as u32,
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
    if !check_out(rows, m, out, out_stride) {
        return Ok(());
    }
    let kernel = stream.kernel(&format!("matvec_{}_{}", quant.name(), at_most(m)))?;
    let shape = Shape::line(rows.div_ceil(WARPS) as u32, (WARPS * 32) as u32);
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
            u32::from(add)
        )
    }
}

/// Whether there is anything to compute, where outputs fit.
fn check_out(rows: usize, columns: usize, out: &SliceMut<'_, f32>, out_stride: usize) -> bool {
    assert!(columns <= MATVEC_COLUMNS, "{columns} columns are more than {MATVEC_COLUMNS}");
    if rows == 0 || columns == 0 {
        return false;
    }
    assert!(
        rows <= out_stride && (columns - 1).saturating_mul(out_stride).saturating_add(rows) <= out.len(),
        "{rows} rows by {columns} columns with stride {out_stride} do not fit {} outputs",
        out.len()
    );
    assert!(u32::try_from(out_stride).is_ok(), "a stride of {out_stride}");
    true
}

/// The fewest columns that a kernel was compiled for and that hold `m`.
const fn at_most(m: usize) -> usize {
    if m <= 2 { m } else { m.next_power_of_two() }
}
