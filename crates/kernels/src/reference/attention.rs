//! Causal attention with grouped heads.

use crate::cpu::{AttentionShape, Sight};

/// Query `i` stands at `first_position + i` and sees positions up to its own (within window, chunk and selection).
///
/// `q` is m × heads × `dim_k`, `k` and `v` are positions × `kv_heads` × dim, `out` is m × heads × `dim_v`.
pub fn attention(
    shape: &AttentionShape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    first_position: usize,
    sight: &Sight,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = *shape;
    let m = q.len() / (heads * dim_k);
    for i in 0..m {
        let last = first_position + i;
        let from_window = shape.window.map_or(0, |w| (last + 1).saturating_sub(w as usize));
        let from_chunk = sight.chunk.map_or(0, |chunk| last / chunk as usize * chunk as usize);
        let words = sight.selected.map(|words| &words[i * (words.len() / m)..][..words.len() / m]);
        let selected = |p: &usize| words.is_none_or(|words| words[p / 64] >> (p % 64) & 1 == 1);
        let seen: Vec<usize> = (from_window.max(from_chunk)..=last).filter(selected).collect();
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let query = &q[(i * heads + head) * dim_k..][..dim_k];
            let score = |p: &usize| {
                let key = &k[(p * kv_heads + kv_head) * dim_k..][..dim_k];
                let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let score = dot * f64::from(shape.scale);
                shape.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let scores: Vec<f64> = seen.iter().map(score).collect();
            let sink = sight.sinks.map(|s| f64::from(s[head]));
            let max = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().copied().chain(sink).map(|s| (s - max).exp()).sum();
            for d in 0..dim_v {
                let sum: f64 = seen
                    .iter()
                    .zip(&scores)
                    .map(|(p, s)| (s - max).exp() * f64::from(v[(p * kv_heads + kv_head) * dim_v + d]))
                    .sum();
                out[(i * heads + head) * dim_v + d] = if total == 0.0 { 0.0 } else { (sum / total) as f32 };
            }
        }
    }
}
