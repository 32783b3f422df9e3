//! Gated delta nets; see [`crate::spec::Delta`] for what they compute.

use candle_core::Tensor;
use kernels::cpu::{self, DeltaInputs};

use super::{Pass, Result};
use crate::ops::{AddVector, Sigmoid};
use crate::span::{Span, with_all};
use crate::spec::{Attention, Delta, Projection, Rates};
use crate::state::DeltaState;
use crate::steps::Register;

/// What keeps the length of a query or key from vanishing.
const LENGTH_EPS: f32 = 1e-6;

/// What the matrices that read the layer's input made.
struct Made {
    /// Queries, keys and values.
    parts: [Span; 3],
    /// Decays and betas, or both together and nothing; decays may be narrow yet.
    rates: [Span; 2],
    /// Gates, which may be narrow yet.
    gate: Span,
}

impl Pass<'_> {
    /// attended = what the states answer to `normed`, which changes them.
    pub(super) fn delta_net(
        &mut self,
        a: &Attention,
        d: &Delta,
        normed: &Span,
        attended: &Span,
        state: &mut DeltaState,
    ) -> Result<()> {
        let (pool, shape) = (self.pool, &d.shape);
        let turn = state.next();
        let (all, made) = self.made(d);
        self.linears(d.inputs(), normed, &all)?;
        let mut inputs = turn.inputs;
        for (part, x) in d.parts.iter().zip(&made.parts) {
            self.load(&part.weight)?;
            let tail;
            (tail, inputs) = inputs.split_at_mut((d.taps - 1) * part.linear.outputs);
            let weight = &self.scratch.vector[..part.weight.length];
            x.with_mut(|x| cpu::short_conv(pool, x, weight, d.taps, tail))?;
        }
        let [q, k, v] = &made.parts;
        for heads in [q, k] {
            heads.with_mut(|x| cpu::l2_norm_in_place(pool, x, shape.key, LENGTH_EPS))?;
        }
        let (decay, beta) = &self.rates(d, &made)?;
        let gate = self.second(&d.gate, &made.gate, &self.scratch.gates.output.clone())?;
        attended.with_mut(|out| {
            with_all([q, k, v, decay, beta], |[q, k, v, decay, beta]| {
                let inputs = DeltaInputs { q, k, v, decay, beta };
                cpu::gated_delta(pool, shape, &inputs, turn.before, turn.matrices, out);
            })
        })??;
        self.norm_in_place(&d.norm, attended)?;
        let width = a.output.inputs;
        Ok(attended.with_from(&gate, |x, gates| cpu::gate_rows(pool, d.gate_kind, x, gates, width, width, 0))?)
    }

    /// Where the matrices that read the layer's input write.
    fn made(&self, d: &Delta) -> (Span, Made) {
        let [q, k, v] = d.parts.each_ref().map(|part| part.linear.outputs);
        let rates = match &d.rates {
            Rates::Apart { decay, beta } => [decay.first().outputs, beta.outputs],
            Rates::Together(both) => [both.outputs, 0],
        };
        let widths = [q, k, v, rates[0], rates[1], d.gate.first().outputs];
        let (all, [q, k, v, first, beta, gate]) = self.views(Register::Projected, widths);
        (all, Made { parts: [q, k, v], rates: [first, beta], gate })
    }

    /// Makes decays, by which states are multiplied, and betas.
    fn rates(&mut self, d: &Delta, made: &Made) -> Result<(Span, Span)> {
        let (pool, heads) = (self.pool, d.shape.heads);
        let (decay, beta) = match &d.rates {
            Rates::Apart { decay, .. } => {
                let room = self.scratch.gates.decay.clone();
                (self.second(decay, &made.rates[0], &room)?, made.rates[1].clone())
            }
            Rates::Together(_) => {
                let decay = self.view(&self.scratch.gates.decay, heads);
                let beta = self.view(&self.scratch.gates.beta, heads);
                let group = heads / d.shape.key_heads;
                decay.with_mut(|decay| {
                    beta.with_from(&made.rates[0], |beta, rates| {
                        let groups = decay.chunks_exact_mut(group).zip(beta.chunks_exact_mut(group));
                        for ((decay, beta), rates) in groups.zip(rates.chunks_exact(2 * group)) {
                            beta.copy_from_slice(&rates[..group]);
                            decay.copy_from_slice(&rates[group..]);
                        }
                    })
                })??;
                (decay, beta)
            }
        };
        beta.change(&Sigmoid(pool))?;
        self.load(&d.decay_bias)?;
        decay.change(&AddVector(&self.scratch.vector[..d.decay_bias.length]))?;
        self.load(&d.decay_rate)?;
        let rates = &self.scratch.vector[..heads];
        decay.with_mut(|decay| cpu::decays(pool, decay, rates, d.decays))?;
        Ok((decay, beta))
    }

    /// What a projection gives in the end: `first`, or in `room` what is made from it as a narrow vector.
    fn second(&mut self, projection: &Projection, first: &Span, room: &Tensor) -> Result<Span> {
        let Some(up) = projection.second() else { return Ok(first.clone()) };
        let out = self.view(room, up.outputs);
        self.linear(up, first, &out)?;
        Ok(out)
    }
}
