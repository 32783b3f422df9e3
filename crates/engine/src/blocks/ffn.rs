//! The feed-forward network: a layer's second block. A dense one is said here in its steps, as is a shared expert.

use super::mixture::mixture;
use super::{Result, join};
use crate::arch::Activation;
use crate::spec::{Dense, Ffn, GatedUnit, Spec};
use crate::steps::{Part, Register, Steps};

/// x += ffn(norm(x)).
pub(super) fn ffn(s: &mut dyn Steps, spec: &Spec, layer: usize, f: &Ffn) -> Result<()> {
    match f {
        Ffn::Dense(dense) => self::dense(s, spec, dense),
        Ffn::Mixture(f) => mixture(s, spec, layer, f),
    }
}

fn dense(s: &mut dyn Steps, spec: &Spec, f: &Dense) -> Result<()> {
    let now = s.now();
    let normed = now.rows(Register::Normed, spec.width);
    s.norm(&f.norm, now.rows(Register::X, spec.width), normed)?;
    gate_up(s, &f.unit, normed)?;
    down(s, &f.unit, f.activation, now.rows(Register::Block, spec.width))?;
    join(s, spec, f.post_norm.as_ref())
}

/// The gates of `x`, and behind them its ups.
pub(super) fn gate_up(s: &mut dyn Steps, unit: &GatedUnit, x: Part) -> Result<()> {
    let now = s.now();
    s.products(&[&unit.gate, &unit.up], x, now.rows(Register::GateUp, 2 * unit.up.outputs), now.tokens)
}

/// out = down(activation(gates) · ups).
pub(super) fn down(s: &mut dyn Steps, unit: &GatedUnit, activation: Activation, out: Part) -> Result<()> {
    let now = s.now();
    let inner = now.rows(Register::Inner, unit.up.outputs);
    s.activate(activation, now.rows(Register::GateUp, 2 * unit.up.outputs), inner)?;
    s.products(&[&unit.down], inner, out, now.tokens)
}
