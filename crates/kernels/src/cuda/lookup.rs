//! Rows of a matrix as numbers: the vectors of tokens.

use super::launch::{Address, Param, Shape, launch};
use super::{CudaError, Matrix, Slice, SliceMut, Stream, in_integers, supports};

/// Threads of a block.
const THREADS: usize = 128;

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
    let Matrix { quant, weights, rows: count, width } = *matrix;
    matrix.check();
    assert!(supports(quant), "no kernel for {quant}");
    assert!(Some(out.len()) == rows.len().checked_mul(width) && rows.len() <= 65_535, "{} rows of {width}", rows.len());
    if out.is_empty() {
        return Ok(());
    }
    assert!(count > 0, "a matrix without rows");
    let tasks = if in_integers(quant) { width.div_ceil(32) } else { width };
    let kernel = stream.kernel(&format!("lookup_{}", quant.name()))?;
    let blocks = (tasks.div_ceil(THREADS) as u32, rows.len() as u32, 1);
    let parameters = Parameters {
        weights: weights.address(),
        rows: rows.address(),
        out: out.address(),
        count: count as u32,
        width: width as u32,
        factor,
    };
    // SAFETY: lengths were checked, and rows beyond the last are not read.
    unsafe { launch!(stream, kernel, Shape { blocks, ..Shape::line(1, THREADS as u32) }, parameters) }
}
