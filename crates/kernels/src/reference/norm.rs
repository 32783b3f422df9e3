//! Root-mean-square norm, and the norm that takes the mean off.

/// Each row of `n` numbers: `out = x / sqrt(mean(x²) + eps) · weight` (no weight: 1).
///
/// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
///
/// # Panics
/// Where the lengths do not fit.
pub fn rms_norm(x: &[f32], weight: Option<&[f32]>, n: usize, eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let scale = 1.0 / (squares / n as f64 + f64::from(eps)).sqrt();
        for i in 0..n {
            let weight = weight.map_or(1.0, |w| f64::from(w[i]));
            out[i] = (f64::from(x[i]) * scale * weight) as f32;
        }
    }
}

/// Each row of `n` numbers: `x = (x − mean(x)) / sqrt(variance(x) + eps) · weight` (no weight: 1).
///
/// Source: Ba, Kiros and Hinton, "Layer Normalization", 2016, <https://arxiv.org/abs/1607.06450>. Its bias is added apart.
///
/// # Panics
/// Where the lengths do not fit.
pub fn layer_norm(x: &[f32], weight: Option<&[f32]>, n: usize, eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n as f64;
        for i in 0..n {
            let weight = weight.map_or(1.0, |w| f64::from(w[i]));
            out[i] = ((f64::from(x[i]) - mean) / (variance + f64::from(eps)).sqrt() * weight) as f32;
        }
    }
}

/// Each row of `n` numbers: `x / sqrt(Σ x² + eps)`.
pub fn l2_norm(x: &mut [f32], n: usize, eps: f32) {
    for row in x.chunks_exact_mut(n) {
        let squares: f64 = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        for x in row {
            *x = (f64::from(*x) / (squares + f64::from(eps)).sqrt()) as f32;
        }
    }
}
