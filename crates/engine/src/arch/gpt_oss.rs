//! gpt-oss (<https://arxiv.org/abs/2508.10925>): every other layer has a window, attention has sinks, every matrix a bias, and
//! the weights of experts are a softmax over those chosen.

use kernels::cpu::Gate;

use super::{Activation, Family, FfnNorm, Locality, MixtureRules, PLAIN};

pub(crate) const GPT_OSS: Family = Family {
    names: &["gpt-oss"],
    activation: Activation::SwigluClamped,
    ffn_norm: FfnNorm::PostAttention,
    locality: Locality::Windows { global_every: 2, own_rope: false },
    mixtures: MixtureRules { gate: Gate::SoftmaxOfChosen, weights_normalized: false, weighs_input: false },
    ..PLAIN
};
