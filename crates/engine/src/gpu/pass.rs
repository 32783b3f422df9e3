//! The steps of a pass on a card. Each is put at the end of the card's stream; the processor waits where it reads.

use std::time::Instant;

use kernels::cuda::{
    self, Change, Download, HalvesRoom, MATVEC_COLUMNS, Matrix, Norm, NormKind, Output, Pinned, Rows, in_floats,
    in_integers, lookup, matmul, matmul_floats, matvec, matvec_floats, supports, unpack,
};
use plan::Tier;
use tiers::{RowSlice, Tiers};

use super::mixture::joining;
use super::{CardCache, GpuSide, Result};
use crate::EngineError;
use crate::arch::Activation;
use crate::blocks::{Pass, Quants};
use crate::route::Brought;
use crate::session::Memory;
use crate::spec::{Attention, Delta, Heads, Latent, Linear, Mixture, Spec, Vector};
use crate::steps::{Now, Part, Register, Steps};

/// A pass whose steps a card does.
pub(crate) struct GpuPass<'p, 'a> {
    /// Its spec, its tiers, its tokens.
    pub(crate) host: &'p mut Pass<'a>,
    pub(crate) side: &'p mut GpuSide,
}

impl Steps for GpuPass<'_, '_> {
    fn now(&self) -> Now {
        self.host.now()
    }

    fn norm(&mut self, weight: &Vector, x: Part, out: Part) -> Result<()> {
        let (side, eps) = (&mut *self.side, self.host.spec.norm_eps);
        let width = weight.length;
        let pending = side.pending.take_if(|(block, sum)| *sum == x && block.register != out.register);
        side.settle()?;
        let norm = Norm { kind: NormKind::Rms, width, weight: Some(side.vectors.get(weight)), eps };
        // Products come next, as a rule.
        let together = width.is_multiple_of(32);
        let columns = together.then_some(&mut side.columns);
        if let Some((block, _)) = pending {
            let (block, mut sum, mut to) = side.registers.triple(block, [x, out]);
            let output = Output { numbers: Some(&mut to), rounded: columns };
            cuda::add_norm(side.gpu.compute(), &norm, &mut sum, block, output)?;
        } else {
            let (from, mut to) = side.registers.pair(x, out);
            let output = Output { numbers: Some(&mut to), rounded: columns };
            cuda::norm(side.gpu.compute(), &norm, from, output)?;
        }
        side.rounded = together.then_some(out);
        Ok(())
    }

    fn products(&mut self, group: &[&Linear], x: Part, out: Part, tokens: usize) -> Result<()> {
        self.side.settle()?;
        if self.brought().is_some() {
            return self.streamed(group, x, out, tokens);
        }
        self.where_they_live(group, x, out, tokens)
    }

    fn heads_in(&mut self, a: &Attention, h: &Heads, qkv: [Part; 3], memory: &mut Memory) -> Result<Part> {
        self.ready_heads(a, h, qkv, cache_of(memory))
    }

    fn attend(&mut self, a: &Attention, h: &Heads, memory: &Memory, q: Part, out: Part) -> Result<()> {
        let Memory::Card(cache) = memory else { unreachable!("{WRONG_MEMORY}") };
        self.attention(a, h, cache, q, out)
    }

    fn open_heads(&mut self, width: usize, both: Part, x: Part) -> Result<()> {
        self.gate_heads(width, both, x)
    }

    fn activate(&mut self, activation: Activation, both: Part, inner: Part) -> Result<()> {
        let (tokens, side) = (self.host.tokens, &mut *self.side);
        let (width, joining) = (inner.count / tokens, joining(activation));
        let (both, mut to) = side.registers.pair(both, inner);
        let half = |start| Rows { numbers: both.range(start..start + inner.count), step: width };
        let together = width.is_multiple_of(32);
        let output = Output { numbers: Some(&mut to), rounded: together.then_some(&mut side.columns) };
        cuda::gated(side.gpu.compute(), joining, half(0), half(inner.count), tokens, width, output)?;
        side.rounded = together.then_some(inner);
        Ok(())
    }

