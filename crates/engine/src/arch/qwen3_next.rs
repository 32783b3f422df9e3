//! Qwen3-Next and Qwen 3.5, dense and mixtures (<https://qwen.ai/blog?id=qwen3-next>): three layers with a gated delta net
//! (<https://arxiv.org/abs/2412.06464>) to one with attention, whose output is gated. Converters have the heads of Qwen 3.5's
//! values in another order.

use kernels::cpu::HeadOrder;

use super::{Family, FfnNorm, PLAIN};

pub(crate) const QWEN3_NEXT: Family =
    Family { names: &["qwen3next"], ffn_norm: FfnNorm::PostAttention, gated_heads: true, ..PLAIN };

pub(crate) const QWEN3_5: Family =
    Family { names: &["qwen35", "qwen35moe"], head_order: HeadOrder::Tiled, ..QWEN3_NEXT };
