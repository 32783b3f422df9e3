//! One pass through the layers: each step leases the bytes it needs and runs one operation on them.
//!
//! Owns the order of operations. It must be the order of [`Spec::order`], along which the tiers read ahead.

use candle_core::Tensor;
use kernels::cpu::{AttentionShape, KvStore, Pool, RopeShape, RopeTable, dequantize};
use plan::{Inventory, QuantType, UnitId};
use tiers::Tiers;

use crate::EngineError;
use crate::ops::{self, Add, AddVector, Attend, Gate, MatMul, RmsNorm, Rotate, SetRow, SoftCap};
use crate::scratch::{Scratch, rows};
use crate::session::LayerCache;
use crate::spec::{Attention, Ffn, Linear, Spec, Vector};

type Result<T> = std::result::Result<T, EngineError>;

/// What every step of a pass needs.
pub(crate) struct Pass<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) quants: &'a Quants,
    /// The turns of each rope at this pass's positions.
    pub(crate) turns: &'a [RopeTable],
    pub(crate) tiers: &'a mut Tiers,
    pub(crate) pool: &'a Pool,
    pub(crate) scratch: &'a mut Scratch,
    /// Tokens in this pass.
    pub(crate) tokens: usize,
    /// The position of the first.
    pub(crate) first_position: usize,
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
        let (unit, scale) = (self.spec.embedding, self.spec.embedding_scale);
        let x = rows(&self.scratch.x, self.tokens, self.spec.width)?;
        for (row, &token) in tokens.iter().enumerate() {
            self.tiers.gather(unit, u64::from(token), &mut self.scratch.row)?;
            dequantize(self.quants.get(unit), &self.scratch.row, &mut self.scratch.token);
            self.scratch.token.iter_mut().for_each(|number| *number *= scale);
            x.inplace_op1(&SetRow { row, numbers: &self.scratch.token })?;
        }
        Ok(())
    }

    /// One layer: x += attention(norm(x)), x += ffn(norm(x)).
    pub(crate) fn layer(&mut self, index: usize, cache: &mut LayerCache) -> Result<()> {
        let spec = self.spec;
        let layer = &spec.layers[index];
        self.attention(&layer.attention, cache)?;
        self.ffn(&layer.ffn)
    }

    fn attention(&mut self, a: &Attention, cache: &mut LayerCache) -> Result<()> {
        let normed = self.view(&self.scratch.normed, self.spec.width)?;
        let q = self.view(&self.scratch.q, a.q.outputs)?;
        let k = self.view(&self.scratch.k, a.k.outputs)?;
        let v = self.view(&self.scratch.v, a.v.outputs)?;
        let attended = self.view(&self.scratch.attended, a.output.inputs)?;

        self.norm(&a.norm, &self.view(&self.scratch.x, self.spec.width)?, &normed)?;
        self.linear(&a.q, &normed, &q)?;
        self.head_norm(a.q_norm.as_ref(), &q)?;
        self.linear(&a.k, &normed, &k)?;
        self.head_norm(a.k_norm.as_ref(), &k)?;
        self.linear(&a.v, &normed, &v)?;
        self.rotate(a.rope, a.heads, a.k_dim, &q)?;
        self.rotate(a.rope, a.kv_heads, a.k_dim, &k)?;
        self.keep(&k, &mut cache.keys)?;
        self.keep(&v, &mut cache.values)?;
        let Attention { heads, kv_heads, k_dim: dim_k, v_dim: dim_v, scale, window, softcap, .. } = *a;
        let attend = Attend {
            pool: self.pool,
            shape: AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window, softcap },
            keys: &cache.keys,
            values: &cache.values,
            first_position: self.first_position,
        };
        attended.inplace_op2(&q, &attend)?;
        self.join(&a.output, &attended, a.post_norm.as_ref())
    }

    fn ffn(&mut self, f: &Ffn) -> Result<()> {
        let normed = self.view(&self.scratch.normed, self.spec.width)?;
        let gate = self.view(&self.scratch.gate, f.gate.outputs)?;
        let up = self.view(&self.scratch.up, f.up.outputs)?;
        let inner = self.view(&self.scratch.inner, f.down.inputs)?;
        self.norm(&f.norm, &self.view(&self.scratch.x, self.spec.width)?, &normed)?;
        self.linear(&f.gate, &normed, &gate)?;
        self.linear(&f.up, &normed, &up)?;
        inner.inplace_op3(&gate, &up, &Gate { pool: self.pool, activation: f.activation })?;
        self.join(&f.down, &inner, f.post_norm.as_ref())
    }

    /// x += output(inner), with a norm between where the model has one.
    fn join(&mut self, output: &Linear, inner: &Tensor, post_norm: Option<&Vector>) -> Result<()> {
        let x = self.view(&self.scratch.x, self.spec.width)?;
        let block = self.view(&self.scratch.block, self.spec.width)?;
        self.linear(output, inner, &block)?;
        match post_norm {
            None => x.inplace_op2(&block, &Add)?,
            Some(norm) => {
                let normed = self.view(&self.scratch.normed, self.spec.width)?;
                self.norm(norm, &block, &normed)?;
                x.inplace_op2(&normed, &Add)?;
            }
        }
        Ok(())
    }

    /// Logits of the tokens `first..first + count` of this pass, into the first rows of the logits tensor.
    pub(crate) fn logits(&mut self, first: usize, count: usize) -> Result<Tensor> {
        let width = self.spec.width;
        let x = self.scratch.x.flatten_all()?.narrow(0, first * width, count * width)?;
        let normed = rows(&self.scratch.normed, count, width)?;
        let logits = rows(&self.scratch.logits, count, self.spec.vocabulary)?;
        let spec = self.spec;
        self.norm(&spec.output_norm, &x, &normed)?;
        self.multiply(&spec.output, &normed, &logits, count)?;
        if let Some(cap) = spec.logit_softcap {
            logits.inplace_op1(&SoftCap(cap))?;
        }
        Ok(logits)
    }

    /// This pass's rows of an activation tensor.
    fn view(&self, tensor: &Tensor, width: usize) -> Result<Tensor> {
        Ok(rows(tensor, self.tokens, width)?)
    }

    fn linear(&mut self, linear: &Linear, x: &Tensor, out: &Tensor) -> Result<()> {
        self.multiply(linear, x, out, self.tokens)
    }

    /// out = x W (+ b), piece by piece as the tiers have the rows of W at hand.
    fn multiply(&mut self, linear: &Linear, x: &Tensor, out: &Tensor, tokens: usize) -> Result<()> {
        let quant = self.quants.get(linear.weight.unit);
        for piece in self.tiers.pieces(&linear.weight) {
            let first = (piece.rows.start - linear.weight.rows.start) as usize;
            let count = (piece.rows.end - piece.rows.start) as usize;
            let lease = self.tiers.lease(&piece)?;
            let op = MatMul {
                pool: self.pool,
                quant,
                weights: &lease,
                inputs: linear.inputs,
                first,
                rows: count,
                outputs: linear.outputs,
                tokens,
            };
            out.inplace_op2(x, &op)?;
        }
        if let Some(bias) = &linear.bias {
            self.load(bias)?;
            out.inplace_op1(&AddVector(&self.scratch.vector[..bias.length]))?;
        }
        Ok(())
    }

    fn norm(&mut self, weight: &Vector, x: &Tensor, out: &Tensor) -> Result<()> {
        self.load(weight)?;
        let weight = &self.scratch.vector[..weight.length];
        Ok(out.inplace_op2(x, &RmsNorm { pool: self.pool, weight, eps: self.spec.norm_eps })?)
    }

    fn head_norm(&mut self, weight: Option<&Vector>, heads: &Tensor) -> Result<()> {
        let Some(weight) = weight else { return Ok(()) };
        self.load(weight)?;
        let weight = &self.scratch.vector[..weight.length];
        Ok(heads.inplace_op1(&RmsNorm { pool: self.pool, weight, eps: self.spec.norm_eps })?)
    }

    fn rotate(&self, rope: usize, heads: usize, dim: usize, tensor: &Tensor) -> Result<()> {
        let shape = RopeShape { heads, dim, offset: 0, style: self.spec.ropes[rope].style };
        Ok(tensor.inplace_op1(&Rotate { pool: self.pool, shape, table: &self.turns[rope] })?)
    }

    /// Writes this pass's keys or values into the cache.
    fn keep(&self, tensor: &Tensor, store: &mut KvStore) -> Result<()> {
        let width = store.heads() * store.dim();
        Ok(ops::with_numbers(tensor, |numbers| {
            for (i, row) in numbers.chunks_exact(width).enumerate() {
                store.write(self.first_position + i, row);
            }
        })?)
    }

    /// Unpacks a vector to the start of the scratch vector. A slice of a fused bias starts inside it.
    fn load(&mut self, vector: &Vector) -> Result<()> {
        let quant = self.quants.get(vector.slice.unit);
        for piece in self.tiers.pieces(&vector.slice) {
            let lease = self.tiers.lease(&piece)?;
            let number = quant.block_bytes();
            let bytes = &lease[vector.start * number..(vector.start + vector.length) * number];
            dequantize(quant, bytes, &mut self.scratch.vector[..vector.length]);
        }
        Ok(())
    }
}
