//! A mixture of experts: the router chooses, tokens are grouped by expert, and no expert is read that none chose.
//!
//! Each chosen expert's output joins its tokens' sums in ascending order of experts, wherever the expert lives, so a home
//! changes no bit. All resident experts are computed in one call of the kernel; those on disk piece by piece as they land.

use kernels::cpu::{
    Column, Columns, Input, Job, WeightedColumn, WeightedJob, dequantize, matmul_jobs, matmul_weighted, route,
};
use plan::{Tier, UnitId};
use tiers::RowSlice;

use super::ffn::{down, gate_up};
use super::linear::each_staged;
use super::{Pass, Result, join};
use crate::experts::Choice;
use crate::ops::{Activate, AddVector, ScaleRows};
use crate::span::Span;
use crate::spec::{Expert, Ffn, Mixture, Spec};
use crate::steps::{Part, Register, Steps};

/// Which matrix of an expert.
#[derive(Clone, Copy)]
enum Half {
    Gate,
    Up,
}

/// x += experts(norm(x)).
pub(super) fn mixture(s: &mut dyn Steps, spec: &Spec, layer: usize, f: &Mixture) -> Result<()> {
    let now = s.now();
    let (normed, block) = (now.rows(Register::Normed, spec.width), now.rows(Register::Block, spec.width));
    let (all, [_, _, scores, own_gate]) = now.parts(Register::GateUp, f.widths());
    s.norm(&f.norm, now.rows(Register::X, spec.width), normed)?;
    let together = f.shared.is_some() && s.in_one_call(f);
    if together {
        let (mut group, mut count) = ([&f.router; 4], 0);
        for (place, matrix) in group.iter_mut().zip(f.inputs()) {
            *place = matrix;
            count += 1;
        }
        s.products(&group[..count], normed, all, now.tokens)?;
    } else {
        s.products(&[&f.router], normed, scores, now.tokens)?;
    }
    s.choose(layer, f, scores)?;
    foresee(s, spec, layer, scores, block)?;
    if let Some(shared) = &f.shared {
        // Its bytes were expected before the experts', and it is computed while theirs are on their way.
        if !together {
            gate_up(s, &shared.unit, normed)?;
        }
        down(s, &shared.unit, f.activation, block)?;
        if let Some(own) = &shared.gate {
            if !together {
                s.products(&[own], normed, own_gate, now.tokens)?;
            }
            s.open_rows(own_gate, block)?;
        }
    }
    s.experts(layer, f, normed, block, f.shared.is_some())?;
    join(s, spec, None)
}

/// Guesses what the next layer's router will choose: its input is this one's, but for what this layer's experts and the next attention add.
/// Overwrites `scores` and `room`.
fn foresee(s: &mut dyn Steps, spec: &Spec, layer: usize, scores: Part, room: Part) -> Result<()> {
    match spec.layers.get(layer + 1).map(|layer| &layer.ffn) {
        Some(Ffn::Mixture(next)) if next.routing.experts == scores.count && s.foresees(next) => {
            s.norm(&next.norm, s.now().rows(Register::X, spec.width), room)?;
            s.products(&[&next.router], room, scores, s.now().tokens)?;
            s.guess(layer + 1, next, scores)
        }
        _ => Ok(()),
    }
}

