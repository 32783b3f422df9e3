//! Mixtures on a card: the router chooses there, and whoever has an expert computes it.
//!
//! For a few tokens nobody waits for the choice on the card's side: kernels find the experts that are there by tables, and the choice goes to
//! the processor with the tokens' numbers, which computes its experts meanwhile and sends their sum back. That sum is *owed*: what comes
//! next is put into the card's stream first, up to the next choice, and then the processor pays.
//!
//! The order of sums depends on homes in this way alone: the card's experts in the order of choice (grouped tokens: ascending), then the sum
//! of the processor's, ascending, from RAM and disk alike, and then the sum of those that were fetched, where the plan has some come.

use std::time::Instant;

use kernels::cuda::{self, Change, Chosen, Joining, Matrix, matmul_floats, route};
use plan::{QuantType, Tier, UnitId};

use super::experts::{FEW, Home, Tables, Untold, mixture, parts};
use super::fetched::Fetching;
use super::{GpuPass, GpuSide, Result};
use crate::arch::Activation;
use crate::blocks::Pass;
use crate::experts::Choice;
use crate::ops::{SWIGLU_ALPHA, SWIGLU_LIMIT};
use crate::spec::Mixture;
use crate::steps::{Part, Register, Steps};

/// How the card joins gates and ups.
pub(super) const fn joining(activation: Activation) -> Joining {
    match activation {
        Activation::Silu => Joining::Silu,
        Activation::GeluTanh => Joining::Gelu,
        Activation::SwigluClamped => Joining::Clamped { limit: SWIGLU_LIMIT, alpha: SWIGLU_ALPHA },
    }
}

impl GpuPass<'_, '_> {
    /// Chooses by the scores. A few tokens' choice is on its way to the processor then, if that has experts of this layer.
    pub(super) fn choose_experts(&mut self, layer: usize, f: &Mixture, scores: Part) -> Result<()> {
        let (tokens, first_position) = (self.host.tokens, self.host.first_position);
        let normed = self.now().rows(Register::Normed, self.host.spec.width);
        let few = self.are_few(layer);
        let side = &mut *self.side;
        let Some(m) = &mut side.mixtures else { unreachable!("{NO_ROOM}") };
        let choices = tokens * f.routing.used;
        let away = m.layers.at(layer).any(Home::Away);
        let bias = f.selection_bias.as_ref().map(|bias| side.vectors.get(bias));
        let scores = side.registers.get(scores);
        let stream = side.gpu.compute();
        let (mut weights, _) = m.weights.slice_mut().split_at(choices);
        if few && !away {
            let first = m.untold.note(layer, choices, first_position, tokens);
            let (mut chosen, _) = m.untold.chosen.slice_mut().split_at(first).1.split_at(choices);
            route(stream, &f.routing, scores, bias, &mut chosen, &mut weights, None)?;
            self.pay()?;
            return self.host.go_on();
        }
        let (mut chosen, _) = m.chosen.slice_mut().split_at(choices);
        let Some(way) = m.way.as_mut().filter(|_| few) else {
            route(stream, &f.routing, scores, bias, &mut chosen, &mut weights, None)?;
            return self.group(layer, f);
        };
        route(stream, &f.routing, scores, bias, &mut chosen, &mut weights, Some(&mut way.mail))?;
        way.crossing.leave(side.registers.get(normed))?;
        self.pay()?;
        // Behind what was paid: the copies of the layer before wait for its mark.
        self.side.mark_choice(layer)
    }

    /// block = the chosen experts' outputs for `x`, or that added to it.
    pub(super) fn add_experts(&mut self, layer: usize, f: &Mixture, x: Part, block: Part, add: bool) -> Result<()> {
        if !self.are_few(layer) {
            return self.add_grouped(f, x, block, add);
        }
        let (width, tokens, side) = (self.host.spec.width, self.host.tokens, &mut *self.side);
        side.writes(block);
        let mut added = add;
        if side.mixtures.as_ref().is_some_and(|m| m.layers.at(layer).tables.is_some()) {
            side.round(x, width)?;
            side.add_by_table(layer, f, block, add)?;
            added = true;
        }
        let Some(m) = &mut side.mixtures else { unreachable!("{NO_ROOM}") };
        if m.layers.at(layer).any(Home::Away) {
            let Some(way) = &mut m.way else { unreachable!("{NO_ROOM}") };
            let mut block = side.registers.get_mut(block);
            if added {
                way.crossing.arrive_and_add(&mut block)?;
            } else {
                way.crossing.arrive(&mut block)?;
            }
            if let Some(fetching) = m.fetching.as_ref().filter(|fetching| fetching.serves(layer)) {
                cuda::add(side.gpu.compute(), &mut block, fetching.sums(tokens * width))?;
            }
            m.owed = Some(layer);
        }
        Ok(())
    }

