//! One layer's feed-forward network as data: dense, or a mixture of experts.

use plan::UnitId;
use tiers::RowSlice;

use super::{ExpertSizes, Linear, Sizes, Vector};
use crate::arch::{Activation, Family, FfnNorm};
use crate::claims::Claims;
use kernels::cpu::Routing;

/// One layer's feed-forward network.
#[derive(Clone, Debug)]
pub(crate) enum Ffn {
    Dense(Box<Dense>),
    Mixture(Box<Mixture>),
}

/// `down(activation(gate(x)) · up(x))`, for every token.
#[derive(Clone, Debug)]
pub(crate) struct GatedUnit {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// A gated network that every token passes.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    pub(crate) norm: Vector,
    pub(crate) unit: GatedUnit,
    pub(crate) activation: Activation,
    pub(crate) post_norm: Option<Vector>,
}

/// A router, the experts among which it chooses, and perhaps one that every token passes besides.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    pub(crate) norm: Vector,
    pub(crate) router: Linear,
    /// Added to scores for the choice alone.
    pub(crate) selection_bias: Option<Vector>,
    pub(crate) routing: Routing,
    pub(crate) experts: Vec<Expert>,
    /// Inner width of an expert.
    pub(crate) inner: usize,
    pub(crate) shared: Option<Shared>,
    pub(crate) activation: Activation,
    /// Whether an expert's input is weighed instead of its output.
    pub(crate) weighs_input: bool,
}

/// The matrices of one routed expert.
#[derive(Clone, Debug)]
pub(crate) struct Expert {
    pub(crate) gate: RowSlice,
    pub(crate) up: RowSlice,
    pub(crate) down: RowSlice,
    /// Of gate, up and down.
    pub(crate) biases: Option<[UnitId; 3]>,
}

/// The expert that every token passes.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) unit: GatedUnit,
    /// Its output is multiplied by the sigmoid of this one number.
    pub(crate) gate: Option<Linear>,
}

impl Ffn {
    pub(super) fn build(family: &Family, sizes: &Sizes, claims: &mut Claims, index: usize) -> Self {
        let name = |part: &str| format!("blk.{index}.{part}");
        let norm = match family.ffn_norm {
            FfnNorm::Own => name("ffn_norm.weight"),
            FfnNorm::PostAttention => name("post_attention_norm.weight"),
        };
        let norm = claims.vector(&norm, sizes.width);
        // Any part of a mixture makes it one, so that a part that is missing is named.
        let parts = ["ffn_gate_inp.weight", "ffn_gate_exps.weight", "ffn_down_exps.weight", "ffn_gate.0.weight"];
        if let Some(experts) = sizes.experts.as_ref().filter(|_| parts.iter().any(|part| claims.has(&name(part)))) {
            return Self::Mixture(Box::new(Mixture::build(family, sizes, experts, claims, index, norm)));
        }
        let unit = GatedUnit::build(claims, index, "", sizes.width, sizes.feed_forward[index] as usize);
        let post_norm = claims.optional(&name("post_ffw_norm.weight"), sizes.width);
        Self::Dense(Box::new(Dense { norm, unit, activation: family.activation, post_norm }))
    }

    /// Whether its experts are known only when its router has chosen.
    pub(crate) const fn chooses(&self) -> bool {
        matches!(self, Self::Mixture(_))
    }
}

impl GatedUnit {
    fn build(claims: &mut Claims, index: usize, suffix: &str, width: usize, inner: usize) -> Self {
        let name = |part: &str| format!("blk.{index}.{part}{suffix}");
        let [gate, up] = if claims.has(&format!("{}.weight", name("ffn_gate"))) {
            let parts = [name("ffn_gate"), name("ffn_up")];
            std::array::from_fn(|i| claims.matrix(&parts[i], width, inner, true))
        } else {
            claims.fused(&name("ffn_up"), width, [inner, inner])
        };
        Self { gate, up, down: claims.matrix(&name("ffn_down"), inner, width, true) }
    }
}

