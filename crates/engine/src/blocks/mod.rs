//! One pass through the layers: each step leases the bytes it needs and runs one operation on them.
//!
//! Owns the order of operations. It must be the order of [`Spec::each_slice`], by which the tiers are told what comes.

mod attention;
mod delta;
mod ffn;
mod head_product;
mod indexer;
mod latent;
mod linear;
mod mixture;

use candle_core::Tensor;
use kernels::cpu::{Pool, RopeTable, dequantize, scale};
use plan::{Inventory, QuantType, UnitId};
use tiers::Tiers;

use crate::EngineError;
use crate::experts::ExpertRecord;
use crate::lookahead::Lookahead;
use crate::ops::{Add, RmsNorm, SoftCap};
use crate::scratch::Scratch;
use crate::session::Memory;
use crate::span::Span;
use crate::spec::{Ffn, Form, Kind, Spec, Vector};

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

    /// One layer: x += attention(norm(x)), x += ffn(norm(x)).
    pub(crate) fn layer(&mut self, index: usize, memory: &mut Memory) -> Result<()> {
        let spec = self.spec;
        let layer = &spec.layers[index];
        let x = self.view(&self.scratch.x, spec.width);
        let normed = self.view(&self.scratch.normed, spec.width);
        let attended = self.view(&self.scratch.attended, layer.attention.output.inputs);
        self.norm(&layer.attention.norm, &x, &normed)?;
        match (&layer.attention.kind, memory) {
            (Kind::Heads(heads), Memory::Cache(cache)) => {
                self.heads(&layer.attention, heads, &normed, &attended, cache)?;
            }
            (Kind::Latent(latent), Memory::Cache(cache)) => {
                self.latent(&layer.attention, latent, &normed, &attended, cache)?;
            }
            (Kind::Delta(net), Memory::State(state)) => self.delta(&layer.attention, net, &normed, &attended, state)?,
            _ => unreachable!("a session has the memory of its model's layers"),
        }
        let block = self.view(&self.scratch.block, spec.width);
        self.linear(&layer.attention.output, &attended, &block)?;
        self.join(&block, layer.attention.post_norm.as_ref())?;
        match &layer.ffn {
            Ffn::Dense(dense) => self.dense(dense),
            Ffn::Mixture(mixture) => self.mixture(index, mixture),
        }
    }

    /// x += block, with a norm between where the model has one.
    fn join(&mut self, block: &Span, post_norm: Option<&Vector>) -> Result<()> {
        let x = self.view(&self.scratch.x, self.spec.width);
        match post_norm {
            None => x.make(block, &Add)?,
            Some(norm) => {
                let normed = self.view(&self.scratch.normed, self.spec.width);
                self.norm(norm, block, &normed)?;
                x.make(&normed, &Add)?;
            }
        }
        Ok(())
    }

    /// Logits of the tokens `first..first + count` of this pass, into the first rows of the logits tensor.
    pub(crate) fn logits(&mut self, first: usize, count: usize) -> Result<Span> {
        let width = self.spec.width;
        let x = Span::new(&self.scratch.x, first * width, count * width);
        let normed = Span::new(&self.scratch.normed, 0, count * width);
        let logits = Span::new(&self.scratch.logits, 0, count * self.spec.vocabulary);
        let spec = self.spec;
        self.norm(&spec.output_norm, &x, &normed)?;
        self.multiply([&spec.output].into_iter(), &normed, &logits, count)?;
        if let Some(cap) = spec.logit_softcap {
            logits.change(&SoftCap(cap))?;
        }
        Ok(logits)
    }

    /// This pass's rows of an activation tensor.
    fn view(&self, tensor: &Tensor, width: usize) -> Span {
        Span::new(tensor, 0, self.tokens * width)
    }

    /// The same of several widths, one after another: all of them, and each.
    fn views<const N: usize>(&self, tensor: &Tensor, widths: [usize; N]) -> (Span, [Span; N]) {
        let all = self.view(tensor, widths.iter().sum());
        let mut start = 0;
        let parts = widths.map(|width| {
            let count = self.tokens * width;
            start += count;
            all.part(start - count, count)
        });
        (all, parts)
    }

    fn norm(&mut self, weight: &Vector, x: &Span, out: &Span) -> Result<()> {
        self.load(weight)?;
        let weight = Some(&self.scratch.vector[..weight.length]);
        let (pool, width, eps) = (self.pool, self.spec.width, self.spec.norm_eps);
        Ok(out.make(x, &RmsNorm { pool, weight, width, eps })?)
    }

    /// Norms each run of as many numbers as the weight has.
    fn norm_in_place(&mut self, weight: &Vector, x: &Span) -> Result<()> {
        self.load(weight)?;
        let (pool, width, eps) = (self.pool, weight.length, self.spec.norm_eps);
        let weight = Some(&self.scratch.vector[..width]);
        Ok(x.change(&RmsNorm { pool, weight, width, eps })?)
    }
}
