//! Attention with heads of keys and values.

use candle_core::Tensor;
use kernels::cpu::{AttentionShape, KvStore, OutputGate, RopeShape, Sight, gate_rows};

use super::{Pass, Result};
use crate::ops::{self, Attend, RmsNorm, Rotate, ScaleRows};
use crate::session::LayerCache;
use crate::spec::{Attention, HeadNorm, Heads, Linear};

impl Pass<'_> {
    /// attended = attention of `normed` over the cache, to which it adds this pass's keys and values.
    pub(super) fn heads(
        &mut self,
        a: &Attention,
        h: &Heads,
        normed: &Tensor,
        attended: &Tensor,
        cache: &mut LayerCache,
    ) -> Result<()> {
        let q = self.view(&self.scratch.q, a.heads * h.k_dim)?;
        let k = self.view(&self.scratch.k, h.k.outputs)?;
        let v = self.view(&self.scratch.v, h.v.outputs)?;
        for (projection, gated, norm, heads, out) in
            [(&h.q, h.gated, &h.q_norm, a.heads, &q), (&h.k, false, &h.k_norm, h.kv_heads, &k)]
        {
            if gated {
                self.gated_heads(projection, h.k_dim, normed, out)?;
            } else {
                self.linear(projection, normed, out)?;
            }
            if h.norm_last {
                self.rotate_from(a.rope, heads, h.k_dim, 0, out)?;
                self.head_norm(norm, h.k_dim, out)?;
            } else {
                self.head_norm(norm, h.k_dim, out)?;
                self.rotate_from(a.rope, heads, h.k_dim, 0, out)?;
            }
        }
        self.linear(&h.v, normed, &v)?;
        if let Some(temperature) = h.temperature {
            let first = self.first_position;
            let factor = |token: usize| {
                let steps = ((first + token + 1) as f32 / temperature.floor).floor();
                1.0 + temperature.scale * steps.ln_1p()
            };
            let factors: Vec<f32> = (0..self.tokens).map(factor).collect();
            q.inplace_op1(&ScaleRows { width: a.heads * h.k_dim, factors: &factors })?;
        }
        self.keep(&k, &mut cache.keys)?;
        if let Some(values) = &mut cache.values {
            self.keep(&v, values)?;
        }
        let sinks = match &h.sinks {
            Some(sinks) => {
                self.load(sinks)?;
                Some(&self.scratch.vector[..sinks.length])
            }
            None => None,
        };
        let attend = Attend {
            pool: self.pool,
            shape: AttentionShape {
                heads: a.heads,
                kv_heads: h.kv_heads,
                dim_k: h.k_dim,
                dim_v: h.v_dim,
                scale: a.scale,
                window: h.window,
                softcap: h.softcap,
            },
            keys: &cache.keys,
            values: cache.values.as_ref().unwrap_or(&cache.keys),
            first_position: self.first_position,
            sight: Sight { sinks, chunk: h.chunk, selected: None },
        };
        attended.inplace_op2(&q, &attend)?;
        if h.gated {
            let (pool, width) = (self.pool, h.k_dim);
            let gates = self.view(&self.scratch.gates.output, h.q.outputs)?;
            ops::between(attended, &gates, |x, gates| {
                gate_rows(pool, OutputGate::Sigmoid, x, gates, width, 2 * width, width);
            })?;
        }
        Ok(())
    }

    /// out = the queries of a matrix whose every head of queries is followed by one of gates, which wait in the scratch.
    fn gated_heads(&mut self, both: &Linear, width: usize, x: &Tensor, out: &Tensor) -> Result<()> {
        let heads = self.view(&self.scratch.gates.output, both.outputs)?;
        self.linear(both, x, &heads)?;
        Ok(ops::between(out, &heads, |out, heads| {
            for (query, head) in out.chunks_exact_mut(width).zip(heads.chunks_exact(2 * width)) {
                query.copy_from_slice(&head[..width]);
            }
        })?)
    }

    fn head_norm(&mut self, norm: &HeadNorm, width: usize, heads: &Tensor) -> Result<()> {
        match norm {
            HeadNorm::None => Ok(()),
            HeadNorm::Weighted(vector) => self.norm_in_place(vector, heads),
            HeadNorm::Plain => {
                let (pool, eps) = (self.pool, self.spec.norm_eps);
                Ok(heads.inplace_op1(&RmsNorm { pool, weight: None, width, eps })?)
            }
        }
    }

    /// Turns the numbers of each head from `offset` on.
    pub(super) fn rotate_from(
        &self,
        rope: Option<usize>,
        heads: usize,
        dim: usize,
        offset: usize,
        tensor: &Tensor,
    ) -> Result<()> {
        let Some(rope) = rope else { return Ok(()) };
        let shape = RopeShape { heads, dim, offset, style: self.spec.ropes[rope].style };
        Ok(tensor.inplace_op1(&Rotate { pool: self.pool, shape, table: &self.turns[rope] })?)
    }

    /// Writes this pass's keys or values into the cache.
    pub(super) fn keep(&self, tensor: &Tensor, store: &mut KvStore) -> Result<()> {
        let width = store.heads() * store.dim();
        Ok(ops::with_numbers(tensor, |numbers| {
            for (i, row) in numbers.chunks_exact(width).enumerate() {
                store.write(self.first_position + i, row);
            }
        })?)
    }
}
