//! The router of a mixture: which experts a token goes to, and how much each counts.
//!
//! Scalar: a few hundred numbers a token. Chosen experts are kept in order while the others pass by, so nothing is
//! allocated.

use std::cmp::Ordering;

use super::scale;

/// Groups that [`route`] can rank.
const GROUPS_MAX: usize = 64;
/// Best scores of a group that can be summed.
const GROUP_BEST_MAX: usize = 8;
/// Keeps a sum of weights that all vanished from dividing by zero (DeepSeek-V3's reference code adds the same).
const LEAST_SUM: f32 = 1e-20;

/// What turns a router's logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Softmax over all experts (Mixtral, Qwen, DeepSeek-V2).
    Softmax,
    /// Each on its own (DeepSeek-V3, Llama 4).
    Sigmoid,
    /// Experts are ranked by their logits; the weights are the softmax over the chosen ones (gpt-oss).
    SoftmaxOfChosen,
}

/// The rules by which experts are chosen and weighted.
///
/// Source of groups and bias: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, <https://arxiv.org/abs/2412.19437>, 2.1.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token goes to.
    pub used: usize,
    /// Logits to scores.
    pub gate: Gate,
    /// Groups of neighbouring experts, of the same size each; 1: no groups.
    pub groups: usize,
    /// The best groups, outside of which no expert is chosen.
    pub groups_used: usize,
    /// How many of a group's best scores are summed to rank it.
    pub group_best: usize,
    /// Whether a token's weights are divided by their sum.
    pub normalize: bool,
    /// What weights are multiplied with at last.
    pub scale: f32,
}

impl Routing {
    /// The rules of the report above as its model has them, by which routers are measured: eight of 256 experts, in eight groups of which four serve.
    pub const GROUPED: Self = Self {
        experts: 256,
        used: 8,
        gate: Gate::Sigmoid,
        groups: 8,
        groups_used: 4,
        group_best: 2,
        normalize: true,
        scale: 2.5,
    };
}

/// For each token's row of `logits` (m × experts) the experts it goes to and their weights (m × used each).
///
/// Experts are ranked by score + `bias` (one for each expert), the best first, of equals the lower index first; the
/// weights come from the scores alone. Where logits are no numbers, neither are the weights.
///
/// # Panics
/// Where the rules ask for more than there is (experts, groups of equal size, experts within the chosen groups; at most
/// 64 groups, ranked by at most 8 scores), or a slice's length does not fit.
pub fn route(routing: &Routing, logits: &[f32], bias: Option<&[f32]>, chosen: &mut [u32], weights: &mut [f32]) {
    let Routing { experts, used, .. } = *routing;
    check(routing);
    let tokens = logits.len() / experts;
    assert_eq!(logits.len(), tokens * experts, "logits are not rows of {experts}");
    assert!(chosen.len() == tokens * used && weights.len() == tokens * used, "{tokens} tokens, {used} experts each");
    assert!(bias.is_none_or(|bias| bias.len() == experts), "a bias is not one for each of {experts} experts");
    let rows = chosen.chunks_exact_mut(used).zip(weights.chunks_exact_mut(used));
    for (logits, (chosen, weights)) in logits.chunks_exact(experts).zip(rows) {
        let scores = Scores::new(routing.gate, logits, bias);
        choose(routing, &scores, chosen, weights);
        weigh(routing, &scores, chosen, weights);
    }
}

/// Whether the rules can be followed; see [`route`].
pub(crate) fn check(routing: &Routing) {
    let Routing { experts, used, groups, groups_used, group_best, .. } = *routing;
    assert!(0 < used && used <= experts && u32::try_from(experts).is_ok(), "{used} of {experts} experts");
    assert!(0 < groups && groups <= GROUPS_MAX && experts.is_multiple_of(groups), "{experts} experts, {groups} groups");
    if groups > 1 {
        assert!(0 < groups_used && groups_used <= groups, "{groups_used} of {groups} groups");
        let within = groups_used * (experts / groups);
        assert!(used <= within, "{used} experts of {within} in the chosen groups");
        assert!(group_best <= GROUP_BEST_MAX, "the best {group_best} scores of a group");
    }
}

