//! Hunyuan A13B (<https://github.com/Tencent-Hunyuan/Hunyuan-A13B>): the heads of q and k are normed after they were turned;
//! mixtures with a shared expert.

use super::{Family, HeadNorms, PLAIN};

pub(crate) const HUNYUAN_MOE: Family = Family { names: &["hunyuan-moe"], head_norms: HeadNorms::Last, ..PLAIN };
