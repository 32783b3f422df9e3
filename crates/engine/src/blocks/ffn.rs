//! The dense feed-forward network.

use candle_core::Tensor;

use super::{Pass, Result};
use crate::arch::Activation;
use crate::ops::Activate;
use crate::scratch::part;
use crate::spec::{Dense, GatedUnit};

impl Pass<'_> {
    pub(super) fn dense(&mut self, f: &Dense) -> Result<()> {
        let x = self.view(&self.scratch.x, self.spec.width)?;
        let normed = self.view(&self.scratch.normed, self.spec.width)?;
        let block = self.view(&self.scratch.block, self.spec.width)?;
        self.norm(&f.norm, &x, &normed)?;
        self.gated(&f.unit, f.activation, &normed, &block)?;
        self.join(&block, f.post_norm.as_ref())
    }

    /// out = down(activation(gate(x)) · up(x)).
    pub(super) fn gated(&mut self, unit: &GatedUnit, activation: Activation, x: &Tensor, out: &Tensor) -> Result<()> {
        let numbers = self.tokens * unit.up.outputs;
        let gate = part(&self.scratch.gate_up, 0, numbers)?;
        let up = part(&self.scratch.gate_up, numbers, numbers)?;
        let inner = part(&self.scratch.inner, 0, numbers)?;
        self.linear(&unit.gate, x, &gate)?;
        self.linear(&unit.up, x, &up)?;
        inner.inplace_op3(&gate, &up, &Activate { pool: self.pool, activation })?;
        self.linear(&unit.down, &inner, out)
    }
}
