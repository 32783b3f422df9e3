//! GLM 4.5 (<https://arxiv.org/abs/2508.06471>): half of each head rotates, biases on q, k and v, `DeepSeek` V3's mixtures; the
//! norm before the feed-forward network is called `post_attention_norm`.

use kernels::cpu::Gate;

use super::{Family, FfnNorm, MixtureRules, PLAIN};

pub(crate) const GLM4_MOE: Family = Family {
    names: &["glm4moe"],
    ffn_norm: FfnNorm::PostAttention,
    mixtures: MixtureRules { gate: Gate::Sigmoid, weights_normalized: false, weighs_input: false },
    ..PLAIN
};
