//! A mixture of experts: the router chooses, tokens are grouped by expert, and no expert is read that none chose.
//!
//! Each chosen expert's output joins its tokens' sums in ascending order of experts, wherever the expert lives, so a home
//! changes no bit. All resident experts are computed in one call of the kernel; those on disk piece by piece as they land.

use candle_core::Tensor;
use kernels::cpu::{
    Column, Columns, Job, WeightedColumn, WeightedJob, dequantize, matmul_jobs, matmul_weighted, route,
};
use plan::UnitId;
use tiers::{RowSlice, Tiers};

use super::{Pass, Result};
use crate::experts::{Choice, ExpertRecord};
use crate::ops::{self, Activate, ScaleRows, Sigmoid};
use crate::scratch::part;
use crate::spec::{Expert, Mixture, Shared};

/// Which matrix of an expert.
#[derive(Clone, Copy)]
enum Half {
    Gate,
    Up,
}

impl Pass<'_> {
    pub(super) fn mixture(&mut self, layer: usize, f: &Mixture) -> Result<()> {
        let x = self.view(&self.scratch.x, self.spec.width)?;
        let normed = self.view(&self.scratch.normed, self.spec.width)?;
        let block = self.view(&self.scratch.block, self.spec.width)?;
        self.norm(&f.norm, &x, &normed)?;
        self.choose(layer, f, &normed)?;
        self.expect_chosen(f)?;
        match &f.shared {
            // Its bytes were expected before the experts', and it is computed while theirs are on their way.
            Some(shared) => self.shared(shared, f, &normed, &block)?,
            None => ops::with_numbers_mut(&block, |numbers| numbers.fill(0.0))?,
        }
        self.activate_experts(f, &normed)?;
        self.add_experts(f, &block)?;
        self.join(&block, None)
    }

    /// Asks the router, and groups this pass's pairs of token and expert by expert.
    fn choose(&mut self, layer: usize, f: &Mixture, normed: &Tensor) -> Result<()> {
        let scores = self.view(&self.scratch.scores, f.routing.experts)?;
        self.linear(&f.router, normed, &scores)?;
        let bias = match &f.selection_bias {
            Some(bias) => {
                self.load(bias)?;
                Some(&self.scratch.vector[..bias.length])
            }
            None => None,
        };
        let pairs = &mut self.scratch.pairs;
        pairs.clear(self.tokens * f.routing.used);
        ops::with_numbers(&scores, |scores| route(&f.routing, scores, bias, &mut pairs.chosen, &mut pairs.weights))?;
        pairs.group(f.routing.experts, f.routing.used);
        let choice = Choice {
            first_position: self.first_position,
            layer,
            used: f.routing.used,
            experts: &self.scratch.pairs.chosen,
        };
        self.experts.chose(&choice);
        Ok(())
    }

    /// Tells the tiers which experts come, and what comes after them.
    fn expect_chosen(&mut self, f: &Mixture) -> Result<()> {
        for (expert, _) in self.scratch.pairs.groups() {
            let Expert { gate, up, down, .. } = &f.experts[expert];
            self.experts.used([gate, up, down].iter().all(|part| self.tiers.is_resident(part.unit)));
            self.tiers.expect(gate)?;
            self.tiers.expect(up)?;
        }
        for (expert, _) in self.scratch.pairs.groups() {
            self.tiers.expect(&f.experts[expert].down)?;
        }
        Ok(self.lookahead.go_on(self.tiers, self.spec)?)
    }

    fn shared(&mut self, shared: &Shared, f: &Mixture, normed: &Tensor, block: &Tensor) -> Result<()> {
        self.gated(&shared.unit, f.activation, normed, block)?;
        let Some(gate) = &shared.gate else { return Ok(()) };
        let gates = self.view(&self.scratch.scores, 1)?;
        self.linear(gate, normed, &gates)?;
        gates.inplace_op1(&Sigmoid(self.pool))?;
        let width = self.spec.width;
        Ok(ops::with_numbers(&gates, |factors| block.inplace_op1(&ScaleRows { width, factors }))??)
    }

    /// inner[pair] = activation(gate(x)) · up(x), for every pair.
    fn activate_experts(&mut self, f: &Mixture, normed: &Tensor) -> Result<()> {
        let count = self.scratch.pairs.len();
        let both = part(&self.scratch.gate_up, 0, 2 * count * f.inner)?;
        ops::between(&both, normed, |out, x| self.gate_and_up(f, x, out))??;
        for half in [Half::Gate, Half::Up] {
            self.add_biases(f, half, &both)?;
        }
        let gate = part(&both, 0, count * f.inner)?;
        let up = part(&both, count * f.inner, count * f.inner)?;
        if f.weighs_input {
            // Both halves are linear in the input: they are weighed in its place.
            for half in [&gate, &up] {
                half.inplace_op1(&ScaleRows { width: f.inner, factors: self.scratch.pairs.pair_weights() })?;
            }
        }
        let inner = part(&self.scratch.inner, 0, count * f.inner)?;
        Ok(inner.inplace_op3(&gate, &up, &Activate { pool: self.pool, activation: f.activation })?)
    }

    /// out = the gates of all pairs, and then their ups. Resident experts come first, in one call.
    fn gate_and_up(&mut self, f: &Mixture, x: &[f32], out: &mut [f32]) -> Result<()> {
        let width = self.spec.width;
        let count = self.scratch.pairs.len();
        self.scratch.pairs.list_columns(width, f.inner);
        let pairs = &self.scratch.pairs;
        let mut jobs = Vec::with_capacity(2 * pairs.groups().len());
        for half in [Half::Gate, Half::Up] {
            for (expert, range) in pairs.groups() {
                let slice = f.experts[expert].half(half);
                if let Some(weights) = self.tiers.resident(slice) {
                    let columns = Columns::Listed(&pairs.columns(half.is_up())[range]);
                    jobs.push(Job { quant: self.quants.get(slice.unit), weights, rows: f.inner, columns });
                }
            }
        }
        matmul_jobs(self.pool, &jobs, width, x, out);
        let mut columns: Vec<Column> = Vec::new();
        for (expert, range) in pairs.groups() {
            for half in [Half::Gate, Half::Up] {
                let slice = f.experts[expert].half(half);
                let quant = self.quants.get(slice.unit);
                each_staged(self.tiers, self.experts, slice, &mut |first, rows, weights| {
                    columns.clear();
                    let listed = &pairs.columns(half.is_up())[range.clone()];
                    columns.extend(listed.iter().map(|c| Column { from: c.from, to: c.to + first }));
                    let job = Job { quant, weights, rows, columns: Columns::Listed(&columns) };
                    matmul_jobs(self.pool, &[job], width, x, out);
                })?;
            }
        }
        debug_assert_eq!(out.len(), 2 * count * f.inner, "gates and ups of all pairs");
        Ok(())
    }

    /// block[token] += weight · down(inner), expert after expert in ascending order.
    fn add_experts(&mut self, f: &Mixture, block: &Tensor) -> Result<()> {
        let inner = part(&self.scratch.inner, 0, self.scratch.pairs.len() * f.inner)?;
        ops::between(block, &inner, |out, x| self.down(f, x, out))??;
        self.add_down_biases(f, block)
    }

    fn down(&mut self, f: &Mixture, x: &[f32], out: &mut [f32]) -> Result<()> {
        let width = self.spec.width;
        self.scratch.pairs.list_weighted(f.inner, width, f.weighs_input);
        let pairs = &self.scratch.pairs;
        let mut columns: Vec<WeightedColumn> = Vec::new();
        let mut groups = pairs.groups().peekable();
        while groups.peek().is_some() {
            // As many resident experts as follow each other, in one call.
            let mut jobs = Vec::new();
            while let Some((expert, range)) = groups.peek().cloned() {
                let slice = &f.experts[expert].down;
                let Some(weights) = self.tiers.resident(slice) else { break };
                let columns = &pairs.weighted()[range];
                jobs.push(WeightedJob { quant: self.quants.get(slice.unit), weights, rows: width, columns });
                groups.next();
            }
            matmul_weighted(self.pool, &jobs, f.inner, x, out);
            let Some((expert, range)) = groups.next() else { break };
            let slice = &f.experts[expert].down;
            let quant = self.quants.get(slice.unit);
            each_staged(self.tiers, self.experts, slice, &mut |first, rows, weights| {
                columns.clear();
                let listed = &pairs.weighted()[range.clone()];
                columns.extend(listed.iter().map(|c| WeightedColumn { to: c.to + first, ..*c }));
                let job = WeightedJob { quant, weights, rows, columns: &columns };
                matmul_weighted(self.pool, &[job], f.inner, x, out);
            })?;
        }
        Ok(())
    }

    /// Adds each expert's bias, where it has one, to the gates or ups of its pairs.
    fn add_biases(&mut self, f: &Mixture, half: Half, both: &Tensor) -> Result<()> {
        let start = if half.is_up() { self.scratch.pairs.len() * f.inner } else { 0 };
        for group in 0..self.scratch.pairs.group_count() {
            let (expert, range) = self.scratch.pairs.group_at(group);
            let Some([gate, up, _]) = f.experts[expert].biases else { continue };
            let length = range.len() * f.inner;
            self.gather_vector(if half.is_up() { up } else { gate }, f.inner)?;
            let rows = part(both, start + range.start * f.inner, length)?;
            rows.inplace_op1(&ops::AddVector(&self.scratch.vector[..f.inner]))?;
        }
        Ok(())
    }

    fn add_down_biases(&mut self, f: &Mixture, block: &Tensor) -> Result<()> {
        let width = self.spec.width;
        for group in 0..self.scratch.pairs.group_count() {
            let (expert, range) = self.scratch.pairs.group_at(group);
            let Some([_, _, down]) = f.experts[expert].biases else { continue };
            self.gather_vector(down, width)?;
            let bias = &self.scratch.vector[..width];
            ops::with_numbers_mut(block, |block| {
                for pair in range {
                    let (token, weight) = (self.scratch.pairs.token(pair), self.scratch.pairs.weight(pair));
                    let row = &mut block[token * width..(token + 1) * width];
                    row.iter_mut().zip(bias).for_each(|(x, b)| *x += weight * b);
                }
            })?;
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

/// Hands the rows of `slice`, where it comes from disk, to `use_them` as they land: the first row counted from the
/// slice's, how many, and their bytes.
fn each_staged(
    tiers: &mut Tiers,
    experts: &mut ExpertRecord,
    slice: &RowSlice,
    use_them: &mut dyn FnMut(usize, usize, &[u8]),
) -> Result<()> {
    if tiers.is_resident(slice.unit) {
        return Ok(());
    }
    for piece in tiers.pieces(slice) {
        let weights = tiers.lease(&piece)?;
        experts.read(weights.len());
        let first = piece.rows.start - slice.rows.start;
        use_them(first as usize, (piece.rows.end - piece.rows.start) as usize, &weights);
    }
    Ok(())
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
