//! Attention: a layer's first block, in the order of its steps.

use super::{Result, join};
use crate::session::Memory;
use crate::spec::{Attention, Heads, Kind, Spec};
use crate::steps::{Register, Steps};

/// x += attention(norm(x)).
pub(super) fn attention(s: &mut dyn Steps, spec: &Spec, a: &Attention, memory: &mut Memory) -> Result<()> {
    let now = s.now();
    let [x, normed, block] =
        [Register::X, Register::Normed, Register::Block].map(|register| now.rows(register, spec.width));
    s.norm(&a.norm, x, normed)?;
    match &a.kind {
        Kind::Heads(h) => heads(s, spec, a, h, memory)?,
        Kind::Latent(l) => s.latent(a, l, memory)?,
        Kind::Delta(d) => s.delta(a, d, memory)?,
    }
    s.products(&[&a.output], now.rows(Register::Attended, a.output.inputs), block, now.tokens)?;
    join(s, spec, a.post_norm.as_ref())
}

/// attended = attention of `normed` over the layer's memory, to which it adds this pass's keys and values.
fn heads(s: &mut dyn Steps, spec: &Spec, a: &Attention, h: &Heads, memory: &mut Memory) -> Result<()> {
    let now = s.now();
    let (all, [first, k, v]) = now.parts(Register::Projected, h.inputs().map(|matrix| matrix.outputs));
    s.products(&h.inputs(), now.rows(Register::Normed, spec.width), all, now.tokens)?;
    let q = s.heads_in(a, h, [first, k, v], memory)?;
    let attended = now.rows(Register::Attended, a.output.inputs);
    s.attend(a, h, memory, q, attended)?;
    if h.gated {
        s.open_heads(h.k_dim, first, attended)?;
    }
    Ok(())
}
