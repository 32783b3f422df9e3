//! What a layer is made of: the operations of a pass, over handles that name no memory.
//!
//! Owns the words in which `blocks` says what a layer does, once for every device. A device implements them with kernels and memory of
//! its own: [`Pass`](crate::blocks::Pass) is the processor's. Words are those of a [`Spec`](crate::spec::Spec), not of a kernel, so that
//! each device may do several of a kernel's steps in one launch. Must never know where a number lies.

use crate::EngineError;
use crate::arch::Activation;
use crate::session::Memory;
use crate::spec::{Attention, Delta, Heads, Latent, Linear, Mixture, Vector};

type Result<T> = std::result::Result<T, EngineError>;

/// An activation buffer, `[micro_batch, width]` of `f32`, which every device has once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// The residual stream.
    X,
    /// What a norm made of it.
    Normed,
    /// What the matrices that read attention's input make of it, one after another: queries, keys, values.
    Projected,
    /// Queries that were parted from their gates, or made from a narrow vector.
    Queries,
    /// Attention's output, all heads.
    Attended,
    /// Gates, and behind them ups.
    GateUp,
    /// The activated gate times up.
    Inner,
    /// A block's output before it joins the residual stream.
    Block,
    /// `[rows of the plan's logits, vocabulary]`.
    Logits,
}

/// How many registers there are.
#[cfg(feature = "cuda")]
pub(crate) const REGISTERS: usize = Register::Logits as usize + 1;

/// A run of a register's numbers: each device looks it up in its own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) register: Register,
    pub(crate) start: usize,
    pub(crate) count: usize,
}

impl Part {
    /// `count` of its numbers from `start` on.
    pub(crate) fn part(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.count, "{count} numbers from {start} of a part of {}", self.count);
        Self { start: self.start + start, count, ..self }
    }
}

/// The tokens of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// How many.
    pub(crate) tokens: usize,
    /// The position of the first.
    pub(crate) first_position: usize,
}

impl Now {
    /// Their rows in a register, each `width` numbers.
    pub(crate) const fn rows(self, register: Register, width: usize) -> Part {
        Part { register, start: 0, count: self.tokens * width }
    }

    /// The same of several widths, one after another: all of them, and each.
    pub(crate) fn parts<const N: usize>(self, register: Register, widths: [usize; N]) -> (Part, [Part; N]) {
        let all = self.rows(register, widths.iter().sum());
        let mut start = 0;
        let parts = widths.map(|width| {
            let count = self.tokens * width;
            start += count;
            all.part(start - count, count)
        });
        (all, parts)
    }
}

/// The operations of a pass on one device. Parts that one operation reads and writes are of different registers, but where it changes
/// one in place.
pub(crate) trait Steps {
    /// The tokens that are computed.
    fn now(&self) -> Now;

    /// out = norm(x) · weight, for each run of as many numbers as the weight has.
    fn norm(&mut self, weight: &Vector, x: Part, out: Part) -> Result<()>;

    /// The products of the first `tokens` rows of `x` with all matrices that read it, biases added, one matrix after another from the
    /// start of `out` on.
    fn products(&mut self, group: &[&Linear], x: Part, out: Part, tokens: usize) -> Result<()>;

    /// Makes heads of queries, keys and values ready: parts queries from their gates where they have some, norms and turns queries and
    /// keys, grows queries with their position, and keeps keys and values in the layer's memory. Says where the queries are.
    fn heads_in(&mut self, a: &Attention, h: &Heads, qkv: [Part; 3], memory: &mut Memory) -> Result<Part>;

    /// out = causal attention of the heads of `q` over the layer's memory.
    fn attend(&mut self, a: &Attention, h: &Heads, memory: &Memory, q: Part, out: Part) -> Result<()>;

    /// Multiplies the heads of `x` by the sigmoids of the gates in `both`, where each head's `width` gates follow its query.
    fn open_heads(&mut self, width: usize, both: Part, x: Part) -> Result<()>;

    /// inner = activation(gates) · ups, from all gates and then all ups.
    fn activate(&mut self, activation: Activation, both: Part, inner: Part) -> Result<()>;

    /// x += block.
    fn add(&mut self, block: Part, x: Part) -> Result<()>;

    /// x = cap · tanh(x / cap).
    fn soft_cap(&mut self, cap: f32, x: Part) -> Result<()>;

    /// attended = latent attention of `normed` over the layer's memory, to which it adds this pass's latents.
    fn latent(&mut self, a: &Attention, l: &Latent, memory: &mut Memory) -> Result<()>;

    /// attended = what the states of a delta net answer to `normed`, which changes them.
    fn delta(&mut self, a: &Attention, d: &Delta, memory: &mut Memory) -> Result<()>;

    /// Whether a shared expert's first matrices had better be asked for together with the router: not where they come late, nor where
    /// somebody waits for the choice.
    fn in_one_call(&self, f: &Mixture) -> bool;

    /// Chooses each token's experts by their scores, and has them brought.
    fn choose(&mut self, layer: usize, f: &Mixture, scores: Part) -> Result<()>;

    /// Whether to guess what the router of `next`, a layer's mixture, will choose.
    fn foresees(&self, next: &Mixture) -> bool {
        let _ = next;
        false
    }

    /// Takes the scores that a guess of the router's input gives, and has what they choose read where the drive has nothing else to do.
    fn guess(&mut self, layer: usize, next: &Mixture, scores: Part) -> Result<()> {
        let _ = (layer, next, scores);
        Ok(())
    }

    /// Multiplies each row of `x` by the sigmoid of its gate, one number each.
    fn open_rows(&mut self, gates: Part, x: Part) -> Result<()>;

    /// block = the weighed outputs of each token's chosen experts for `x`, or that added to what is there.
    fn experts(&mut self, layer: usize, f: &Mixture, x: Part, block: Part, add: bool) -> Result<()>;

    /// Hands numbers to the processor.
    fn read(&mut self, part: Part, use_them: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_several_widths_lie_one_matrix_after_another() {
        let now = Now { tokens: 3, first_position: 7 };
        let (all, [q, k, none, v]) = now.parts(Register::Projected, [4, 2, 0, 1]);
        let part = |start, count| Part { register: Register::Projected, start, count };
        assert_eq!((all, q, k, none, v), (part(0, 21), part(0, 12), part(12, 6), part(18, 0), part(18, 3)));
        assert_eq!(k.part(1, 5), part(13, 5));
        assert_eq!(now.rows(Register::X, 5), Part { register: Register::X, start: 0, count: 15 });
    }
}
