//! Phi 3 and 4 mini (<https://arxiv.org/abs/2404.14219>): fused q, k, v and fused gate and up; long contexts by two sets
//! of rope factors.

use super::{Family, PLAIN};

pub(crate) const PHI3: Family = Family { names: &["phi3"], ..PLAIN };