impl Pass<'_> {
    /// Groups this pass's pairs of token and expert by expert, as the router's scores have it.
    pub(super) fn choose_experts(&mut self, layer: usize, f: &Mixture, scores: &Span) -> Result<()> {
        let bias = match &f.selection_bias {
            Some(bias) => {
                self.load(bias)?;
                Some(&self.scratch.vector[..bias.length])
            }
            None => None,
        };
        let pairs = &mut self.scratch.pairs;
        pairs.clear(self.tokens * f.routing.used);
        scores.with(|scores| route(&f.routing, scores, bias, &mut pairs.chosen, &mut pairs.weights))?;
        self.count_choice(layer, f, &|_| true);
        self.expect_experts(f)?;
        self.go_on()
    }

    /// Groups the pairs of what was chosen whose experts are `mine` to compute, and counts the choice.
    pub(crate) fn count_choice(&mut self, layer: usize, f: &Mixture, mine: &dyn Fn(usize) -> bool) {
        self.scratch.pairs.group(f.routing.experts, f.routing.used, mine);
        self.experts.guessed(self.lookahead.foresight.chose(layer, &self.scratch.pairs.chosen));
        let choice = Choice {
            first_position: self.first_position,
            layer,
            used: f.routing.used,
            experts: &self.scratch.pairs.chosen,
        };
        self.experts.chose(&choice);
    }

    /// Tells the tiers which of the grouped experts come.
    pub(crate) fn expect_experts(&mut self, f: &Mixture) -> Result<()> {
        self.tiers.chose(self.scratch.pairs.groups().map(|(expert, _)| f.experts[expert].gate.unit));
        for (expert, _) in self.scratch.pairs.groups() {
            let Expert { gate, up, down, .. } = &f.experts[expert];
            self.experts.used([gate, up, down].iter().all(|part| self.tiers.is_resident(part.unit)));
            self.tiers.expect(gate)?;
            self.tiers.expect(up)?;
        }
        for (expert, _) in self.scratch.pairs.groups() {
            self.tiers.expect(&f.experts[expert].down)?;
        }
        self.tiers.give_up_guesses();
        Ok(())
    }

    /// Whether a guess for a layer could be of use and costs no read itself.
    pub(super) fn can_foresee(&self, f: &Mixture) -> bool {
        let resident = |unit: UnitId| self.tiers.is_resident(unit);
        let bias = f.selection_bias.as_ref().is_none_or(|bias| resident(bias.slice.unit));
        self.tokens == 1
            && self.lookahead.foresight.looks(self.first_position)
            && f.experts.iter().any(|expert| self.tiers.home(expert.gate.unit) == Tier::Disk)
            && resident(f.norm.slice.unit)
            && resident(f.router.weight.unit)
            && f.router.bias.is_none()
            && bias
    }

    /// Takes a guess, and tells the tiers which experts may come.
    pub(super) fn guess_experts(&mut self, layer: usize, f: &Mixture, scores: &Span) -> Result<()> {
        let bias = match &f.selection_bias {
            Some(bias) => {
                self.load(bias)?;
                Some(&self.scratch.vector[..bias.length])
            }
            None => None,
        };
        let foresight = &mut self.lookahead.foresight;
        let (chosen, weights) = foresight.guess(layer, f.routing.used);
        scores.with(|scores| route(&f.routing, scores, bias, chosen, weights))?;
        let read = foresight.leave(|expert| !self.tiers.is_resident(f.experts[expert as usize].gate.unit));
        for expert in read.iter().map(|expert| &f.experts[*expert as usize]) {
            self.tiers.guess(&expert.gate)?;
            self.tiers.guess(&expert.up)?;
        }
        for expert in read {
            self.tiers.guess(&f.experts[*expert as usize].down)?;
        }
        Ok(())
    }

    /// Tells the tiers what comes after a layer's experts.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        Ok(self.lookahead.go_on(self.tiers, self.spec, &self.devices.route)?)
    }

    /// Adds the weighed outputs of the grouped pairs' experts for `x` to `block`.
    pub(crate) fn join_experts(&mut self, f: &Mixture, x: &[f32], block: &mut [f32]) -> Result<()> {
        self.activate_experts(f, x)?;
        self.add_experts(f, block)
    }

    /// inner[pair] = activation(gate(x)) · up(x), for every pair.
    fn activate_experts(&mut self, f: &Mixture, normed: &[f32]) -> Result<()> {
        let count = self.scratch.pairs.len();
        let both = Span::new(&self.scratch.gate_up, 0, 2 * count * f.inner);
        both.with_mut(|out| self.gate_and_up(f, normed, out))??;
        for half in [Half::Gate, Half::Up] {
            self.add_biases(f, half, &both)?;
        }
        if f.weighs_input {
            // Both halves are linear in the input: they are weighed in its place.
            for half in [0, count * f.inner] {
                let factors = self.scratch.pairs.pair_weights();
                both.part(half, count * f.inner).change(&ScaleRows { width: f.inner, factors })?;
            }
        }
        let inner = Span::new(&self.scratch.inner, 0, count * f.inner);
        Ok(inner.make(&both, &Activate { pool: self.pool, activation: f.activation })?)
    }

    /// out = the gates of all pairs, and then their ups. Resident experts come first, in one call.
    fn gate_and_up(&mut self, f: &Mixture, x: &[f32], out: &mut [f32]) -> Result<()> {
        let width = self.spec.width;
        let count = self.scratch.pairs.len();
        self.scratch.pairs.list_columns(width, f.inner);
        let pairs = &self.scratch.pairs;
        let types = pairs.groups().flat_map(|(expert, _)| {
            [Half::Gate, Half::Up].map(|half| self.quants.get(f.experts[expert].half(half).unit))
        });
        let quantized = self.scratch.rounded.make(self.pool, x, width, types);
        let x = Input { numbers: x, quantized };
        let halves = [Half::Gate, Half::Up];
        let mut parts =
            halves.iter().flat_map(|half| pairs.groups().map(move |(expert, range)| (half, expert, range))).peekable();
        while parts.peek().is_some() {
            // So many at a time that reads go on meanwhile.
            let mut room = self.tiers.read_on();
            let mut jobs = Vec::with_capacity(2 * pairs.groups().len());
            while room > 0
                && let Some((half, expert, range)) = parts.next()
            {
                let slice = f.experts[expert].half(*half);
                if let Some(weights) = self.tiers.resident(slice) {
                    let columns = Columns::Listed(&pairs.columns(half.is_up())[range]);
                    jobs.push(Job { quant: self.quants.get(slice.unit), weights, rows: f.inner, columns });
                    room = room.saturating_sub(weights.len() as u64);
                }
            }
            matmul_jobs(self.pool, &jobs, width, x, out);
        }
        let mut columns: Vec<Column> = Vec::new();
        for (expert, range) in pairs.groups() {
            for half in [Half::Gate, Half::Up] {
                let slice = f.experts[expert].half(half);
                let quant = self.quants.get(slice.unit);
                each_staged(self.tiers, slice, &mut |first, rows, weights| {
                    self.experts.read(weights.len());
                    columns.clear();
                    let listed = &pairs.columns(half.is_up())[range.clone()];
                    columns.extend(listed.iter().map(|c| Column { from: c.from, to: c.to + first }));
                    let job = Job { quant, weights, rows, columns: Columns::Listed(&columns) };
                    matmul_jobs(self.pool, &[job], width, x, out);
                    Ok(())
                })?;
            }
        }
        debug_assert_eq!(out.len(), 2 * count * f.inner, "gates and ups of all pairs");
        Ok(())
    }

    /// block[token] += weight · down(inner), expert after expert in ascending order.
    fn add_experts(&mut self, f: &Mixture, block: &mut [f32]) -> Result<()> {
        let inner = Span::new(&self.scratch.inner, 0, self.scratch.pairs.len() * f.inner);
        inner.with(|x| self.add_downs(f, x, block))??;
        self.add_down_biases(f, block)
    }

    fn add_downs(&mut self, f: &Mixture, x: &[f32], out: &mut [f32]) -> Result<()> {
        let width = self.spec.width;
        self.scratch.pairs.list_weighted(f.inner, width, f.weighs_input);
        let pairs = &self.scratch.pairs;
        let types = pairs.groups().map(|(expert, _)| self.quants.get(f.experts[expert].down.unit));
        let quantized = self.scratch.rounded.make(self.pool, x, f.inner, types);
        let x = Input { numbers: x, quantized };
        let mut columns: Vec<WeightedColumn> = Vec::new();
        let mut groups = pairs.groups().peekable();
        while groups.peek().is_some() {
            // As many resident experts as follow each other, and so many that reads go on meanwhile, in one call.
            let mut room = self.tiers.read_on();
            let mut jobs = Vec::new();
            while room > 0
                && let Some((expert, range)) = groups.peek().cloned()
                && let slice = &f.experts[expert].down
                && let Some(weights) = self.tiers.resident(slice)
            {
                let columns = &pairs.weighted()[range];
                jobs.push(WeightedJob { quant: self.quants.get(slice.unit), weights, rows: width, columns });
                room = room.saturating_sub(weights.len() as u64);
                groups.next();
            }
            if !jobs.is_empty() {
                matmul_weighted(self.pool, &jobs, f.inner, x, out);
                continue;
            }
            let Some((expert, range)) = groups.next() else { break };
            let slice = &f.experts[expert].down;
            let quant = self.quants.get(slice.unit);
            each_staged(self.tiers, slice, &mut |first, rows, weights| {
                self.experts.read(weights.len());
                columns.clear();
                let listed = &pairs.weighted()[range.clone()];
                columns.extend(listed.iter().map(|c| WeightedColumn { to: c.to + first, ..*c }));
                let job = WeightedJob { quant, weights, rows, columns: &columns };
                matmul_weighted(self.pool, &[job], f.inner, x, out);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Adds each expert's bias, where it has one, to the gates or ups of its pairs.
    fn add_biases(&mut self, f: &Mixture, half: Half, both: &Span) -> Result<()> {
        let start = if half.is_up() { self.scratch.pairs.len() * f.inner } else { 0 };
        for group in 0..self.scratch.pairs.group_count() {
            let (expert, range) = self.scratch.pairs.group_at(group);
            let Some([gate, up, _]) = f.experts[expert].biases else { continue };
            let length = range.len() * f.inner;
            self.gather_vector(if half.is_up() { up } else { gate }, f.inner)?;
            let rows = both.part(start + range.start * f.inner, length);
            rows.change(&AddVector(&self.scratch.vector[..f.inner]))?;
        }
        Ok(())
    }

    fn add_down_biases(&mut self, f: &Mixture, block: &mut [f32]) -> Result<()> {
        let width = self.spec.width;
        for group in 0..self.scratch.pairs.group_count() {
            let (expert, range) = self.scratch.pairs.group_at(group);
            let Some([_, _, down]) = f.experts[expert].biases else { continue };
            self.gather_vector(down, width)?;
            let bias = &self.scratch.vector[..width];
            for pair in range {
                let (token, weight) = (self.scratch.pairs.token(pair), self.scratch.pairs.weight(pair));
                let row = &mut block[token * width..(token + 1) * width];
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += weight * b);
            }
        }
        Ok(())
    }

    /// Unpacks an expert's bias, read by itself.
    fn gather_vector(&mut self, unit: UnitId, length: usize) -> Result<()> {
        let quant = self.quants.get(unit);
        let bytes = length * quant.block_bytes();
        self.scratch.bias_row.resize(bytes, 0);
        self.tiers.gather(unit, 0, &mut self.scratch.bias_row)?;
        dequantize(quant, &self.scratch.bias_row, &mut self.scratch.vector[..length]);
        Ok(())
    }
}

impl Half {
    const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }
}

impl Expert {
    const fn half(&self, half: Half) -> &RowSlice {
        match half {
            Half::Gate => &self.gate,
            Half::Up => &self.up,
        }
    }
}
