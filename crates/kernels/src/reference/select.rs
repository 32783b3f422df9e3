//! The choice of the positions that sparse attention looks at.

use crate::cpu::SelectShape;

/// For each token a row of words with a bit for each of the best positions up to its own; of equals the lower ones.
///
/// `q` is m × heads × dim, `weights` m × heads, `k` positions × dim, `selected` m rows of words. What is no number ranks last.
///
/// Source: DeepSeek-AI, "DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models", 2025,
/// <https://arxiv.org/abs/2512.02556>, 2.1.
///
/// # Panics
/// Where the lengths do not fit.
pub fn select(shape: &SelectShape, q: &[f32], weights: &[f32], k: &[f32], first_position: usize, selected: &mut [u64]) {
    let SelectShape { heads, dim, top_k } = *shape;
    let m = weights.len() / heads;
    let words = selected.len() / m;
    for (i, row) in selected.chunks_exact_mut(words).enumerate() {
        let score = |p: usize| -> f64 {
            let head = |h: usize| {
                let pairs = q[(i * heads + h) * dim..][..dim].iter().zip(&k[p * dim..][..dim]);
                let dot: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                f64::from(weights[i * heads + h]) * if dot.is_nan() { dot } else { dot.max(0.0) }
            };
            let sum = (0..heads).map(head).sum::<f64>();
            if sum.is_nan() { f64::NEG_INFINITY } else { sum }
        };
        let scores: Vec<f64> = (0..=first_position + i).map(score).collect();
        let mut best: Vec<usize> = (0..scores.len()).collect();
        best.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).expect("no NaN is left").then(a.cmp(b)));
        row.fill(0);
        for p in best.into_iter().take(top_k) {
            row[p / 64] |= 1 << (p % 64);
        }
    }
}
