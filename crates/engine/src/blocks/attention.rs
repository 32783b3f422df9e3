//! Attention with heads of keys and values.

use kernels::cpu::{AttentionShape, KvStore, OutputGate, RopeShape, Sight, gate_rows};

use super::{Pass, Result};
use crate::ops::{Attend, RmsNorm, Rotate, ScaleRows};
use crate::session::LayerCache;
use crate::span::Span;
use crate::spec::{Attention, HeadNorm, Heads};

impl Pass<'_> {
    /// attended = attention of `normed` over the cache, to which it adds this pass's keys and values.
    pub(super) fn heads(
        &mut self,
        a: &Attention,
        h: &Heads,
        normed: &Span,
        attended: &Span,
        cache: &mut LayerCache,
    ) -> Result<()> {
        let (all, [first, k, v]) = &self.views(&self.scratch.projected, h.inputs().map(|matrix| matrix.outputs));
        self.linears(h.inputs().into_iter(), normed, all)?;
        let q = &if h.gated { self.gated_queries(a.heads, h.k_dim, first)? } else { first.clone() };
        for (norm, heads, x) in [(&h.q_norm, a.heads, q), (&h.k_norm, h.kv_heads, k)] {
            if h.norm_last {
                self.rotate_from(a.rope, heads, h.k_dim, 0, x)?;
                self.head_norm(norm, h.k_dim, x)?;
            } else {
                self.head_norm(norm, h.k_dim, x)?;
                self.rotate_from(a.rope, heads, h.k_dim, 0, x)?;
            }
        }
        if let Some(temperature) = h.temperature {
            let first = self.first_position;
            let factor = |token: usize| {
                let steps = ((first + token + 1) as f32 / temperature.floor).floor();
                1.0 + temperature.scale * steps.ln_1p()
            };
            let factors: Vec<f32> = (0..self.tokens).map(factor).collect();
            q.change(&ScaleRows { width: a.heads * h.k_dim, factors: &factors })?;
        }
        self.keep(k, &mut cache.keys)?;
        if let Some(values) = &mut cache.values {
            self.keep(v, values)?;
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
        attended.make(q, &attend)?;
        if h.gated {
            let (pool, width) = (self.pool, h.k_dim);
            attended.with_from(first, |x, gates| {
                gate_rows(pool, OutputGate::Sigmoid, x, gates, width, 2 * width, width);
            })?;
        }
        Ok(())
    }

    /// The queries among `both`, where each head's query is followed by the gate of its output.
    fn gated_queries(&self, heads: usize, width: usize, both: &Span) -> Result<Span> {
        let queries = self.view(&self.scratch.queries, heads * width);
        queries.with_from(both, |queries, both| {
            for (query, head) in queries.chunks_exact_mut(width).zip(both.chunks_exact(2 * width)) {
                query.copy_from_slice(&head[..width]);
            }
        })?;
        Ok(queries)
    }

    fn head_norm(&mut self, norm: &HeadNorm, width: usize, heads: &Span) -> Result<()> {
        match norm {
            HeadNorm::None => Ok(()),
            HeadNorm::Weighted(vector) => self.norm_in_place(vector, heads),
            HeadNorm::Plain => {
                let (pool, eps) = (self.pool, self.spec.norm_eps);
                Ok(heads.change(&RmsNorm { pool, weight: None, width, eps })?)
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
        x: &Span,
    ) -> Result<()> {
        let Some(rope) = rope else { return Ok(()) };
        let shape = RopeShape { heads, dim, offset, style: self.spec.ropes[rope].style };
        Ok(x.change(&Rotate { pool: self.pool, shape, table: &self.turns[rope] })?)
    }

    /// Writes this pass's keys or values into the cache.
    pub(super) fn keep(&self, rows: &Span, store: &mut KvStore) -> Result<()> {
        let width = store.heads() * store.dim();
        Ok(rows.with(|numbers| {
            for (i, row) in numbers.chunks_exact(width).enumerate() {
                store.write(self.first_position + i, row);
            }
        })?)
    }
}
