//! Qwen 2 and 2.5, R1-Distill-Qwen (<https://arxiv.org/abs/2407.10671>): biases on q, k and v.

use super::{Family, PLAIN};

pub(crate) const QWEN2: Family = Family { names: &["qwen2"], ..PLAIN };