/// One token's scores.
struct Scores<'a> {
    gate: Gate,
    logits: &'a [f32],
    bias: Option<&'a [f32]>,
    /// The largest logit, and the sum of the powers relative to it.
    max: f32,
    sum: f32,
}

impl<'a> Scores<'a> {
    fn new(gate: Gate, logits: &'a [f32], bias: Option<&'a [f32]>) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum = if gate == Gate::Softmax { logits.iter().map(|logit| (logit - max).exp()).sum() } else { 1.0 };
        Self { gate, logits, bias, max, sum }
    }

    fn score(&self, expert: usize) -> f32 {
        let logit = self.logits[expert];
        match self.gate {
            Gate::Softmax => (logit - self.max).exp() / self.sum,
            Gate::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
            Gate::SoftmaxOfChosen => logit,
        }
    }

    /// What an expert is chosen by. What is no number ranks last.
    fn rank(&self, expert: usize) -> f32 {
        let rank = self.score(expert) + self.bias.map_or(0.0, |bias| bias[expert]);
        if rank.is_nan() { f32::NEG_INFINITY } else { rank }
    }
}

/// The best experts within the best groups; `ranks` has room for what they were chosen by.
fn choose(routing: &Routing, scores: &Scores, chosen: &mut [u32], ranks: &mut [f32]) {
    let Routing { experts, groups, groups_used, group_best, .. } = *routing;
    let size = experts / groups;
    let mut best_groups = [0; GROUPS_MAX];
    let mut count = groups;
    if groups > 1 {
        let mut group_ranks = [0.0; GROUPS_MAX];
        let rank = |group: usize| {
            let mut best = ([0; GROUP_BEST_MAX], [0.0; GROUP_BEST_MAX]);
            let best = (&mut best.0[..group_best.min(size)], &mut best.1[..group_best.min(size)]);
            best_of((group * size..(group + 1) * size).map(|expert| (expert, scores.rank(expert))), best.0, best.1);
            best.1.iter().sum()
        };
        count = groups_used;
        best_of((0..groups).map(|group| (group, rank(group))), &mut best_groups[..count], &mut group_ranks[..count]);
    }
    let groups = &mut best_groups[..count];
    // Of equals the lower index is to come first, so they pass by in order.
    groups.sort_unstable();
    let experts = groups.iter().flat_map(|group| *group as usize * size..(*group as usize + 1) * size);
    best_of(experts.map(|expert| (expert, scores.rank(expert))), chosen, ranks);
}

/// The best of what passes by, best first; of equals what came first. At least as many must come as there is room for.
fn best_of(all: impl Iterator<Item = (usize, f32)>, best: &mut [u32], ranks: &mut [f32]) {
    let mut count = 0;
    for (index, rank) in all {
        let place = ranks[..count].partition_point(|other| other.partial_cmp(&rank) != Some(Ordering::Less));
        if place == best.len() {
            continue;
        }
        count = (count + 1).min(best.len());
        best[place..count].rotate_right(1);
        ranks[place..count].rotate_right(1);
        (best[place], ranks[place]) = (index as u32, rank);
    }
}

fn weigh(routing: &Routing, scores: &Scores, chosen: &[u32], weights: &mut [f32]) {
    for (weight, expert) in weights.iter_mut().zip(chosen) {
        *weight = scores.score(*expert as usize);
    }
    if routing.gate == Gate::SoftmaxOfChosen {
        let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for weight in &mut *weights {
            *weight = (*weight - max).exp();
        }
        let sum: f32 = weights.iter().sum();
        divide(weights, sum);
    }
    if routing.normalize {
        let sum: f32 = weights.iter().sum();
        divide(weights, sum + LEAST_SUM);
    }
    scale(weights, routing.scale);
}

fn divide(weights: &mut [f32], by: f32) {
    for weight in weights {
        *weight /= by;
    }
}
