//! Qwen 2 and 2.5, R1-Distill-Qwen (<https://arxiv.org/abs/2407.10671>): biases on q, k and v. The mixtures of Qwen 1.5 and
//! 2 (section 2.2.2 there) have a gated shared expert, and leave the chosen experts' weights as the softmax gave them.

use super::{Family, MixtureRules, PLAIN};

pub(crate) const QWEN2: Family = Family { names: &["qwen2"], ..PLAIN };

pub(crate) const QWEN2_MOE: Family =
    Family { names: &["qwen2moe"], mixtures: MixtureRules { weights_normalized: false, ..PLAIN.mixtures }, ..PLAIN };
