//! ERNIE 4.5 mixtures (<https://ernie.baidu.com/blog/publication/ERNIE_Technical_Report.pdf>): softmax gates with a bias for
//! the choice, shared experts, leading dense layers.

use kernels::cpu::RopeStyle;

use super::{Family, PLAIN};

pub(crate) const ERNIE4_5_MOE: Family = Family { names: &["ernie4_5-moe"], rope: RopeStyle::Interleaved, ..PLAIN };
