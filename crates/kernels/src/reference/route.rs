//! The router of a mixture of experts.

use crate::cpu::{Gate, Routing};

/// For each token's row of `logits` the experts it goes to, the best first, and their weights.
///
/// Source of groups and bias: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, 2.1.2.
///
/// # Panics
/// Where the lengths do not fit.
pub fn route(routing: &Routing, logits: &[f32], bias: Option<&[f32]>, chosen: &mut [u32], weights: &mut [f32]) {
    let Routing { experts, used, gate, groups, groups_used, group_best, normalize, scale } = *routing;
    for (token, logits) in logits.chunks_exact(experts).enumerate() {
        let scores = match gate {
            Gate::Softmax => softmax(logits),
            Gate::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-f64::from(*x)).exp())).collect(),
            Gate::SoftmaxOfChosen => logits.iter().copied().map(f64::from).collect(),
        };
        let ranks: Vec<f64> = (0..experts).map(|e| scores[e] + bias.map_or(0.0, |bias| f64::from(bias[e]))).collect();
        let size = experts / groups;
        let mut best_groups: Vec<usize> = (0..groups).collect();
        if groups > 1 {
            let rank = |group: usize| {
                let mut ranks = ranks[group * size..][..size].to_vec();
                ranks.sort_by(|a, b| b.total_cmp(a));
                ranks.iter().take(group_best).sum::<f64>()
            };
            best_groups.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)));
            best_groups.truncate(groups_used);
        }
        let mut best: Vec<usize> = (0..experts).filter(|expert| best_groups.contains(&(expert / size))).collect();
        best.sort_by(|a, b| ranks[*b].total_cmp(&ranks[*a]));
        best.truncate(used);
        let mut weight: Vec<f64> = best.iter().map(|expert| scores[*expert]).collect();
        if gate == Gate::SoftmaxOfChosen {
            weight = softmax(&best.iter().map(|expert| logits[*expert]).collect::<Vec<_>>());
        }
        let divisor = if normalize { weight.iter().sum::<f64>() + 1e-20 } else { 1.0 };
        for (i, (expert, weight)) in best.into_iter().zip(weight).enumerate() {
            chosen[token * used + i] = expert as u32;
            weights[token * used + i] = (weight / divisor * f64::from(scale)) as f32;
        }
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}
