//! GLM-5 (<https://arxiv.org/abs/2602.15763>): `DeepSeek` V3.2's layers, with indexers that pair neighbours for their turns.
//! From 5.2 on, with a million tokens of context, most layers take the choice of one before them
//! (<https://arxiv.org/abs/2603.12201>).

use kernels::cpu::RopeStyle;

use super::Family;
use super::deepseek32::DEEPSEEK32;
use crate::spec::IndexerRules;

pub(crate) const GLM_DSA: Family = Family {
    names: &["glm-dsa"],
    indexer: Some(IndexerRules { style: RopeStyle::Interleaved, shared_from: Some(1 << 20) }),
    ..DEEPSEEK32
};
