//! The steps of a pass on the processor: in-place operations over spans of activation tensors.

use kernels::cpu::{KvStore, OutputGate, RopeShape, Sight, gate_rows};

use super::{Pass, Result};
use crate::arch::Activation;
use crate::ops::{Activate, Add, Attend, RmsNorm, Rotate, ScaleRows, Sigmoid, SoftCap};
use crate::session::{LayerCache, Memory};
use crate::span::Span;
use crate::spec::{Attention, Delta, HeadNorm, Heads, Latent, Linear, Mixture, Temperature, Vector};
use crate::state::DeltaState;
use crate::steps::{Now, Part, Register, Steps};

impl Steps for Pass<'_> {
    fn now(&self) -> Now {
        Now { tokens: self.tokens, first_position: self.first_position }
    }

    fn norm(&mut self, weight: &Vector, x: Part, out: Part) -> Result<()> {
        self.load(weight)?;
        let (pool, width, eps) = (self.pool, weight.length, self.spec.norm_eps);
        let weight = Some(&self.scratch.vector[..width]);
        Ok(self.span(out).make(&self.span(x), &RmsNorm { pool, weight, width, eps })?)
    }

    fn products(&mut self, group: &[&Linear], x: Part, out: Part, tokens: usize) -> Result<()> {
        let (x, out) = (self.span(x), self.span(out));
        self.multiply(group.iter().copied(), &x, &out, tokens)
    }

    fn heads_in(&mut self, a: &Attention, h: &Heads, qkv: [Part; 3], memory: &mut Memory) -> Result<Part> {
        let cache = cache(memory);
        let [first, k, v] = qkv;
        let queries = if h.gated { self.now().rows(Register::Queries, a.heads * h.k_dim) } else { first };
        let [q, k, v] = &[queries, k, v].map(|part| self.span(part));
        if h.gated {
            split_gates(h.k_dim, &self.span(first), q)?;
        }
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
            self.temper(temperature, a.heads * h.k_dim, q)?;
        }
        self.keep(k, &mut cache.keys)?;
        if let Some(values) = &mut cache.values {
            self.keep(v, values)?;
        }
        Ok(queries)
    }

    fn attend(&mut self, a: &Attention, h: &Heads, memory: &Memory, q: Part, out: Part) -> Result<()> {
        let Memory::Cache(cache) = memory else { unreachable!("heads have a cache") };
        let sinks = match &h.sinks {
            Some(sinks) => {
                self.load(sinks)?;
                Some(&self.scratch.vector[..sinks.length])
            }
            None => None,
        };
        let attend = Attend {
            pool: self.pool,
            shape: h.shape(a),
            keys: &cache.keys,
            values: cache.values.as_ref().unwrap_or(&cache.keys),
            first_position: self.first_position,
            sight: Sight { sinks, chunk: h.chunk, selected: None },
        };
        Ok(self.span(out).make(&self.span(q), &attend)?)
    }

    fn open_heads(&mut self, width: usize, both: Part, x: Part) -> Result<()> {
        let pool = self.pool;
        Ok(self.span(x).with_from(&self.span(both), |x, gates| {
            gate_rows(pool, OutputGate::Sigmoid, x, gates, width, 2 * width, width);
        })?)
    }

    fn activate(&mut self, activation: Activation, both: Part, inner: Part) -> Result<()> {
        Ok(self.span(inner).make(&self.span(both), &Activate { pool: self.pool, activation })?)
    }

    fn add(&mut self, block: Part, x: Part) -> Result<()> {
        Ok(self.span(x).make(&self.span(block), &Add)?)
    }

    fn soft_cap(&mut self, cap: f32, x: Part) -> Result<()> {
        Ok(self.span(x).change(&SoftCap(cap))?)
    }

    fn latent(&mut self, a: &Attention, l: &Latent, memory: &mut Memory) -> Result<()> {
        let normed = self.span(self.now().rows(Register::Normed, self.spec.width));
        let attended = self.span(self.now().rows(Register::Attended, a.output.inputs));
        self.latent_attention(a, l, &normed, &attended, cache(memory))
    }

    fn delta(&mut self, a: &Attention, d: &Delta, memory: &mut Memory) -> Result<()> {
        let normed = self.span(self.now().rows(Register::Normed, self.spec.width));
        let attended = self.span(self.now().rows(Register::Attended, a.output.inputs));
        self.delta_net(a, d, &normed, &attended, state(memory))
    }

    fn in_one_call(&self, f: &Mixture) -> bool {
        f.inputs().all(|matrix| matrix.bias.is_none() && self.tiers.is_resident(matrix.weight.unit))
    }

    fn choose(&mut self, layer: usize, f: &Mixture, scores: Part) -> Result<()> {
        self.choose_experts(layer, f, &self.span(scores))
    }

    fn foresees(&self, next: &Mixture) -> bool {
        self.can_foresee(next)
    }

    fn guess(&mut self, layer: usize, next: &Mixture, scores: Part) -> Result<()> {
        let scores = self.span(scores);
        self.guess_experts(layer, next, &scores)
    }

    fn open_rows(&mut self, gates: Part, x: Part) -> Result<()> {
        let (gates, width) = (self.span(gates), x.count / gates.count);
        gates.change(&Sigmoid(self.pool))?;
        Ok(gates.with(|factors| self.span(x).change(&ScaleRows { width, factors }))??)
    }

    fn experts(&mut self, _: usize, f: &Mixture, x: Part, block: Part, add: bool) -> Result<()> {
        let block = self.span(block);
        if !add {
            block.with_mut(|numbers| numbers.fill(0.0))?;
        }
        block.with_from(&self.span(x), |block, x| self.join_experts(f, x, block))?
    }

    fn read(&mut self, part: Part, use_them: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.span(part).with(use_them)?
    }
}

