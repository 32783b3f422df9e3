//! The dense feed-forward network.

use super::{Pass, Result};
use crate::arch::Activation;
use crate::ops::Activate;
use crate::span::Span;
use crate::spec::{Dense, GatedUnit};

impl Pass<'_> {
    pub(super) fn dense(&mut self, f: &Dense) -> Result<()> {
        let x = self.view(&self.scratch.x, self.spec.width);
        let normed = self.view(&self.scratch.normed, self.spec.width);
        let block = self.view(&self.scratch.block, self.spec.width);
        self.norm(&f.norm, &x, &normed)?;
        self.gate_up(&f.unit, &normed)?;
        self.down(&f.unit, f.activation, &block)?;
        self.join(&block, f.post_norm.as_ref())
    }

    /// The gates of `x`, and behind them its ups.
    pub(super) fn gate_up(&mut self, unit: &GatedUnit, x: &Span) -> Result<()> {
        let both = self.view(&self.scratch.gate_up, 2 * unit.up.outputs);
        self.linears([&unit.gate, &unit.up].into_iter(), x, &both)
    }

    /// out = down(activation(gates) · ups).
    pub(super) fn down(&mut self, unit: &GatedUnit, activation: Activation, out: &Span) -> Result<()> {
        let both = self.view(&self.scratch.gate_up, 2 * unit.up.outputs);
        let inner = self.view(&self.scratch.inner, unit.up.outputs);
        inner.make(&both, &Activate { pool: self.pool, activation })?;
        self.linear(&unit.down, &inner, out)
    }
}
