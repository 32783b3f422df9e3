//! Attention over heads of keys and values on a card: norms, turns and caches in one launch, attention in one or two.

use kernels::cpu::{AttentionShape, OutputGate};
use kernels::cuda::{self, AttentionForm, Growth, HeadPart, HeadTurn, HeadsTo, Norm, NormKind, Rows, Sight};
use plan::KvType;

use super::pass::{GpuPass, WRONG_MEMORY};
use super::{CardCache, FORMS, GpuSide, Result, Shaped};
use crate::spec::{Attention, HeadNorm, Heads};
use crate::steps::{Part, Register, Steps};

impl GpuPass<'_, '_> {
    /// Makes heads of queries, keys and values ready and keeps the latter two; says where queries are.
    pub(super) fn ready_heads(
        &mut self,
        a: &Attention,
        h: &Heads,
        qkv: [Part; 3],
        cache: &mut CardCache,
    ) -> Result<Part> {
        let (now, spec, side) = (self.now(), self.host.spec, &mut *self.side);
        let queries = now.rows(Register::Queries, a.heads * h.k_dim);
        let Some(values) = &mut cache.values else { unreachable!("{WRONG_MEMORY}") };
        let [q, k, v] = qkv;
        for (norm, x) in [(&h.q_norm, q), (&h.k_norm, k)] {
            if let HeadNorm::Weighted(vector) = norm
                && vector.length != h.k_dim
            {
                let (weight, eps) = (Some(side.vectors.get(vector)), spec.norm_eps);
                let norm = Norm { kind: NormKind::Rms, width: vector.length, weight, eps };
                cuda::norm_in_place(side.gpu.compute(), &norm, &mut side.registers.get_mut(x))?;
            }
        }
        let norm = |norm: &HeadNorm| {
            let weight = match norm {
                HeadNorm::Weighted(vector) if vector.length == h.k_dim => Some(side.vectors.get(vector)),
                HeadNorm::Plain => None,
                // None, or one over all heads, which is done.
                HeadNorm::None | HeadNorm::Weighted(_) => return None,
            };
            Some(cuda::HeadNorm { weight, eps: spec.norm_eps, last: h.norm_last })
        };
        let turn = a.rope.map(|rope| HeadTurn { offset: 0, style: spec.ropes[rope].style });
        let (projected, mut to) = side.registers.pair(whole(qkv), queries);
        let rows = |part: Part, heads, dim| Rows {
            numbers: projected.range(part.start..part.start + part.count),
            step: heads * dim,
        };
        // Each query is followed by the gate of its head's output, where there are gates.
        let query_step = if h.gated { 2 * h.k_dim } else { h.k_dim };
        let mut parts = [
            HeadPart {
                from: rows(q, a.heads, query_step),
                head_step: query_step,
                heads: a.heads,
                dim: h.k_dim,
                norm: norm(&h.q_norm),
                turn,
                growth: h.temperature.map(|t| Growth { floor: t.floor, growth: t.scale }),
                to: HeadsTo::Numbers(&mut to),
            },
            HeadPart {
                from: rows(k, h.kv_heads, h.k_dim),
                head_step: h.k_dim,
                heads: h.kv_heads,
                dim: h.k_dim,
                norm: norm(&h.k_norm),
                turn,
                growth: None,
                to: HeadsTo::Store(&mut cache.keys, 0),
            },
            HeadPart {
                from: rows(v, h.kv_heads, h.v_dim),
                head_step: h.v_dim,
                heads: h.kv_heads,
                dim: h.v_dim,
                norm: None,
                turn: None,
                growth: None,
                to: HeadsTo::Store(values, 0),
            },
        ];
        let table = a.rope.map(|rope| &side.turns[rope]);
        cuda::heads(side.gpu.compute(), &mut parts, now.tokens, table, side.words.slice().range(..1))?;
        Ok(queries)
    }

    /// out = causal attention of the heads of `q` over the layer's cache.
    pub(super) fn attention(&mut self, a: &Attention, h: &Heads, cache: &CardCache, q: Part, out: Part) -> Result<()> {
        let (tokens, side) = (self.host.tokens, &mut *self.side);
        let shape = h.shape(a);
        let Some(values) = &cache.values else { unreachable!("{WRONG_MEMORY}") };
        let place = side.form(&shape, (cache.keys.kind(), values.kind()), tokens);
        let form = &side.forms[place].form;
        let sight =
            Sight { sinks: h.sinks.as_ref().map(|sinks| side.vectors.get(sinks)), chunk: h.chunk, selected: None };
        let (queries, mut to) = side.registers.pair(q, out);
        cuda::attention(
            side.gpu.compute(),
            form,
            &shape,
            queries,
            &cache.keys,
            values,
            side.words.slice().range(..1),
            &sight,
            &mut side.gathered.slice_mut(),
            &mut to,
        )?;
        side.writes(out);
        Ok(())
    }

    /// Multiplies heads by the sigmoids of the gates behind their queries.
    pub(super) fn gate_heads(&mut self, width: usize, both: Part, x: Part) -> Result<()> {
        /// Heads of one launch.
        const AT_ONCE: usize = 65_535;
        let side = &mut *self.side;
        let (gates, mut heads) = side.registers.pair(both, x);
        for first in (0..x.count / width).step_by(AT_ONCE) {
            let count = AT_ONCE.min(x.count / width - first);
            let gates = Rows { numbers: gates.range((2 * first + 1) * width..), step: 2 * width };
            let mut heads = heads.range(first * width..(first + count) * width);
            cuda::gate_rows(side.gpu.compute(), OutputGate::Sigmoid, &mut heads, gates, width)?;
        }
        side.writes(x);
        Ok(())
    }
}

impl GpuSide {
    /// Where among the remembered forms the one for so many tokens is.
    pub(super) fn form(&mut self, shape: &AttentionShape, kinds: (KvType, KvType), tokens: usize) -> usize {
        let known = |s: &Shaped| s.shape == *shape && s.kinds == kinds && s.tokens == tokens;
        if let Some(place) = self.forms.iter().position(known) {
            return place;
        }
        if self.forms.len() == FORMS {
            self.forms.remove(0);
        }
        let form = AttentionForm::choose(self.gpu.info(), shape, kinds, tokens, self.capacity);
        self.forms.push(Shaped { shape: *shape, kinds, tokens, form });
        self.forms.len() - 1
    }
}

/// The smallest part of a register that holds all three, counted from its start.
fn whole(parts: [Part; 3]) -> Part {
    let count = parts.iter().map(|part| part.start + part.count).max().unwrap_or(0);
    Part { register: parts[0].register, start: 0, count }
}