const WRONG_MEMORY: &str = "a session has the memory of its model's layers";

fn cache(memory: &mut Memory) -> &mut LayerCache {
    let Memory::Cache(cache) = memory else { unreachable!("{WRONG_MEMORY}") };
    cache
}

fn state(memory: &mut Memory) -> &mut DeltaState {
    let Memory::State(state) = memory else { unreachable!("{WRONG_MEMORY}") };
    state
}

/// Copies the queries out of `both`, where each head's `width` numbers are followed by as many gates.
fn split_gates(width: usize, both: &Span, queries: &Span) -> Result<()> {
    Ok(queries.with_from(both, |queries, both| {
        for (query, head) in queries.chunks_exact_mut(width).zip(both.chunks_exact(2 * width)) {
            query.copy_from_slice(&head[..width]);
        }
    })?)
}

impl Pass<'_> {
    /// Where a part of a register lies.
    pub(crate) fn span(&self, part: Part) -> Span {
        let scratch = &self.scratch;
        let tensor = match part.register {
            Register::X => &scratch.x,
            Register::Normed => &scratch.normed,
            Register::Projected => &scratch.projected,
            Register::Queries => &scratch.queries,
            Register::Attended => &scratch.attended,
            Register::GateUp => &scratch.gate_up,
            Register::Inner => &scratch.inner,
            Register::Block => &scratch.block,
            Register::Logits => &scratch.logits,
        };
        Span::new(tensor, part.start, part.count)
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

    /// Norms each run of as many numbers as the weight has.
    pub(super) fn norm_in_place(&mut self, weight: &Vector, x: &Span) -> Result<()> {
        self.load(weight)?;
        let (pool, width, eps) = (self.pool, weight.length, self.spec.norm_eps);
        let weight = Some(&self.scratch.vector[..width]);
        Ok(x.change(&RmsNorm { pool, weight, width, eps })?)
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

    /// Grows each token's `width` numbers with its position.
    fn temper(&self, temperature: Temperature, width: usize, q: &Span) -> Result<()> {
        let first = self.first_position;
        let factor = |token: usize| {
            let steps = ((first + token + 1) as f32 / temperature.floor).floor();
            1.0 + temperature.scale * steps.ln_1p()
        };
        let factors: Vec<f32> = (0..self.tokens).map(factor).collect();
        Ok(q.change(&ScaleRows { width, factors: &factors })?)
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
