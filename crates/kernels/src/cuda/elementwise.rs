//! Functions of single numbers and sums of rows.

use super::launch::{Address, Param, Shape, launch};
use super::output::Targets;
use super::{CudaError, Joining, Output, Slice, SliceMut, Stream};
use crate::cpu::OutputGate;

/// Threads of a block.
const THREADS: usize = 256;
/// The most blocks in the grid's second and third direction.
const ROWS_MAX: usize = 65_535;

/// `rows` rows that do not lie one behind another: row t begins at number `t · step`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// All of them and what lies between.
    pub numbers: Slice<'a, f32>,
    /// Numbers from one row's begin to the next's.
    pub step: usize,
}

impl Rows<'_> {
    pub(super) fn check(&self, rows: usize, width: usize) {
        let fits = (rows - 1).checked_mul(self.step).and_then(|start| start.checked_add(width));
        assert!(fits.is_some_and(|end| end <= self.numbers.len()), "{rows} rows of {width} by {}", self.step);
        assert!(u32::try_from(self.step).is_ok(), "rows {} apart", self.step);
    }
}

/// `struct Gated` of `elementwise.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    gate: Address,
    up: Address,
    gate_step: u32,
    up_step: u32,
    out: Address,
    codes: Address,
    scales: Address,
    width: u32,
    kind: u32,
    limit: f32,
    alpha: f32,
}

// SAFETY: the kernel's structure, field for field.
unsafe impl Param for Parameters {}

/// How the kernel opens a gate: `GateKind` of `elementwise.cu`, limit and slope.
type Opening = (u32, f32, f32);

/// `out = activation(gate) · up` for `rows` rows of `width` numbers, as [`cpu::silu_mul`](crate::cpu::silu_mul) and those beside it.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where gates, ups or outputs are too few, or there are more than 65,535 rows.
pub fn gated(
    stream: &Stream,
    joining: Joining,
    gate: Rows<'_>,
    up: Rows<'_>,
    rows: usize,
    width: usize,
    out: Output<'_, '_>,
) -> Result<(), CudaError> {
    assert!(rows <= ROWS_MAX && u32::try_from(width).is_ok(), "{rows} rows of {width}");
    if rows == 0 || width == 0 {
        return Ok(());
    }
    gate.check(rows, width);
    up.check(rows, width);
    let opening = match joining {
        Joining::Silu => (0, 0.0, 0.0),
        Joining::Gelu => (1, 0.0, 0.0),
        Joining::Clamped { limit, alpha } => (2, limit, alpha),
    };
    let targets = out.targets(rows * width, width);
    // SAFETY: gates and ups were checked, and `targets` made sure of room for the result.
    unsafe { open(stream, opening, [gate, up], rows, width, targets) }
}

/// Multiplies each row of `width` numbers by its gates, as [`cpu::gate_rows`](crate::cpu::gate_rows).
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where `x` is not rows of `width`, gates are missing, or there are more than 65,535 rows.
pub fn gate_rows(
    stream: &Stream,
    kind: OutputGate,
    x: &mut SliceMut<'_, f32>,
    gates: Rows<'_>,
    width: usize,
) -> Result<(), CudaError> {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers are not rows of {width}", x.len());
    let rows = x.len() / width;
    assert!(rows <= ROWS_MAX && u32::try_from(width).is_ok(), "{rows} rows of {width}");
    if rows == 0 {
        return Ok(());
    }
    gates.check(rows, width);
    let targets = Targets { numbers: x.address(), codes: Address::NONE, scales: Address::NONE };
    let opening = (if kind == OutputGate::Silu { 0 } else { 3 }, 0.0, 0.0);
    // SAFETY: gates were checked; a thread writes the numbers of `x` that it alone has read.
    unsafe { open(stream, opening, [gates, Rows { numbers: x.as_slice(), step: width }], rows, width, targets) }
}

/// # Safety
/// There are as many gates, ups and outputs as rows of `width`, and nobody else has the outputs.
unsafe fn open(
    stream: &Stream,
    (kind, limit, alpha): Opening,
    [gate, up]: [Rows<'_>; 2],
    rows: usize,
    width: usize,
    targets: Targets,
) -> Result<(), CudaError> {
    let parameters = Parameters {
        gate: gate.numbers.address(),
        up: up.numbers.address(),
        gate_step: gate.step as u32,
        up_step: up.step as u32,
        out: targets.numbers,
        codes: targets.codes,
        scales: targets.scales,
        width: width as u32,
        kind,
        limit,
        alpha,
    };
    let kernel = stream.kernel("gated")?;
    let blocks = (width.div_ceil(4 * THREADS) as u32, rows as u32, 1);
    // SAFETY: the caller's promise.
    unsafe { launch!(stream, kernel, Shape { blocks, ..Shape::line(1, THREADS as u32) }, parameters) }
}

/// A change of every number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Times a factor.
    Scale(f32),
    /// `1 / (1 + exp(−x))`.
    Sigmoid,
    /// `cap · tanh(x / cap)`.
    SoftCap(f32),
}

