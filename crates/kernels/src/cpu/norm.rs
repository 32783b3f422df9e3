//! Root-mean-square norm, the norm that takes the mean off, and that of length.

use super::Pool;
use super::isa::Kernel;
use super::simd::{LANES, Simd, lanes};

/// Numbers of one task: below this a second thread costs more than it brings.
const TASK_NUMBERS: usize = 16 * 1024;

/// Each row of `n` numbers: `out = x / sqrt(mean(x²) + eps) · weight` (no weight: 1).
///
/// # Panics
/// Where `x` and `out` differ in length or are not rows of `n`, or the weight is not `n` long.
pub fn rms_norm(pool: &Pool, x: &[f32], weight: Option<&[f32]>, n: usize, eps: f32, out: &mut [f32]) {
    check(x.len(), weight, n);
    assert_eq!(x.len(), out.len(), "a norm's input and output");
    let piece = (TASK_NUMBERS / n).max(1) * n;
    pool.run_pieces(out, piece, &|i, out| {
        out.copy_from_slice(&x[i * piece..][..out.len()]);
        pool.isa().run(Norm { x: out, weight, n, over: n as f32, eps });
    });
}

/// As [`rms_norm`], in place: with the head's width as `n` it is the norm of queries and keys.
///
/// # Panics
/// As [`rms_norm`].
pub fn rms_norm_in_place(pool: &Pool, x: &mut [f32], weight: Option<&[f32]>, n: usize, eps: f32) {
    check(x.len(), weight, n);
    let piece = (TASK_NUMBERS / n).max(1) * n;
    pool.run_pieces(x, piece, &|_, x| pool.isa().run(Norm { x, weight, n, over: n as f32, eps }));
}

/// Each row of `n` numbers becomes `x / sqrt(Σ x² + eps)`: of length 1.
///
/// # Panics
/// Where `x` is not rows of `n`.
pub fn l2_norm_in_place(pool: &Pool, x: &mut [f32], n: usize, eps: f32) {
    check(x.len(), None, n);
    let piece = (TASK_NUMBERS / n).max(1) * n;
    pool.run_pieces(x, piece, &|_, x| pool.isa().run(Norm { x, weight: None, n, over: 1.0, eps }));
}

/// Each row of `n` numbers: `x = (x − mean(x)) / sqrt(variance(x) + eps) · weight` (no weight: 1).
///
/// Scalar, with sums in `f64`: the one vector of a token that is normed so (an indexer's key) is short.
///
/// # Panics
/// As [`rms_norm`].
pub fn layer_norm_in_place(pool: &Pool, x: &mut [f32], weight: Option<&[f32]>, n: usize, eps: f32) {
    check(x.len(), weight, n);
    let piece = (TASK_NUMBERS / n).max(1) * n;
    pool.run_pieces(x, piece, &|_, x| {
        for row in x.chunks_exact_mut(n) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64;
            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
            for (i, x) in row.iter_mut().enumerate() {
                let normed = ((f64::from(*x) - mean) * scale) as f32;
                *x = weight.map_or(normed, |weight| normed * weight[i]);
            }
        }
    });
}

fn check(length: usize, weight: Option<&[f32]>, n: usize) {
    assert!(n > 0 && length.is_multiple_of(n), "{length} numbers are not rows of {n}");
    assert!(weight.is_none_or(|w| w.len() == n), "a norm's weight is not {n} long");
}

struct Norm<'a> {
    x: &'a mut [f32],
    weight: Option<&'a [f32]>,
    n: usize,
    /// What the sum of squares is divided by.
    over: f32,
    eps: f32,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.n) {
            let squares = sum_of_squares(s, row);
            let scale = 1.0 / (squares / self.over + self.eps).sqrt();
            if let Some(weight) = self.weight {
                for (x, w) in row.iter_mut().zip(weight) {
                    *x = *x * scale * w;
                }
            } else {
                for x in row {
                    *x *= scale;
                }
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, row: &[f32]) -> f32 {
    // Four sums side by side: one would wait for itself.
    const SUMS: usize = 4;
    let mut sums = [s.splat(0.0); SUMS];
    let (whole, rest) = lanes(row);
    for group in whole.chunks(SUMS) {
        for (sum, x) in sums.iter_mut().zip(group) {
            let x = s.load(x);
            *sum = s.mul_add(x, x, *sum);
        }
    }
    debug_assert!(rest.len() < LANES);
    let rest = s.load_part(rest);
    let rest = s.mul(rest, rest);
    s.sum(s.add(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])), rest))
}
