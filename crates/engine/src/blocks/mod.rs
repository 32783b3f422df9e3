//! One pass through the layers.
//!
//! Owns the order of operations, which is written once, in [`Steps`] that any device can do. It must be the order of
//! [`Use`](crate::spec::Use)s, by which the tiers are told what comes. [`Pass`] does them on the processor: each step leases the
//! bytes it needs and runs one operation on them.

mod attention;
mod cpu;
mod delta;
mod ffn;
mod head_product;
mod indexer;
mod latent;
mod linear;
mod mixture;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use kernels::cpu::{Pool, RopeTable, dequantize, scale};
use plan::{Device, Inventory, QuantType, UnitId};
use tiers::Tiers;

use crate::EngineError;
use crate::devices::Devices;
use crate::experts::ExpertRecord;
use crate::lookahead::Lookahead;
use crate::scratch::Scratch;
use crate::session::{Memory, Session};
use crate::span::Span;
use crate::spec::{Form, Spec, Vector};
use crate::steps::{Part, Register, Steps};

type Result<T> = std::result::Result<T, EngineError>;

/// What every step of a pass needs.
pub(crate) struct Pass<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) quants: &'a Quants,
    /// The turns of each rope at this pass's positions.
    pub(crate) turns: &'a [RopeTable],
    pub(crate) tiers: &'a mut Tiers,
    pub(crate) lookahead: &'a mut Lookahead,
    pub(crate) experts: &'a mut ExpertRecord,
    pub(crate) pool: &'a Pool,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) devices: &'a mut Devices,
    /// Tokens in this pass.
    pub(crate) tokens: usize,
    /// The position of the first.
    pub(crate) first_position: usize,
    /// How latent attention is computed in this pass.
    pub(crate) form: Form,
}

/// How each unit is stored.
pub(crate) struct Quants(Vec<QuantType>);

impl Quants {
    pub(crate) fn of(inventory: &Inventory) -> Self {
        Self(inventory.units.iter().map(|unit| inventory.tensor_of(unit).quant).collect())
    }

    pub(crate) fn get(&self, unit: UnitId) -> QuantType {
        self.0[unit.0 as usize]
    }
}

impl Pass<'_> {
    /// Looks the tokens' vectors up into the residual stream.
    pub(crate) fn embed(&mut self, tokens: &[u32]) -> Result<()> {
        self.devices.x_at = Device::Cpu;
        if self.begin_on_cards(tokens)? {
            return Ok(());
        }
        let (unit, factor) = (self.spec.embedding, self.spec.embedding_scale);
        let x = self.view(&self.scratch.x, self.spec.width);
        x.with_mut(|x| {
            for (x, &token) in x.chunks_exact_mut(self.spec.width).zip(tokens) {
                self.tiers.gather(unit, u64::from(token), &mut self.scratch.row)?;
                dequantize(self.quants.get(unit), &self.scratch.row, x);
                scale(x, factor);
            }
            Ok(())
        })?
    }

    /// All layers. `stop`, raised, ends that before the next one.
    pub(crate) fn layers(&mut self, session: &mut Session, stop: &AtomicBool) -> Result<()> {
        let mut next = 0;
        while next < session.layers.len() {
            if stop.swap(false, Ordering::Relaxed) {
                return Err(EngineError::Interrupted);
            }
            let first = next;
            let alone = self.tokens == 1 && self.devices.streaming.is_none();
            let alone = if alone { self.devices.route.alone_from(first) } else { 0 };
            next += alone.max(1);
            let layers = &mut session.layers;
            if alone > 0 {
                let device = self.devices.route.layers[first].attention;
                self.bring_x(device)?;
                self.recorded(device, &(first..next), session.number, |pass| pass.some_layers(first..next, layers))?;
            } else {
                self.some_layers(first..next, layers)?;
            }
        }
        Ok(())
    }

    fn some_layers(&mut self, mut range: Range<usize>, layers: &mut [Memory]) -> Result<()> {
        range.try_for_each(|index| self.layer(index, layers))
    }

    /// One layer: x += attention(norm(x)), x += ffn(norm(x)).
    fn layer(&mut self, index: usize, layers: &mut [Memory]) -> Result<()> {
        let spec = self.spec;
        let layer = &spec.layers[index];
        let devices = self.devices.of_layer(index);
        self.bring_x(devices.attention)?;
        self.attention_on(devices.attention, index, layers, |s, memory| {
            attention::attention(s, spec, &layer.attention, memory)
        })?;
        self.bring_x(devices.ffn)?;
        self.on(devices.ffn, |s| ffn::ffn(s, spec, index, &layer.ffn))
    }

    /// Has the residual stream of this pass on `device`.
    fn bring_x(&mut self, device: Device) -> Result<()> {
        if self.devices.x_at != device {
            let x = self.now().rows(Register::X, self.spec.width);
            self.cross(x, device)?;
            self.devices.x_at = device;
        }
        Ok(())
    }

    /// Hands the logits of the tokens `first..first + count` of this pass to `use_them`.
    pub(crate) fn logits(
        &mut self,
        first: usize,
        count: usize,
        use_them: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let (spec, device) = (self.spec, self.devices.route.output);
        if device != self.devices.x_at {
            self.cross(Part { register: Register::X, start: first * spec.width, count: count * spec.width }, device)?;
        }
        self.on(device, |s| logits(s, spec, first, count, use_them))
    }

    /// This pass's rows of an activation tensor.
    fn view(&self, tensor: &Tensor, width: usize) -> Span {
        Span::new(tensor, 0, self.tokens * width)
    }

    /// The same of several widths, one after another: all of them, and each.
    fn views<const N: usize>(&self, register: Register, widths: [usize; N]) -> (Span, [Span; N]) {
        let (all, parts) = self.now().parts(register, widths);
        (self.span(all), parts.map(|part| self.span(part)))
    }
}

/// x += block, with a norm between where the model has one.
fn join(s: &mut dyn Steps, spec: &Spec, post_norm: Option<&Vector>) -> Result<()> {
    let [x, normed, block] =
        [Register::X, Register::Normed, Register::Block].map(|register| s.now().rows(register, spec.width));
    match post_norm {
        None => s.add(block, x),
        Some(norm) => {
            s.norm(norm, block, normed)?;
            s.add(normed, x)
        }
    }
}

fn logits(
    s: &mut dyn Steps,
    spec: &Spec,
    first: usize,
    count: usize,
    use_them: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let x = Part { register: Register::X, start: first * spec.width, count: count * spec.width };
    let normed = Part { register: Register::Normed, start: 0, count: count * spec.width };
    let logits = Part { register: Register::Logits, start: 0, count: count * spec.vocabulary };
    s.norm(&spec.output_norm, x, normed)?;
    s.products(&[&spec.output], normed, logits, count)?;
    if let Some(cap) = spec.logit_softcap {
        s.soft_cap(cap, logits)?;
    }
    s.read(logits, use_them)
}
