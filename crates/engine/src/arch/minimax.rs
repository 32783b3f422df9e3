//! `MiniMax` M2 (<https://huggingface.co/MiniMaxAI/MiniMax-M2>): norms over all heads of q and k together, half of each head
//! rotates, sigmoid gates with a bias for the choice.

use kernels::cpu::Gate;

use super::{Family, MixtureRules, PLAIN};

pub(crate) const MINIMAX_M2: Family =
    Family { names: &["minimax-m2"], mixtures: MixtureRules { gate: Gate::Sigmoid, ..PLAIN.mixtures }, ..PLAIN };