/// Changes every number of `x`.
///
/// # Errors
/// Where the launch fails.
pub fn change(stream: &Stream, x: &mut SliceMut<'_, f32>, by: Change) -> Result<(), CudaError> {
    let (kind, by) = match by {
        Change::Scale(factor) => (0_u32, factor),
        Change::Sigmoid => (1, 0.0),
        Change::SoftCap(cap) => (2, cap),
    };
    let Some(shape) = line(x.len()) else { return Ok(()) };
    let kernel = stream.kernel("change")?;
    // SAFETY: `x` is that long and borrowed alone.
    unsafe { launch!(stream, kernel, shape, x.address(), x.len() as u64, kind, by) }
}

/// `x += y`, or, where `y` is shorter, that for each run of its length: a bias for every row.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where `x` is not whole runs.
pub fn add(stream: &Stream, x: &mut SliceMut<'_, f32>, y: Slice<'_, f32>) -> Result<(), CudaError> {
    assert!(x.is_empty() || (!y.is_empty() && x.len().is_multiple_of(y.len())), "{} and {} numbers", x.len(), y.len());
    let Some(shape) = line(x.len()) else { return Ok(()) };
    let kernel = stream.kernel("add_rows")?;
    // SAFETY: `x` is that long and borrowed alone; `y` is read within its length.
    unsafe { launch!(stream, kernel, shape, x.address(), y.address(), x.len() as u64, y.len() as u64) }
}

/// Multiplies each row of `width` numbers with its factor.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where there is not one factor for each row, or there are more than 65,535.
pub fn scale_rows(
    stream: &Stream,
    x: &mut SliceMut<'_, f32>,
    factors: Slice<'_, f32>,
    width: usize,
) -> Result<(), CudaError> {
    assert_eq!(Some(x.len()), factors.len().checked_mul(width), "{} rows of {width}", factors.len());
    let Some(shape) = table(factors.len(), width) else { return Ok(()) };
    let kernel = stream.kernel("scale_rows")?;
    // SAFETY: `x` is a row for each factor, and borrowed alone.
    unsafe { launch!(stream, kernel, shape, x.address(), factors.address(), width as u32) }
}

/// Rows that are weighed and added up, `used` for each row of the sum.
#[derive(Clone, Copy, Debug)]
pub struct WeightedRows<'a> {
    /// The rows.
    pub y: Slice<'a, f32>,
    /// For each row of the sum which rows of `y`, in the order of adding; what `y` has not is left out.
    pub places: Slice<'a, u32>,
    /// The place of the first row.
    pub first: u32,
    /// And what they count.
    pub weights: Slice<'a, f32>,
    /// How many for each row of the sum.
    pub used: usize,
}

/// `out[t] += Σ_j weight[t][j] · y[place[t][j] − first]`: experts' outputs join their tokens.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where lengths do not fit, or there are more than 65,535 rows.
pub fn add_weighted(
    stream: &Stream,
    out: &mut SliceMut<'_, f32>,
    rows: &WeightedRows<'_>,
    width: usize,
) -> Result<(), CudaError> {
    let WeightedRows { y, places, first, weights, used } = *rows;
    assert!(width > 0 && out.len().is_multiple_of(width), "{} numbers are not rows of {width}", out.len());
    assert!(y.len().is_multiple_of(width), "{} numbers are not rows of {width}", y.len());
    let count = out.len() / width;
    assert!(places.len() == count * used && weights.len() == count * used, "{used} rows for each of {count}");
    let Some(shape) = table(count, width) else { return Ok(()) };
    let kernel = stream.kernel("add_weighted")?;
    let available = (y.len() / width) as u32;
    // SAFETY: lengths were checked; places beyond `available` are left out.
    unsafe {
        launch!(
            stream,
            kernel,
            shape,
            out.address(),
            y.address(),
            places.address(),
            weights.address(),
            used as u32,
            width as u32,
            first,
            available
        )
    }
}

/// Blocks for `count` numbers in a line.
fn line(count: usize) -> Option<Shape> {
    (count > 0).then(|| Shape::line(count.div_ceil(THREADS) as u32, THREADS as u32))
}

/// Blocks for `rows` rows of `width` numbers.
fn table(rows: usize, width: usize) -> Option<Shape> {
    assert!(rows <= ROWS_MAX && u32::try_from(width).is_ok(), "{rows} rows of {width}");
    let blocks = (width.div_ceil(THREADS) as u32, rows as u32, 1);
    (rows > 0 && width > 0).then(|| Shape { blocks, ..Shape::line(1, THREADS as u32) })
}
