//! A gated delta net as data (Gated Delta Networks, <https://arxiv.org/abs/2412.06464>; Kimi Delta Attention,
//! <https://arxiv.org/abs/2510.26692>): attention over a state of fixed size.
//!
//! Queries, keys and values pass a short convolution over time. Each head keeps a matrix that fades by decays, is corrected by
//! a key and its value as far as a beta says, and answers the query; what it answers is normed and gated.

use kernels::cpu::{DeltaShape, OutputGate};
use plan::DeltaSizes;
use tiers::RowSlice;

use super::{Linear, Vector};
use crate::arch::Family;
use crate::claims::Claims;

/// The delta net of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    /// Of queries, keys and values.
    pub(crate) parts: [Convolved; 3],
    pub(crate) rates: Rates,
    /// Added to decays before they are made from them.
    pub(crate) decay_bias: Vector,
    /// A rate for each head.
    pub(crate) decay_rate: Vector,
    /// Over each head's answer.
    pub(crate) norm: Vector,
    pub(crate) gate: Projection,
    pub(crate) gate_kind: OutputGate,
    pub(crate) shape: DeltaShape,
    /// Inputs of the convolution.
    pub(crate) taps: usize,
    /// Numbers of a head that fade each by itself.
    pub(crate) decays: usize,
    /// Numbers that it keeps: of convolutions, and of all heads' matrices.
    pub(crate) state: (usize, usize),
}

/// A projection that a convolution follows.
#[derive(Clone, Debug)]
pub(crate) struct Convolved {
    pub(crate) linear: Linear,
    /// Outputs × taps.
    pub(crate) weight: Vector,
}

/// One matrix, or two with a narrow vector between.
#[derive(Clone, Debug)]
pub(crate) enum Projection {
    Direct(Linear),
    Narrow { down: Linear, up: Linear },
}

impl Projection {
    /// The matrix that reads the layer's input.
    pub(crate) const fn first(&self) -> &Linear {
        match self {
            Self::Direct(linear) | Self::Narrow { down: linear, .. } => linear,
        }
    }

    /// The matrix that reads the narrow vector.
    pub(crate) const fn second(&self) -> Option<&Linear> {
        match self {
            Self::Direct(_) => None,
            Self::Narrow { up, .. } => Some(up),
        }
    }
}

/// What decays and betas are made of.
#[derive(Clone, Debug)]
pub(crate) enum Rates {
    Apart {
        decay: Projection,
        beta: Linear,
    },
    /// For each head of keys the betas of its heads of values, and then their decays.
    Together(Linear),
}

impl Delta {
    pub(super) fn build(family: &Family, sizes: &DeltaSizes, width: usize, claims: &mut Claims, index: usize) -> Self {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (heads, key_heads) = (sizes.heads as usize, sizes.key_heads as usize);
        let (key, value, taps) = (sizes.key as usize, sizes.value as usize, sizes.taps as usize);
        let widths = sizes.widths().map(|width| width as usize);
        let decays = if sizes.decay_each { key } else { 1 };
        let narrow = |claims: &mut Claims, part: &str, outputs: usize| {
            let (down, up) = (name(&format!("ssm_{part}_a")), name(&format!("ssm_{part}_b")));
            let down = claims.matrix(&down, width, key, true);
            Projection::Narrow { down, up: claims.matrix(&up, key, outputs, true) }
        };
        let (rates, gate, gate_kind) = if sizes.decay_each {
            let decay = narrow(claims, "f", heads * decays);
            let beta = claims.matrix(&name("ssm_beta"), width, heads, false);
            (Rates::Apart { decay, beta }, narrow(claims, "g", widths[2]), OutputGate::Sigmoid)
        } else {
            let rates = if claims.has(&name("ssm_ba.weight")) {
                Rates::Together(claims.matrix(&name("ssm_ba"), width, 2 * heads, false))
            } else {
                let decay = Projection::Direct(claims.matrix(&name("ssm_alpha"), width, heads * decays, false));
                Rates::Apart { decay, beta: claims.matrix(&name("ssm_beta"), width, heads, false) }
            };
            let gate = claims.matrix(&name("attn_gate"), width, widths[2], false);
            (rates, Projection::Direct(gate), OutputGate::Silu)
        };
        let state = sizes.state();
        let rates_dims: &[usize] = if sizes.decay_each { &[1, heads] } else { &[heads] };
        Self {
            parts: convolved(claims, index, width, widths, taps),
            rates,
            decay_bias: claims.vector(&name("ssm_dt.bias"), heads * decays),
            // A row for each head where numbers fade by themselves.
            decay_rate: claims.table(&name("ssm_a"), rates_dims),
            norm: claims.vector(&name("ssm_norm.weight"), value),
            gate,
            gate_kind,
            shape: DeltaShape { heads, key_heads, key, value, order: family.head_order },
            taps,
            decays,
            state: (state.0 as usize, state.1 as usize),
        }
    }

    /// The matrices that read the layer's input, in the order of their use: queries, keys, values, what decays and betas are
    /// made of, gates.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Linear> + Clone {
        let [q, k, v] = self.parts.each_ref().map(|part| Some(&part.linear));
        let rates = match &self.rates {
            Rates::Apart { decay, beta } => [Some(decay.first()), Some(beta)],
            Rates::Together(both) => [Some(both), None],
        };
        [q, k, v, rates[0], rates[1], Some(self.gate.first())].into_iter().flatten()
    }

    /// The matrix that joins the heads' answers.
    pub(super) fn output(claims: &mut Claims, index: usize, inputs: usize, width: usize) -> Linear {
        let own = format!("blk.{index}.ssm_out");
        let own = if claims.has(&format!("{own}.weight")) { own } else { format!("blk.{index}.attn_output") };
        claims.matrix(&own, inputs, width, true)
    }
}

/// Projections and convolutions of queries, keys and values, which come in one tensor or in three.
fn convolved(claims: &mut Claims, index: usize, width: usize, widths: [usize; 3], taps: usize) -> [Convolved; 3] {
    let name = |part: &str| format!("blk.{index}.{part}");
    if !claims.has(&name("attn_qkv.weight")) {
        let parts = [("attn_q", "q", widths[0]), ("attn_k", "k", widths[1]), ("attn_v", "v", widths[2])];
        return parts.map(|(linear, part, outputs)| Convolved {
            linear: claims.matrix(&name(linear), width, outputs, false),
            weight: claims.table(&name(&format!("ssm_conv1d_{part}.weight")), &[taps, 1, outputs]),
        });
    }
    let linears = claims.fused(&name("attn_qkv"), width, widths);
    let whole = claims.table(&name("ssm_conv1d.weight"), &[taps, widths.iter().sum()]);
    let mut first = 0;
    linears.map(|linear| {
        let rows = first as u64..(first + linear.outputs) as u64;
        first += linear.outputs;
        let slice = RowSlice { unit: whole.slice.unit, rows };
        let weight = Vector { slice, start: 0, length: linear.outputs * taps };
        Convolved { linear, weight }
    })
}
