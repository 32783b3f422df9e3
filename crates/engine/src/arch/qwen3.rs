//! Qwen 3 (<https://arxiv.org/abs/2505.09388>), dense and mixtures: norms on the heads of q and k.

use super::{Family, PLAIN};

pub(crate) const QWEN3: Family = Family { names: &["qwen3", "qwen3moe"], ..PLAIN };