    /// Whether the tokens of this pass are so few that nothing is grouped for the card.
    fn are_few(&self, layer: usize) -> bool {
        let Some(m) = &self.side.mixtures else { unreachable!("{NO_ROOM}") };
        self.host.tokens <= FEW && m.layers.at(layer).by_table() && self.brought().is_none()
    }

    /// Computes the experts that the card waits for, if it does. Called before anything else that needs the processor.
    pub(crate) fn pay(&mut self) -> Result<()> {
        let (spec, tokens, side) = (self.host.spec, self.host.tokens, &mut *self.side);
        let Some(m) = &mut side.mixtures else { return Ok(()) };
        let Some(layer) = m.owed.take() else { return Ok(()) };
        let (Some(f), Some(way)) = (mixture(&spec.layers[layer].ffn), &mut m.way) else { unreachable!("{NO_ROOM}") };
        let started = Instant::now();
        let pairs = &mut self.host.scratch.pairs;
        pairs.clear(tokens * f.routing.used);
        way.mail.receive(&mut pairs.chosen, &mut pairs.weights)?;
        let now = self.host.now();
        let [normed, block] =
            [Register::Normed, Register::Block].map(|register| self.host.span(now.rows(register, spec.width)));
        let arrived = way.crossing.receive()?;
        normed.with_mut(|numbers| numbers.copy_from_slice(arrived))?;
        side.passage.arrived(arrived.len() + 2 * tokens * f.routing.used, started);
        let experts = m.layers.at(layer);
        let away = |expert: usize| experts.home(expert) == Home::Away;
        let chosen = std::mem::take(&mut self.host.scratch.pairs.chosen);
        let here = |expert: &usize| experts.home(*expert) == Home::Here;
        count_on_card(self.host, side.number, f, distinct(&chosen).filter(here));
        if let Some(fetching) = &mut m.fetching {
            fetching.choose(layer, &chosen, away);
            for (expert, fresh) in fetching.coming() {
                if fresh {
                    expect_fetched(self.host, f, expert)?;
                } else {
                    self.host.experts.used(true);
                    self.host.tiers.count_kept_on(side.number, parts(&f.experts[expert]));
                }
            }
        }
        self.host.scratch.pairs.chosen = chosen;
        let fetched = |expert| m.fetching.as_ref().is_some_and(|fetching| fetching.has(expert));
        self.host.count_choice(layer, f, &|expert| away(expert) && !fetched(expert));
        self.host.expect_experts(f)?;
        if let Some(fetching) = &mut m.fetching {
            let x = side.registers.get(now.rows(Register::Normed, spec.width));
            let chosen = &self.host.scratch.pairs.chosen;
            let weights = m.weights.slice().range(..chosen.len());
            fetching.start(&side.gpu, self.host.tiers, (layer, f), chosen, weights, x)?;
        }
        self.host.go_on()?;
        block.with_mut(|numbers| numbers.fill(0.0))?;
        if self.host.scratch.pairs.len() > 0 {
            block.with_from(&normed, |block, x| self.host.join_experts(f, x, block))??;
        }
        let Some(way) = &mut m.way else { unreachable!("{NO_ROOM}") };
        // The stream is let go when both halves are done.
        m.fetching.as_ref().map_or(Ok(()), Fetching::finish)?;
        block.with(|numbers| way.crossing.room()[..numbers.len()].copy_from_slice(numbers))?;
        way.crossing.send();
        side.passage.sent(tokens * spec.width);
        Ok(())
    }

    /// Tells the choices that nobody waited for, once their pass is done.
    pub(crate) fn tell(&mut self) -> Result<()> {
        let (spec, number) = (self.host.spec, self.side.number);
        let Some(m) = self.side.mixtures.as_mut().filter(|m| m.untold.end > 0) else { return Ok(()) };
        let Untold { chosen, end, layers, first_position, tokens } = &mut m.untold;
        let mut all = std::mem::take(&mut self.host.scratch.pairs.chosen);
        all.clear();
        all.resize(*end, 0);
        self.side.gpu.compute().download_now(chosen.slice().range(..*end), &mut all)?;
        for (layer, first) in layers.iter().copied() {
            let Some(f) = mixture(&spec.layers[layer].ffn) else { unreachable!("it has chosen") };
            let (used, first_position) = (f.routing.used, *first_position);
            let experts = &all[first..first + *tokens * used];
            self.host.experts.chose(&Choice { first_position, layer, used, experts });
            count_on_card(self.host, number, f, distinct(experts));
        }
        self.host.scratch.pairs.chosen = all;
        m.untold.clear();
        Ok(())
    }
}

