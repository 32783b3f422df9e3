//! What the processor holds of a pass in RAM, beside weights and the KV cache.
//!
//! A pass that GPUs compute leaves the processor's rooms untouched, and a system gives memory when it is touched: a prompt of 4,096 tokens of R1's shape, all of it
//! streamed to a GPU, was planned with 2.6 GiB that nobody used. So rooms are counted for as many tokens as the processor computes something of. The engine
//! sizes its buffers for whole passes, which costs addresses alone.

use super::{CHOICE, RUN, RUN_NUMBERS, THREAD, Widths, latent_scratch_of, scores, selected};
use crate::{Bytes, Device, Inventory, LayerDevices, Logits, Plan, Role};

/// The most tokens of a pass of which the processor computes something, by what it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTokens {
    /// Of any pass: the residual stream crosses by way of RAM, and choices of experts are counted there.
    pub pass: u32,
    /// With a matrix of attention.
    pub attention: u32,
    /// With a matrix of a feed-forward network, or an expert.
    pub ffn: u32,
    /// With an expert whose router is on a GPU, or whose like are brought to one.
    pub away: u32,
}

impl HostTokens {
    /// All of a micro-batch, as where nobody knows yet who computes it.
    #[must_use]
    pub const fn all(micro_batch: u32) -> Self {
        Self { pass: micro_batch, attention: micro_batch, ffn: micro_batch, away: micro_batch }
    }

    /// Those of a plan: whole micro-batches of what the processor computes while weights are streamed, and of everything else that is its own the passes that are
    /// too short for that.
    #[must_use]
    pub fn of(plan: &Plan, inventory: &Inventory) -> Self {
        let whole = plan.micro_batch;
        let short = plan.stream_from.map_or(whole, |from| whole.min(from.saturating_sub(1)));
        let mut tokens = Self { pass: whole, attention: 0, ffn: 0, away: 0 };
        for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
            let Some(layer) = unit.layer.filter(|_| unit.role != Role::MultiToken && !inventory.is_vector(unit)) else {
                continue;
            };
            let most = match (placement.prefill, placement.decode) {
                (Device::Cpu, _) if plan.stream_from.is_some() => whole,
                (_, Device::Cpu) => short,
                _ => 0,
            };
            let of_block = if unit.role == Role::Attention { &mut tokens.attention } else { &mut tokens.ffn };
            *of_block = most.max(*of_block);
            let routed_there = plan.blocks.get(layer as usize).map(|LayerDevices { ffn, .. }| *ffn != Device::Cpu);
            if unit.role == Role::RoutedExpert && (routed_there == Some(true) || plan.cpu_experts > 0) {
                tokens.away = most.max(tokens.away);
            }
        }
        tokens
    }

    /// Of which it computes anything, the output with these logits too.
    #[must_use]
    pub fn block(self, logits: Logits) -> u32 {
        self.attention.max(self.ffn).max(logits.rows().min(self.pass))
    }
}

/// Buffers of activations, in 32-bit floats unless said, for as many tokens as each is used for:
///
/// ```text
/// pass × ( embedding                 residual
///        + 72 B × used               which experts were chosen, their weights, and the lists of columns by expert )
/// block × ( 3 × embedding            normed, result of a block, spare
///         + 448 B × runs             the widest row in 8 bits: see [`quantized`](super::quantized) )
/// attention × ( 3 × attention        queries or fused output, rotated queries or gates, attention's output
///             + kv                   keys and values, or the latent, before they are stored
///             + delta                keys and values of delta nets, their decays and betas )
/// ffn × ( 3 × feed_forward           gate, up, product
///       + experts                    the router's scores )
/// + latent scratch                   see [`latent_scratch`](super::latent_scratch)
/// + threads × context                scores of one head, or of an indexer
/// + attention × context bits         which positions were selected, in a model with an indexer
/// + threads × 336 KiB                stacks, as far as they are touched, and partial results of attention
/// + numbers of logits × vocabulary   see [`Logits::numbers`]
/// ```
///
/// where a block is either of the two, or the output for as many tokens as have logits.
#[must_use]
pub fn activations(widths: &Widths, tokens: HostTokens, threads: u32, context: u32, logits: Logits) -> Bytes {
    let HostTokens { pass, attention, ffn, .. } = tokens;
    let widest = widths.embedding.max(widths.attention).max(widths.feed_forward);
    // Each chosen expert's inner numbers are a column of their own, which may end within a run.
    let runs = widest.div_ceil(RUN_NUMBERS) + widths.experts_used;
    let each = |tokens: u32, bytes: u64| Bytes(bytes).times(u64::from(tokens));
    let selected = if widths.indexed { selected(attention, context) } else { Bytes::ZERO };
    each(pass, 4 * widths.embedding + CHOICE.0 * widths.experts_used)
        + each(tokens.block(logits), 4 * 3 * widths.embedding + runs * RUN.0)
        + each(attention, 4 * (3 * widths.attention + widths.kv + widths.delta))
        + each(ffn, 4 * (3 * widths.feed_forward + widths.experts))
        + latent_scratch_of(widths.latent, attention)
        + scores(threads, context)
        + selected
        + Bytes(4 * logits.numbers() * widths.vocabulary)
        + THREAD.times(u64::from(threads))
}

/// Pinned RAM through which the inputs of the processor's experts come from a GPU with a mixture, and their sum goes back: two numbers of four bytes for
/// each of `tokens.away × embedding`; nothing where no expert is left to the processor.
#[must_use]
pub fn mail(widths: &Widths, tokens: HostTokens) -> Bytes {
    let numbers = if widths.experts > 0 { widths.embedding } else { 0 };
    Bytes(2 * 4 * numbers).times(u64::from(tokens.away))
}
