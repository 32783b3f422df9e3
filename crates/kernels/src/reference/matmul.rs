//! Quantized matrices times columns of activations, which are rounded to 8 bits where the weights are not floats.

use plan::QuantType;

use super::dequantize;
use crate::cpu::{Job, WeightedJob, in_integers};

/// `out[t·out_stride + out_offset + r] = Σ_k w[r][k]·x[t][k]` for `rows` rows of `row_elements` numbers and `m` columns;
/// `x` is `m × row_elements`, row by row. For types that are multiplied [in integers](in_integers) each column is
/// [rounded] first.
///
/// # Panics
/// Where the type is not supported or a slice is too short.
#[allow(clippy::too_many_arguments)]
pub fn matmul(
    quant: QuantType,
    weights: &[u8],
    rows: usize,
    row_elements: usize,
    x: &[f32],
    m: usize,
    out: &mut [f32],
    out_stride: usize,
    out_offset: usize,
) {
    let row_bytes = row_elements / quant.block_elements() * quant.block_bytes();
    let mut row = vec![0.0; row_elements];
    let x = if in_integers(quant) { rounded(&x[..m * row_elements], row_elements) } else { x.to_vec() };
    for r in 0..rows {
        dequantize(quant, &weights[r * row_bytes..][..row_bytes], &mut row);
        for t in 0..m {
            let column = &x[t * row_elements..][..row_elements];
            let sum: f64 = row.iter().zip(column).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            out[t * out_stride + out_offset + r] = sum as f32;
        }
    }
}

/// Columns of `width` numbers as 8-bit codes times a scale for each 32 of them, the largest magnitude over 127: the rule of
/// `Q8_0`.
#[must_use]
pub fn rounded(x: &[f32], width: usize) -> Vec<f32> {
    let round = |run: &[f32]| {
        let largest = run.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        run.iter().map(|x| (x * inverse).round_ties_even() * (largest / 127.0)).collect::<Vec<f32>>()
    };
    x.chunks(width).flat_map(|column| column.chunks(32).flat_map(round)).collect()
}

/// `out[to + r] = Σ_k w[r][k]·x[from + k]` for each job's rows and columns.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_jobs(jobs: &[Job], row_elements: usize, x: &[f32], out: &mut [f32]) {
    for Job { quant, weights, rows, columns } in jobs {
        for column in (0..columns.len()).map(|i| columns.at(i)) {
            let (x, out) = (&x[column.from..], &mut out[column.to..]);
            matmul(*quant, weights, *rows, row_elements, x, 1, out, *rows, 0);
        }
    }
}

/// `out[to + r] += weight·Σ_k w[r][k]·x[from + k]` for the jobs in order and each job's columns in order.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_weighted(jobs: &[WeightedJob], row_elements: usize, x: &[f32], out: &mut [f32]) {
    for WeightedJob { quant, weights, rows, columns } in jobs {
        let mut products = vec![0.0; *rows];
        for column in *columns {
            matmul(*quant, weights, *rows, row_elements, &x[column.from..], 1, &mut products, *rows, 0);
            for (r, product) in products.iter().enumerate() {
                let out = &mut out[column.to + r];
                *out = (f64::from(*out) + f64::from(column.weight) * f64::from(*product)) as f32;
            }
        }
    }
}

/// `out[to + l] = Σ_j x[from + j]·w[j][l]` over the rows j of each job; with `add`, added to what is there.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_transposed(jobs: &[Job], row_elements: usize, x: &[f32], out: &mut [f32], add: bool) {
    for Job { quant, weights, rows, columns } in jobs {
        let mut w = vec![0.0; rows * row_elements];
        dequantize(*quant, &weights[..w.len() / quant.block_elements() * quant.block_bytes()], &mut w);
        for column in (0..columns.len()).map(|i| columns.at(i)) {
            for l in 0..row_elements {
                let out = &mut out[column.to + l];
                let before = if add { f64::from(*out) } else { 0.0 };
                let product = |j: usize| f64::from(x[column.from + j]) * f64::from(w[j * row_elements + l]);
                *out = (before + (0..*rows).map(product).sum::<f64>()) as f32;
            }
        }
    }
}
