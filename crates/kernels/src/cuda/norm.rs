//! Norms of rows, alone or with the sum before and the rounding behind.

use super::launch::{Address, Param, Shape, launch};
use super::{CudaError, Output, Slice, SliceMut, Stream};

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps)`, as [`cpu::rms_norm`](crate::cpu::rms_norm).
    Rms,
    /// `x / sqrt(Σ x² + eps)`, as [`cpu::l2_norm_in_place`](crate::cpu::l2_norm_in_place).
    Length,
    /// `(x − mean) / sqrt(variance + eps)`, as [`cpu::layer_norm_in_place`](crate::cpu::layer_norm_in_place).
    Layer,
}

/// A norm of rows of `width` numbers.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Which.
    pub kind: NormKind,
    /// Numbers of a row.
    pub width: usize,
    /// What each number of a row is multiplied by; without, by nothing.
    pub weight: Option<Slice<'a, f32>>,
    /// Keeps a row of zeros from dividing by zero.
    pub eps: f32,
}

/// `struct Norm` of `norm.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    x: Address,
    added: Address,
    sum: Address,
    weight: Address,
    out: Address,
    codes: Address,
    scales: Address,
    n: u32,
    over: f32,
    eps: f32,
    centred: u32,
}

// SAFETY: the kernel's structure, field for field.
unsafe impl Param for Parameters {}

/// Threads of a block at most.
const THREADS: usize = 1024;

/// The norm of each row of `x`.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where `x` is not rows of the norm's width, the weight has another length, or the output has no room.
pub fn norm(stream: &Stream, norm: &Norm<'_>, x: Slice<'_, f32>, out: Output<'_, '_>) -> Result<(), CudaError> {
    // SAFETY: nothing is added, so that `x` is read only.
    unsafe { run(stream, norm, x, None, out) }
}

/// The norm of each row of `x`, in its place.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// As [`norm`].
pub fn norm_in_place(stream: &Stream, norm: &Norm<'_>, x: &mut SliceMut<'_, f32>) -> Result<(), CudaError> {
    let same = Slice::clone(&x.as_slice());
    let parameters = norm.parameters(same);
    let parameters = Parameters { out: x.address(), ..parameters };
    // SAFETY: a thread writes only numbers that it alone reads, after it has read them; `x` is borrowed alone.
    unsafe { start(stream, x.len(), parameters) }
}

/// `x += added`, and the norm of each row of the sum: a block's output joins the residual stream on its way to the next norm.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// As [`norm`], or where `added` has another length.
pub fn add_norm(
    stream: &Stream,
    norm: &Norm<'_>,
    x: &mut SliceMut<'_, f32>,
    added: Slice<'_, f32>,
    out: Output<'_, '_>,
) -> Result<(), CudaError> {
    assert_eq!(x.len(), added.len(), "a sum's parts");
    // SAFETY: `x` is borrowed alone and as long as what is added.
    unsafe { run(stream, norm, x.as_slice(), Some(added), out) }
}

/// # Safety
/// With `added`, which is as long as `x`, nobody else has `x`.
unsafe fn run(
    stream: &Stream,
    norm: &Norm<'_>,
    x: Slice<'_, f32>,
    added: Option<Slice<'_, f32>>,
    out: Output<'_, '_>,
) -> Result<(), CudaError> {
    let targets = out.targets(x.len(), norm.width);
    let parameters = Parameters {
        added: Address::of(added),
        out: targets.numbers,
        codes: targets.codes,
        scales: targets.scales,
        ..norm.parameters(x)
    };
    // SAFETY: `targets` made sure of room for the result; the caller's promise for `x`.
    unsafe { start(stream, x.len(), parameters) }
}

impl Norm<'_> {
    fn parameters(&self, x: Slice<'_, f32>) -> Parameters {
        let Self { kind, width, weight, eps } = *self;
        assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers are not rows of {width}", x.len());
        assert!(u32::try_from(width).is_ok(), "rows of {width}");
        assert!(weight.is_none_or(|weight| weight.len() == width), "a norm's weight is not {width} long");
        let none = Address::NONE;
        Parameters {
            x: x.address(),
            added: none,
            sum: x.address(),
            weight: Address::of(weight),
            out: none,
            codes: none,
            scales: none,
            n: width as u32,
            over: if kind == NormKind::Length { 1.0 } else { width as f32 },
            eps,
            centred: u32::from(kind == NormKind::Layer),
        }
    }
}

/// # Safety
/// Every address leads to as many numbers as the rows have, or the weight's one row, and nobody else has those that are written.
unsafe fn start(stream: &Stream, count: usize, parameters: Parameters) -> Result<(), CudaError> {
    let width = parameters.n as usize;
    if count == 0 {
        return Ok(());
    }
    let Parameters { x, added, weight, out, codes, .. } = parameters;
    // What is rounded is rows of 32, and where those begin, fours do.
    let aligned = [x, added, weight, out].iter().all(|address| address.0.is_multiple_of(16));
    let fours = aligned && width.is_multiple_of(4);
    assert!(codes.is_none() || fours, "numbers that are rounded begin at multiples of 16 bytes");
    let kernel = stream.kernel(if fours { "norm_fours" } else { "norm_any" })?;
    let threads = if fours { width / 4 } else { width }.next_multiple_of(32).min(THREADS);
    // SAFETY: the caller's promise; the grid is one block a row.
    unsafe { launch!(stream, kernel, Shape::line((count / width) as u32, threads as u32), parameters) }
}