    fn add(&mut self, block: Part, x: Part) -> Result<()> {
        self.side.settle()?;
        self.side.pending = Some((block, x));
        self.side.writes(x);
        Ok(())
    }

    fn soft_cap(&mut self, cap: f32, x: Part) -> Result<()> {
        let side = &mut *self.side;
        cuda::change(side.gpu.compute(), &mut side.registers.get_mut(x), Change::SoftCap(cap))?;
        side.writes(x);
        Ok(())
    }

    fn latent(&mut self, a: &Attention, l: &Latent, memory: &mut Memory) -> Result<()> {
        self.latent_attention(a, l, cache_of(memory))
    }

    fn delta(&mut self, _: &Attention, _: &Delta, _: &mut Memory) -> Result<()> {
        self.unknown("a delta net")
    }

    fn in_one_call(&self, _: &Mixture) -> bool {
        false
    }

    fn choose(&mut self, layer: usize, f: &Mixture, scores: Part) -> Result<()> {
        self.choose_experts(layer, f, scores)
    }

    fn open_rows(&mut self, gates: Part, x: Part) -> Result<()> {
        self.side.open_rows(gates, x)
    }

    fn experts(&mut self, layer: usize, f: &Mixture, x: Part, block: Part, add: bool) -> Result<()> {
        self.add_experts(layer, f, x, block, add)
    }

    fn read(&mut self, part: Part, use_them: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        self.pay()?;
        let side = &mut *self.side;
        side.settle()?;
        let letters = match side.letters.take() {
            Some(letters) => letters,
            // The last ones went with a card that failed.
            None => Pinned::new(&side.gpu, part.count)?,
        };
        let started = Instant::now();
        let letters = Download::start(side.gpu.compute(), side.registers.get(part), letters)?.wait()?;
        side.passage.arrived(part.count, started);
        let outcome = use_them(&letters[..part.count]);
        side.letters = Some(letters);
        outcome?;
        self.tell()
    }
}

pub(super) const WRONG_MEMORY: &str = "a session has the memory of its model's layers";

fn cache_of(memory: &mut Memory) -> &mut CardCache {
    let Memory::Card(cache) = memory else { unreachable!("{WRONG_MEMORY}") };
    cache
}

/// Each matrix of a group with its part of the outputs, one behind another.
fn shares<'l>(group: &[&'l Linear], out: Part, tokens: usize) -> impl Iterator<Item = (&'l Linear, Part)> {
    group.iter().scan(0, move |start, linear| {
        let part = out.part(*start, tokens * linear.outputs);
        *start += part.count;
        Some((*linear, part))
    })
}

impl GpuPass<'_, '_> {
    /// Whether and how weights are brought to this card in this pass.
    pub(super) fn brought(&self) -> Option<Brought> {
        self.host.devices.brought_to(self.side.number)
    }

    /// Whether a matrix lives on the card, or is one row, of which the card has a copy.
    fn is_here(&self, linear: &Linear) -> bool {
        let home = self.host.tiers.home(linear.weight.unit);
        home == Tier::Gpu(self.side.number) || self.side.vectors.copy(linear.weight.unit).is_some()
    }

    /// Whether a matrix is brought here in every pass.
    fn comes(&self, linear: &Linear) -> bool {
        self.host.devices.route.comes(linear.weight.unit).is_some()
    }

    /// The products of a group, each made where its matrix lives or is brought to.
    pub(super) fn where_they_live(&mut self, group: &[&Linear], x: Part, out: Part, tokens: usize) -> Result<()> {
        let comes = group.iter().any(|linear| self.comes(linear));
        let foreign = group.iter().any(|linear| !self.is_here(linear) && !self.comes(linear));
        if foreign {
            self.side.passage.leave(self.side.registers.get(x))?;
        }
        for (linear, part) in shares(group, out, tokens) {
            if self.is_here(linear) {
                self.product(linear, x, part)?;
            } else if self.comes(linear) {
                self.by_runs(linear, x, part)?;
            } else {
                continue;
            }
            self.add_bias(linear, part)?;
        }
        self.side.writes(out);
        if comes {
            // What was given back is filled again while the processor computes.
            self.host.tiers.expect_on(self.side.number, &[])?;
        }
        if foreign { self.foreign(group, x, out, tokens) } else { Ok(()) }
    }

