//! dots.llm1 (<https://arxiv.org/abs/2506.05767>): Qwen 3's attention with `DeepSeek` V3's mixtures.

use kernels::cpu::Gate;

use super::{Family, MixtureRules, PLAIN};

pub(crate) const DOTS1: Family = Family {
    names: &["dots1"],
    mixtures: MixtureRules { gate: Gate::Sigmoid, weights_normalized: false, weighs_input: false },
    ..PLAIN
};
