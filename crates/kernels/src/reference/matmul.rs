//! A quantized matrix times columns of activations.

use plan::QuantType;

use super::dequantize;

/// `out[t·out_stride + out_offset + r] = Σ_k w[r][k]·x[t][k]` for `rows` rows of `row_elements` numbers and `m` columns;
/// `x` is `m × row_elements`, row by row.
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
    for r in 0..rows {
        dequantize(quant, &weights[r * row_bytes..][..row_bytes], &mut row);
        for t in 0..m {
            let column = &x[t * row_elements..][..row_elements];
            let sum: f64 = row.iter().zip(column).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            out[t * out_stride + out_offset + r] = sum as f32;
        }
    }
}