    /// Has the processor multiply with those matrices of a group that are not here, while the card does the others. The numbers of `x` are on
    /// their way.
    fn foreign(&mut self, group: &[&Linear], x: Part, out: Part, tokens: usize) -> Result<()> {
        debug_assert!(self.brought().is_none(), "what is brought is not multiplied with elsewhere");
        self.pay()?;
        let side = &mut *self.side;
        let numbers = side.registers.get(x);
        self.host.span(x).with_mut(|to| side.passage.down(&side.gpu, numbers, to))??;
        let (mut start, mut rest) = (0, group);
        while let Some(first) = rest.first() {
            let mine = |linear: &Linear| self.is_here(linear) || self.comes(linear);
            let here = mine(first);
            let run;
            (run, rest) = rest.split_at(rest.iter().take_while(|linear| mine(linear) == here).count());
            let part = out.part(start, tokens * run.iter().map(|linear| linear.outputs).sum::<usize>());
            start += part.count;
            if !here {
                self.host.products(run, x, part, tokens)?;
                self.host.span(part).with(|numbers| self.side.upload(numbers, part))??;
            }
        }
        Ok(())
    }

    fn add_bias(&mut self, linear: &Linear, rows: Part) -> Result<()> {
        let Some(bias) = &linear.bias else { return Ok(()) };
        let side = &mut *self.side;
        let mut rows = side.registers.get_mut(rows);
        Ok(cuda::add(side.gpu.compute(), &mut rows, side.vectors.get(bias))?)
    }

    /// The product of one matrix with all rows of `x`.
    fn product(&mut self, linear: &Linear, x: Part, out: Part) -> Result<()> {
        let Some(weights) = self.host.tiers.on_card(self.side.number, &linear.weight) else {
            return self.side.multiply_copy(linear.weight.unit, x, out);
        };
        let quant = self.host.quants.get(linear.weight.unit);
        let matrix = Matrix { quant, weights, rows: linear.outputs, width: linear.inputs };
        self.side.multiply(&matrix, x, out, linear.outputs)
    }

    /// The products of a group whose matrices are brought here in their order, but for those that live here: run of rows by run of rows.
    pub(super) fn streamed(&mut self, group: &[&Linear], x: Part, out: Part, tokens: usize) -> Result<()> {
        self.side.passage.works();
        for (linear, part) in shares(group, out, tokens) {
            if self.is_here(linear) {
                self.product(linear, x, part)?;
            } else {
                self.by_runs(linear, x, part)?;
            }
            self.add_bias(linear, part)?;
        }
        self.side.writes(out);
        Ok(())
    }

    /// The product of a matrix that is brought here. How its rows are cut changes no output.
    fn by_runs(&mut self, linear: &Linear, x: Part, out: Part) -> Result<()> {
        let quant = self.host.quants.get(linear.weight.unit);
        let mut rest = linear.weight.clone();
        while !rest.rows.is_empty() {
            let lease = self.host.tiers.lease_on(self.side.number, std::slice::from_ref(&rest))?;
            let rows = lease.rows(0);
            let first = (rows.start - linear.weight.rows.start) as usize;
            let count = (rows.end - rows.start) as usize;
            let matrix = Matrix { quant, weights: lease.bytes(0), rows: count, width: linear.inputs };
            // Of each token's outputs those of these rows; the last token's end with them.
            let part = out.part(first, out.count - linear.outputs + count);
            self.side.multiply(&matrix, x, part, linear.outputs)?;
            rest.rows.start = rows.end;
        }
        Ok(())
    }

    /// What a route refuses before anything is loaded.
    fn unknown(&self, what: &str) -> Result<()> {
        let why = format!("{what} came to it all the same");
        Err(EngineError::NotOnGpu { tier: Tier::Gpu(self.side.number), why })
    }
}

