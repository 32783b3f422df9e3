//! `DeepSeek` V2 (<https://arxiv.org/abs/2405.04434>), V3 and R1 (<https://arxiv.org/abs/2412.19437>), Kimi K2: latent
//! attention, leading dense layers, then mixtures with shared experts. V3 chooses groups of experts first, by scores to which a
//! bias is added for the choice alone. Files name the gate from V3 on.

use kernels::cpu::RopeStyle;

use super::{Family, MixtureRules, PLAIN};

pub(crate) const DEEPSEEK2: Family = Family {
    names: &["deepseek2"],
    rope: RopeStyle::Interleaved,
    mixtures: MixtureRules { weights_normalized: false, ..PLAIN.mixtures },
    ..PLAIN
};