/// Each expert of a few choices once.
fn distinct(chosen: &[u32]) -> impl Iterator<Item = usize> {
    let first = |(i, expert): &(usize, &u32)| !chosen[..*i].contains(expert);
    chosen.iter().enumerate().filter(first).map(|(_, expert)| *expert as usize)
}

/// Counts experts that the card computes with, and what it reads of them.
pub(super) fn count_on_card(host: &mut Pass, number: u32, f: &Mixture, experts: impl Iterator<Item = usize>) {
    for expert in experts {
        host.experts.used(true);
        for part in parts(&f.experts[expert]) {
            let _ = host.tiers.on_card(number, part);
        }
    }
}

/// Counts an expert that comes, and has what lives on disk read.
fn expect_fetched(host: &mut Pass, f: &Mixture, expert: usize) -> Result<()> {
    let parts = parts(&f.experts[expert]);
    host.experts.used(parts.iter().all(|part| host.tiers.home(part.unit) != Tier::Disk));
    Ok(parts.into_iter().try_for_each(|part| host.tiers.expect(part))?)
}

pub(super) const NO_ROOM: &str = "a card with a mixture has room for it";

impl GpuSide {
    /// Marks that the choice of a layer, and what its experts are to read, is on the card.
    fn mark_choice(&self, layer: usize) -> Result<()> {
        let fetching = self.mixtures.as_ref().and_then(|m| m.fetching.as_ref());
        fetching.filter(|fetching| fetching.serves(layer)).map_or(Ok(()), |fetching| fetching.mark(&self.gpu))
    }

    /// Makes and adds the outputs of the experts that are found by tables. The input is rounded.
    fn add_by_table(&mut self, layer: usize, f: &Mixture, block: Part, add: bool) -> Result<()> {
        let Some(m) = &mut self.mixtures else { unreachable!("{NO_ROOM}") };
        let (tokens, width) = (self.columns.columns(), f.router.inputs);
        let choices = tokens * f.routing.used;
        let untold = m.untold.layers.last().filter(|(last, _)| *last == layer);
        let experts = match untold {
            Some((_, first)) => m.untold.chosen.slice().range(*first..first + choices),
            None => m.chosen.slice().range(..choices),
        };
        let chosen = Chosen { experts, weights: m.weights.slice().range(..choices), per_token: f.routing.used };
        let biases =
            f.experts[0].biases.map(|units| units.map(|first| self.vectors.of_experts(first, f.experts.len())));
        let inputs = biases.map(|[gate, up, _]| [gate, up]);
        let Some(Tables { gate, up, down }) = &m.layers.at(layer).tables else {
            unreachable!("experts are found by tables")
        };
        let stream = self.gpu.compute();
        cuda::experts_up(stream, gate, up, inputs, joining(f.activation), &self.columns, &chosen, &mut m.inner)?;
        let mut out = self.registers.get_mut(block);
        let bias = biases.map(|[_, _, down]| down);
        cuda::experts_down(stream, down, bias, &m.inner, &chosen, &mut out, width, add)?;
        Ok(())
    }

    /// The product of a matrix of one row, of which the card has a copy, with all rows of `x`.
    pub(super) fn multiply_copy(&mut self, unit: UnitId, x: Part, out: Part) -> Result<()> {
        let Some(copy) = self.vectors.copy(unit) else { unreachable!("asked for matrices that are here") };
        let matrix = Matrix { quant: QuantType::F32, weights: copy.cast(), rows: 1, width: copy.len() };
        let (x, mut to) = self.registers.pair(x, out);
        Ok(matmul_floats(self.gpu.compute(), &matrix, x, &mut to, 1)?)
    }

    /// Multiplies each row of `x` by the sigmoid of its gate.
    pub(super) fn open_rows(&mut self, gates: Part, x: Part) -> Result<()> {
        let stream = self.gpu.compute();
        cuda::change(stream, &mut self.registers.get_mut(gates), Change::Sigmoid)?;
        let (factors, mut rows) = self.registers.pair(gates, x);
        cuda::scale_rows(stream, &mut rows, factors, x.count / gates.count)?;
        self.writes(gates);
        self.writes(x);
        Ok(())
    }
}
