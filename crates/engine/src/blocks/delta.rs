//! Gated delta nets; see [`crate::spec::Delta`] for what they compute.

use candle_core::Tensor;
use kernels::cpu::{self, DeltaInputs};

use super::{Pass, Result};
use crate::ops;
use crate::spec::{Attention, Delta, Projection, Rates};
use crate::state::DeltaState;

/// What keeps the length of a query or key from vanishing.
const LENGTH_EPS: f32 = 1e-6;

impl Pass<'_> {
    /// attended = what the states answer to `normed`, which changes them.
    pub(super) fn delta(
        &mut self,
        a: &Attention,
        d: &Delta,
        normed: &Tensor,
        attended: &Tensor,
        state: &mut DeltaState,
    ) -> Result<()> {
        let (pool, shape) = (self.pool, &d.shape);
        let turn = state.next();
        let scratch = &self.scratch;
        let tensors = [scratch.q.clone(), scratch.k.clone(), scratch.v.clone()];
        let mut inputs = turn.inputs;
        let mut parts = Vec::with_capacity(3);
        for (part, tensor) in d.parts.iter().zip(&tensors) {
            let outputs = part.linear.outputs;
            let x = self.view(tensor, outputs)?;
            self.linear(&part.linear, normed, &x)?;
            self.load(&part.weight)?;
            let tail;
            (tail, inputs) = inputs.split_at_mut((d.taps - 1) * outputs);
            let weight = &self.scratch.vector[..part.weight.length];
            ops::with_numbers_mut(&x, |x| cpu::short_conv(pool, x, weight, d.taps, tail))?;
            parts.push(x);
        }
        for heads in &parts[..2] {
            ops::with_numbers_mut(heads, |x| cpu::l2_norm_in_place(pool, x, shape.key, LENGTH_EPS))?;
        }
        self.rates(d, normed)?;
        let gate = self.view(&self.scratch.gates.output, a.output.inputs)?;
        self.project(&d.gate, normed, &gate)?;
        let decay = self.view(&self.scratch.gates.decay, shape.heads * d.decays)?;
        let beta = self.view(&self.scratch.gates.beta, shape.heads)?;
        ops::with_numbers_mut(attended, |out| {
            ops::with_all([&parts[0], &parts[1], &parts[2], &decay, &beta], |[q, k, v, decay, beta]| {
                let inputs = DeltaInputs { q, k, v, decay, beta };
                cpu::gated_delta(pool, shape, &inputs, turn.before, turn.matrices, out);
            })
        })??;
        self.norm_in_place(&d.norm, attended)?;
        let width = a.output.inputs;
        Ok(ops::between(attended, &gate, |x, gates| cpu::gate_rows(pool, d.gate_kind, x, gates, width, width, 0))?)
    }

    /// Makes decays, by which states are multiplied, and betas.
    fn rates(&mut self, d: &Delta, normed: &Tensor) -> Result<()> {
        let (pool, heads) = (self.pool, d.shape.heads);
        let decay = self.view(&self.scratch.gates.decay, heads * d.decays)?;
        let beta = self.view(&self.scratch.gates.beta, heads)?;
        match &d.rates {
            Rates::Apart { decay: projection, beta: linear } => {
                self.project(projection, normed, &decay)?;
                self.linear(linear, normed, &beta)?;
            }
            Rates::Together(both) => {
                let rates = self.view(&self.scratch.gates.rates, 2 * heads)?;
                self.linear(both, normed, &rates)?;
                let group = heads / d.shape.key_heads;
                ops::with_numbers_mut(&decay, |decay| {
                    ops::between(&beta, &rates, |beta, rates| {
                        let groups = decay.chunks_exact_mut(group).zip(beta.chunks_exact_mut(group));
                        for ((decay, beta), rates) in groups.zip(rates.chunks_exact(2 * group)) {
                            beta.copy_from_slice(&rates[..group]);
                            decay.copy_from_slice(&rates[group..]);
                        }
                    })
                })??;
            }
        }
        beta.inplace_op1(&ops::Sigmoid(pool))?;
        self.load(&d.decay_bias)?;
        decay.inplace_op1(&ops::AddVector(&self.scratch.vector[..d.decay_bias.length]))?;
        self.load(&d.decay_rate)?;
        let rates = &self.scratch.vector[..heads];
        Ok(ops::with_numbers_mut(&decay, |decay| cpu::decays(pool, decay, rates, d.decays))?)
    }

    /// out = x W, or x W W' by way of a narrow vector.
    fn project(&mut self, projection: &Projection, x: &Tensor, out: &Tensor) -> Result<()> {
        match projection {
            Projection::Direct(linear) => self.linear(linear, x, out),
            Projection::Narrow { down, up } => {
                // Attention's output is not there yet.
                let narrow = self.view(&self.scratch.attended, down.outputs)?;
                self.linear(down, x, &narrow)?;
                self.linear(up, &narrow, out)
            }
        }
    }
}
