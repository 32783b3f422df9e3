//! Rows of a matrix as numbers: the vectors of tokens.

use super::launch::{Address, Param, Shape, launch};
use super::{CudaError, Matrix, Slice, SliceMut, Stream, in_integers, supports};

/// Threads of a block.
const THREADS: usize = 128;
/// The most blocks in the grid's second direction.
const ROWS_MAX: usize = 65_535;

/// `struct Lookup` of `lookup.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    weights: Address,
    rows: Address,
    out: Address,
    count: u32,
    width: u32,
    factor: f32,
}

// SAFETY: the kernels' structure, field for field.
unsafe impl Param for Parameters {}

/// `out[i] = factor · row rows[i]` of the matrix, unpacked; a row that it has not gives its last one.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the type is not [supported](supports), lengths do not fit, or there are more than 65,535 rows to look up.
pub fn lookup(
    stream: &Stream,
    matrix: &Matrix<'_>,
    rows: Slice<'_, u32>,
    factor: f32,
    out: &mut SliceMut<'_, f32>,
) -> Result<(), CudaError> {
    let width = matrix.width;
    assert!(
        Some(out.len()) == rows.len().checked_mul(width) && rows.len() <= ROWS_MAX,
        "{} rows of {width}",
        rows.len()
    );
    let count = rows.len();
    // SAFETY: there is a word for each row of the output, whose length was checked.
    unsafe { start(stream, matrix, (Some(rows), count), factor, out) }
}

/// `out[i] = factor · row i` of the matrix, unpacked, for all its rows.
///
/// # Errors
/// Where a launch fails.
///
/// # Panics
/// As [`lookup`], whatever the number of rows.
pub fn unpack(stream: &Stream, matrix: &Matrix<'_>, factor: f32, out: &mut SliceMut<'_, f32>) -> Result<(), CudaError> {
    let Matrix { quant, weights, rows, width } = *matrix;
    matrix.check();
    assert_eq!(Some(out.len()), rows.checked_mul(width), "{rows} rows of {width}");
    let bytes = width / quant.block_elements() * quant.block_bytes();
    for first in (0..rows).step_by(ROWS_MAX) {
        let count = ROWS_MAX.min(rows - first);
        let part = Matrix { weights: weights.range(first * bytes..(first + count) * bytes), rows: count, ..*matrix };
        let mut out = out.range(first * width..(first + count) * width);
        // SAFETY: there is room for all rows of the part.
        unsafe { start(stream, &part, (None, count), factor, &mut out)? };
    }
    Ok(())
}

/// # Safety
/// There is a word for each of `count` rows, where there are words, and room for as many in `out`, of which there are no more than a grid has.
unsafe fn start(
    stream: &Stream,
    matrix: &Matrix<'_>,
    (rows, count): (Option<Slice<'_, u32>>, usize),
    factor: f32,
    out: &mut SliceMut<'_, f32>,
) -> Result<(), CudaError> {
    let Matrix { quant, weights, rows: all, width } = *matrix;
    matrix.check();
    assert!(supports(quant), "no kernel for {quant}");
    if out.is_empty() {
        return Ok(());
    }
    assert!(all > 0, "a matrix without rows");
    let tasks = if in_integers(quant) { width.div_ceil(32) } else { width };
    let kernel = stream.kernel(&format!("lookup_{}", quant.name()))?;
    let blocks = (tasks.div_ceil(THREADS) as u32, count as u32, 1);
    let parameters = Parameters {
        weights: weights.address(),
        rows: Address::of(rows),
        out: out.address(),
        count: all as u32,
        width: width as u32,
        factor,
    };
    // SAFETY: the caller's promise; the weights' length was checked, and rows beyond the last are not read. Words around a block's end are, and
    // every allocation has some to spare.
    unsafe { launch!(stream, kernel, Shape { blocks, ..Shape::line(1, THREADS as u32) }, parameters) }
}
