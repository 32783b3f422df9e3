//! Kimi Linear (<https://arxiv.org/abs/2510.26692>): three layers with a delta net, in which each number of a key fades by
//! itself, to one with latent attention, which knows no positions.

use kernels::cpu::Gate;

use super::{Family, MixtureRules, PLAIN};

pub(crate) const KIMI_LINEAR: Family = Family {
    names: &["kimi-linear"],
    knows_positions: false,
    mixtures: MixtureRules { gate: Gate::Sigmoid, ..PLAIN.mixtures },
    ..PLAIN
};