impl GpuSide {
    /// Looks the tokens of this pass up into the residual stream, where the table is on the card.
    pub(crate) fn embed(&mut self, spec: &Spec, quants: &Quants, tiers: &Tiers, tokens: usize) -> Result<bool> {
        let rows = RowSlice { unit: spec.embedding, rows: 0..spec.vocabulary as u64 };
        let quant = quants.get(spec.embedding);
        let Some(weights) = tiers.on_card(self.number, &rows) else { return Ok(false) };
        let matrix = Matrix { quant, weights, rows: spec.vocabulary, width: spec.width };
        self.passage.works();
        let x = Part { register: Register::X, start: 0, count: tokens * spec.width };
        let ids = self.words.slice().range(1..=tokens);
        lookup(self.gpu.compute(), &matrix, ids, spec.embedding_scale, &mut self.registers.get_mut(x))?;
        Ok(true)
    }

    /// Unpacks the tokens of this pass into the residual stream out of rows that are brought for it, from a table which lives elsewhere; not
    /// where no kernel reads its type.
    pub(crate) fn embed_brought(
        &mut self,
        spec: &Spec,
        quants: &Quants,
        tiers: &mut Tiers,
        tokens: &[u32],
    ) -> Result<bool> {
        let quant = quants.get(spec.embedding);
        if !supports(quant) {
            return Ok(false);
        }
        let row = spec.width / quant.block_elements() * quant.block_bytes();
        let numbers = |register| Part { register, start: 0, count: tokens.len() * spec.width };
        self.passage.works();
        // No block has an output yet, and no type takes more bytes than floats.
        let (from, mut x) = self.registers.both_mut(numbers(Register::Block), numbers(Register::X));
        let mut from = from.cast::<u8>();
        let mut rows = from.range(..tokens.len() * row);
        tiers.gather_on(self.number, spec.embedding, tokens, self.gpu.compute(), &mut rows)?;
        let matrix = Matrix { quant, weights: rows.into(), rows: tokens.len(), width: spec.width };
        unpack(self.gpu.compute(), &matrix, spec.embedding_scale, &mut x)?;
        Ok(true)
    }

    /// The products of some rows with all rows of `x`, each token's `step` apart, by the kernel for a few columns or the one for many.
    fn multiply(&mut self, matrix: &Matrix<'_>, x: Part, out: Part, step: usize) -> Result<()> {
        let few = x.count / matrix.width <= MATVEC_COLUMNS;
        if in_integers(matrix.quant) {
            self.round(x, matrix.width)?;
            let (stream, mut to) = (self.gpu.compute(), self.registers.get_mut(out));
            match &mut self.halves {
                _ if few => matvec(stream, matrix, &self.columns, &mut to, step, false)?,
                Some(room) if HalvesRoom::serves(matrix.quant, self.columns.columns()) => {
                    room.multiply(stream, matrix, &self.columns, &mut to, step)?;
                }
                _ => matmul(stream, matrix, &self.columns, &mut to, step)?,
            }
        } else {
            debug_assert!(in_floats(matrix.quant), "types were checked when the engine was opened");
            let (x, mut to) = self.registers.pair(x, out);
            if few {
                matvec_floats(self.gpu.compute(), matrix, x, &mut to, step, false)?;
            } else {
                matmul_floats(self.gpu.compute(), matrix, x, &mut to, step)?;
            }
        }
        Ok(())
    }

    /// Makes the columns that quantized matrices read, where they are not there yet.
    pub(super) fn round(&mut self, x: Part, width: usize) -> Result<()> {
        if self.rounded != Some(x) {
            self.columns.quantize(self.gpu.compute(), self.registers.get(x), width)?;
            self.rounded = Some(x);
        }
        Ok(())
    }

    /// Adds what is yet to be added.
    pub(super) fn settle(&mut self) -> Result<()> {
        if let Some((block, x)) = self.pending.take() {
            let (block, mut sum) = self.registers.pair(block, x);
            cuda::add(self.gpu.compute(), &mut sum, block)?;
        }
        Ok(())
    }

    /// What was rounded of a register is not what it holds any more.
    pub(super) fn writes(&mut self, out: Part) {
        self.rounded = self.rounded.filter(|rounded| rounded.register != out.register);
    }
}
