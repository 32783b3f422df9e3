//! `DeepSeek` V3.2 (<https://arxiv.org/abs/2512.02556>): V3 whose tokens attend to the best positions by an indexer in each
//! layer. The indexer pairs halves of a head for its turns, where latent attention pairs neighbours.

use kernels::cpu::{Gate, RopeStyle};

use super::deepseek2::DEEPSEEK2;
use super::{Family, MixtureRules};
use crate::spec::IndexerRules;

pub(crate) const DEEPSEEK32: Family = Family {
    names: &["deepseek32"],
    indexer: Some(IndexerRules { style: RopeStyle::Half, shared_from: None }),
    mixtures: MixtureRules { gate: Gate::Sigmoid, ..DEEPSEEK2.mixtures },
    ..DEEPSEEK2
};
