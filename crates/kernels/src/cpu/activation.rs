//! Gated activations and softmax.

use super::Pool;
use super::isa::Kernel;
use super::simd::{LANES, Lanes, Simd};

/// Numbers of one task: below this a second thread costs more than it brings.
const TASK_NUMBERS: usize = 8 * 1024;

/// `out = gate · sigmoid(gate) · up`: `SwiGLU`'s inner part.
///
/// # Panics
/// Where the lengths differ.
pub fn silu_mul(pool: &Pool, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated(pool, gate, up, out, Gate::Silu);
}

/// `out = gelu(gate) · up` with the tanh form of GELU, exactly: no table of halves.
///
/// ½·x·(1 + tanh(y)) with y = √(2/π)·(x + 0.044715·x³) is x·sigmoid(2y), and so it is computed.
///
/// # Panics
/// Where the lengths differ.
pub fn gelu_tanh_mul(pool: &Pool, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated(pool, gate, up, out, Gate::GeluTanh);
}

/// `out = g·sigmoid(alpha·g)·(u + 1)` with g = min(gate, limit) and u = up clamped to ±limit: the experts of gpt-oss.
///
/// Source: "gpt-oss-120b & gpt-oss-20b Model Card", 2025, <https://arxiv.org/abs/2508.10925>, and its reference
/// code (alpha 1.702, limit 7).
///
/// # Panics
/// Where the lengths differ.
pub fn swiglu_clamped_mul(pool: &Pool, gate: &[f32], up: &[f32], limit: f32, alpha: f32, out: &mut [f32]) {
    gated(pool, gate, up, out, Gate::Clamped { limit, alpha });
}

/// Each number becomes `1 / (1 + exp(−x))`: gates of experts.
pub fn sigmoid(pool: &Pool, x: &mut [f32]) {
    pool.run_pieces(x, TASK_NUMBERS, &|_, x| pool.isa().run(Sigmoid(x)));
}

/// How a gate's numbers open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputGate {
    /// g · sigmoid(g).
    Silu,
    /// sigmoid(g).
    Sigmoid,
}

/// Multiplies each row of `width` numbers by its gates: those of row i stand in `gates` from `i · step + offset` on.
///
/// # Panics
/// Where `x` is not rows of `width`, or gates are missing.
pub fn gate_rows(
    pool: &Pool,
    kind: OutputGate,
    x: &mut [f32],
    gates: &[f32],
    width: usize,
    step: usize,
    offset: usize,
) {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers are not rows of {width}", x.len());
    let rows = (TASK_NUMBERS / width).max(1);
    pool.run_pieces(x, rows * width, &|i, x| {
        for (row, x) in (i * rows..).zip(x.chunks_exact_mut(width)) {
            let by = &gates[row * step + offset..][..width];
            pool.isa().run(Gates { kind, x, by });
        }
    });
}

struct Gates<'a> {
    kind: OutputGate,
    x: &'a mut [f32],
    by: &'a [f32],
}

impl Kernel for Gates<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, gate) in self.x.chunks_mut(LANES).zip(self.by.chunks(LANES)) {
            let gate = load(s, gate);
            let factor = match self.kind {
                OutputGate::Silu => s.mul(gate, sigmoid_lanes(s, gate)),
                OutputGate::Sigmoid => sigmoid_lanes(s, gate),
            };
            store(s, s.mul(load(s, x), factor), x);
        }
    }
}

/// Each row of `n` numbers becomes `exp(x − max) / Σ exp(x − max)`.
///
/// # Panics
/// Where `x` is not rows of `n`.
pub fn softmax(pool: &Pool, x: &mut [f32], n: usize) {
    assert!(n > 0 && x.len().is_multiple_of(n), "{} numbers are not rows of {n}", x.len());
    let piece = (TASK_NUMBERS / n).max(1) * n;
    pool.run_pieces(x, piece, &|_, x| x.chunks_exact_mut(n).for_each(|row| pool.isa().run(Softmax(row))));
}

#[derive(Clone, Copy)]
enum Gate {
    Silu,
    GeluTanh,
    Clamped { limit: f32, alpha: f32 },
}

fn gated(pool: &Pool, gate: &[f32], up: &[f32], out: &mut [f32], kind: Gate) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out differ in length");
    pool.run_pieces(out, TASK_NUMBERS, &|i, out| {
        let part = i * TASK_NUMBERS..i * TASK_NUMBERS + out.len();
        pool.isa().run(Gated { gate: &gate[part.clone()], up: &up[part], out, kind });
    });
}

struct Gated<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    kind: Gate,
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((gate, up), out) in self.gate.chunks(LANES).zip(self.up.chunks(LANES)).zip(self.out.chunks_mut(LANES)) {
            let (mut x, mut up) = (load(s, gate), load(s, up));
            let argument = match self.kind {
                Gate::Silu => x,
                Gate::GeluTanh => gelu_sigmoid_argument(s, x),
                Gate::Clamped { limit, alpha } => {
                    let limits = (s.splat(-limit), s.splat(limit));
                    // The second operand is what stays where a number is none.
                    x = s.min(limits.1, x);
                    up = s.add(s.min(limits.1, s.max(limits.0, up)), s.splat(1.0));
                    s.mul(s.splat(alpha), x)
                }
            };
            store(s, s.mul(s.mul(x, sigmoid_lanes(s, argument)), up), out);
        }
    }
}

#[inline(always)]
pub(super) fn sigmoid_lanes<S: Simd>(s: S, x: S::F) -> S::F {
    s.div(s.splat(1.0), s.add(s.splat(1.0), s.exp(s.sub(s.splat(0.0), x))))
}

struct Sigmoid<'a>(&'a mut [f32]);

impl Kernel for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for part in self.0.chunks_mut(LANES) {
            let x = load(s, part);
            store(s, sigmoid_lanes(s, x), part);
        }
    }
}

/// 2·√(2/π)·(x + 0.044715·x³)
#[inline(always)]
fn gelu_sigmoid_argument<S: Simd>(s: S, x: S::F) -> S::F {
    const TWICE_ROOT_2_BY_PI: f32 = 1.595_769;
    let cubic = s.mul(s.mul(x, x), s.mul(x, s.splat(0.044_715)));
    s.mul(s.splat(TWICE_ROOT_2_BY_PI), s.add(x, cubic))
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let max = self.0.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = s.splat(0.0);
        for part in self.0.chunks_mut(LANES) {
            let mut lanes: Lanes = [f32::NEG_INFINITY; LANES];
            lanes[..part.len()].copy_from_slice(part);
            s.store(s.exp(s.sub(s.load(&lanes), s.splat(max))), &mut lanes);
            part.copy_from_slice(&lanes[..part.len()]);
            sum = s.add(sum, s.load_part(part));
        }
        let scale = 1.0 / s.sum(sum);
        for x in self.0 {
            *x *= scale;
        }
    }
}

/// Up to sixteen numbers, zeros after them.
#[inline(always)]
pub(super) fn load<S: Simd>(s: S, from: &[f32]) -> S::F {
    match from.try_into() {
        Ok(lanes) => s.load(lanes),
        Err(_) => s.load_part(from),
    }
}

/// As many lanes as `to` takes.
#[inline(always)]
pub(super) fn store<S: Simd>(s: S, x: S::F, to: &mut [f32]) {
    if let Ok(lanes) = to.try_into() {
        s.store(x, lanes);
    } else {
        let mut lanes: Lanes = [0.0; LANES];
        s.store(x, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }
}
