//! The inner loop: some rows times some columns, all sums in registers.

use crate::cpu::simd::{LANES, Simd, lanes};

/// The products of `R` rows with `M` columns of the same length, each summed in the order that the parent module describes.
#[inline(always)]
pub(in crate::cpu) fn dot_tile<S: Simd, const R: usize, const M: usize>(
    s: S,
    w: [&[f32]; R],
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    let length = w[0].len();
    let whole = length / LANES;
    let w_lanes = w.map(|w| &lanes(w).0[..whole]);
    let x_lanes = x.map(|x| &lanes(x).0[..whole]);
    let mut sums = [[s.splat(0.0); M]; R];
    let mut column = [s.splat(0.0); M];
    for k in 0..whole {
        for (column, x) in column.iter_mut().zip(&x_lanes) {
            *column = s.load(&x[k]);
        }
        for (sums, w) in sums.iter_mut().zip(&w_lanes) {
            add_products(s, s.load(&w[k]), &column, sums);
        }
    }
    if whole * LANES < length {
        for (column, x) in column.iter_mut().zip(&x) {
            *column = s.load_part(&x[whole * LANES..]);
        }
        for (sums, w) in sums.iter_mut().zip(&w) {
            add_products(s, s.load_part(&w[whole * LANES..]), &column, sums);
        }
    }
    let mut totals = [[0.0; M]; R];
    for (totals, sums) in totals.iter_mut().zip(&sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = s.sum(*sum);
        }
    }
    totals
}

/// One step of a row: `sums[c] += w·x[c]`.
#[inline(always)]
fn add_products<S: Simd, const M: usize>(s: S, w: S::F, x: &[S::F; M], sums: &mut [S::F; M]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = s.mul_add(w, *x, *sum);
    }
}