impl Mixture {
    /// The matrices that every token's input meets, in the order in which their outputs lie side by side: gate and up of the
    /// shared expert, the router, and the shared expert's own gate.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Linear> + Clone {
        self.parts().into_iter().flatten()
    }

    /// Outputs of each of them, 0 for one that is not there.
    pub(crate) fn widths(&self) -> [usize; 4] {
        self.parts().map(|part| part.map_or(0, |matrix| matrix.outputs))
    }

    fn parts(&self) -> [Option<&Linear>; 4] {
        let unit = self.shared.as_ref().map(|shared| &shared.unit);
        let gate = self.shared.as_ref().and_then(|shared| shared.gate.as_ref());
        [unit.map(|unit| &unit.gate), unit.map(|unit| &unit.up), Some(&self.router), gate]
    }

    fn build(
        family: &Family,
        sizes: &Sizes,
        mixture: &ExpertSizes,
        claims: &mut Claims,
        index: usize,
        norm: Vector,
    ) -> Self {
        let name = |part: &str| format!("blk.{index}.{part}");
        let routing = mixture.routing(index).unwrap_or_else(|why| {
            claims.refuse(&format!("layer {index}: {why}"));
            mixture.any_routing()
        });
        let (width, inner, count) = (sizes.width, mixture.inner, routing.experts);
        let shared = claims.has(&name("ffn_down_shexp.weight")).then(|| {
            let gate = name("ffn_gate_inp_shexp");
            Shared {
                unit: GatedUnit::build(claims, index, "_shexp", width, mixture.shared),
                gate: claims.has(&format!("{gate}.weight")).then(|| claims.row(&gate, width)),
            }
        });
        Self {
            norm,
            router: claims.matrix(&name("ffn_gate_inp"), width, count, true),
            selection_bias: claims.optional(&name("exp_probs_b.bias"), count),
            routing,
            experts: experts(claims, index, width, inner, count),
            inner,
            shared,
            activation: family.activation,
            weighs_input: family.mixtures.weighs_input,
        }
    }
}

/// The matrices of all experts, which come in one tensor for each of gate, up and down, in one for gate and up together, or
/// (in the oldest files) in a tensor each.
fn experts(claims: &mut Claims, index: usize, width: usize, inner: usize, count: usize) -> Vec<Expert> {
    let name = |part: &str| format!("blk.{index}.{part}");
    let whole =
        |unit: UnitId, rows: std::ops::Range<usize>| RowSlice { unit, rows: rows.start as u64..rows.end as u64 };
    let fused = name("ffn_gate_up_exps.weight");
    let parts = if claims.has(&fused) {
        let both = claims.experts(&name("ffn_gate_up"), &[width, 2 * inner], count);
        [both.clone(), both, claims.experts(&name("ffn_down"), &[inner, width], count)]
    } else {
        [("ffn_gate", [width, inner]), ("ffn_up", [width, inner]), ("ffn_down", [inner, width])]
            .map(|(part, dims)| claims.experts(&name(part), &dims, count))
    };
    let up_rows = if claims.has(&fused) { inner..2 * inner } else { 0..inner };
    let biases = claims.has(&name("ffn_down_exps.bias")).then(|| {
        [("ffn_gate_exps.bias", inner), ("ffn_up_exps.bias", inner), ("ffn_down_exps.bias", width)]
            .map(|(part, length)| claims.expert_vectors(&name(part), length, count))
    });
    let expert = |e: usize| Expert {
        gate: whole(parts[0][e], 0..inner),
        up: whole(parts[1][e], up_rows.clone()),
        down: whole(parts[2][e], 0..width),
        biases: biases.as_ref().map(|lists| lists.each_ref().map(|list| list[e])),
    };
    (0..count).map(expert).collect()
}
