//! Products with matrices, and vectors, wherever they live: the one place that leases a layer's weights.
//!
//! Owns the choice between one call of the kernel for all matrices that read the same input, and one for each run of rows that
//! lands from disk. Must never know what a product is for.

use kernels::cpu::{Columns, Job, dequantize};
use plan::{QuantType, Tier};
use tiers::{RowSlice, Tiers};

use super::{Pass, Result};
use crate::ops::{AddVector, Products};
use crate::span::Span;
use crate::spec::{Linear, Vector};

/// Matrices that read the same input, at most.
const GROUP_MAX: usize = 8;

const NO_JOB: Job = Job { quant: QuantType::F32, weights: &[], rows: 0, columns: Columns::Listed(&[]) };

impl Pass<'_> {
    /// out = x W (+ b).
    pub(super) fn linear(&mut self, linear: &Linear, x: &Span, out: &Span) -> Result<()> {
        self.linears([linear].into_iter(), x, out)
    }

    /// The products of this pass's rows of `x` with all matrices that read it, one after another from the start of `out` on.
    pub(super) fn linears<'m>(
        &mut self,
        group: impl Iterator<Item = &'m Linear> + Clone,
        x: &Span,
        out: &Span,
    ) -> Result<()> {
        self.multiply(group, x, out, self.tokens)
    }

    /// The same for the first `tokens` rows. Resident matrices are computed in one call, the others as they land.
    pub(super) fn multiply<'m>(
        &mut self,
        group: impl Iterator<Item = &'m Linear> + Clone,
        x: &Span,
        out: &Span,
        tokens: usize,
    ) -> Result<()> {
        let (pool, quants) = (self.pool, self.quants);
        let inputs = group.clone().next().map_or(0, |linear| linear.inputs);
        let types = group.clone().map(|linear| quants.get(linear.weight.unit));
        x.with(|x| self.scratch.rounded.make(pool, x, inputs, types).is_some())?;
        let columns = |linear: &Linear, to: usize| strided(linear, tokens, to);
        self.multiply_resident(group.clone(), x, out, tokens)?;
        let mut start = 0;
        for linear in group {
            let quant = quants.get(linear.weight.unit);
            each_staged(self.tiers, &linear.weight, &mut |first, rows, weights| {
                let job = Job { quant, weights, rows, columns: columns(linear, start + first) };
                let rounded = self.scratch.rounded.last();
                Ok(out.make(x, &Products { pool, jobs: &[job], inputs, rounded })?)
            })?;
            if let Some(bias) = &linear.bias {
                self.load(bias)?;
                let bias = AddVector(&self.scratch.vector[..bias.length]);
                out.part(start, tokens * linear.outputs).change(&bias)?;
            }
            start += tokens * linear.outputs;
        }
        Ok(())
    }

    /// The products with those that are resident, some rows at a time, so that reads from disk go on meanwhile.
    fn multiply_resident<'m>(
        &mut self,
        group: impl Iterator<Item = &'m Linear>,
        x: &Span,
        out: &Span,
        tokens: usize,
    ) -> Result<()> {
        let (pool, quants) = (self.pool, self.quants);
        // Each with where its outputs start, and how many of its rows are done.
        let mut matrices = group.scan(0, |next, linear| {
            let start = *next;
            *next += tokens * linear.outputs;
            Some((linear, start, 0))
        });
        let mut turn = matrices.next();
        while let Some((linear, ..)) = turn {
            let inputs = linear.inputs;
            let mut room = self.tiers.read_on();
            let (mut jobs, mut count) = ([NO_JOB; GROUP_MAX], 0);
            while room > 0
                && count < GROUP_MAX
                && let Some((linear, start, done)) = turn
            {
                let RowSlice { unit, rows } = linear.weight.clone();
                let rest = RowSlice { unit, rows: rows.start + done as u64..rows.end };
                let Some((weights, rows)) = self.tiers.resident_run(&rest, room) else {
                    turn = matrices.next();
                    continue;
                };
                let rows = rows as usize;
                let columns = strided(linear, tokens, start + done);
                jobs[count] = Job { quant: quants.get(unit), weights, rows, columns };
                (room, count) = (room.saturating_sub(weights.len() as u64), count + 1);
                turn = if done + rows < linear.outputs { Some((linear, start, done + rows)) } else { matrices.next() };
            }
            if count > 0 {
                let rounded = self.scratch.rounded.last();
                out.make(x, &Products { pool, jobs: &jobs[..count], inputs, rounded })?;
            }
        }
        Ok(())
    }

    /// Unpacks a vector to the start of the scratch vector. A slice of a fused bias starts inside its one row.
    pub(super) fn load(&mut self, vector: &Vector) -> Result<()> {
        let quant = self.quants.get(vector.slice.unit);
        let number = quant.block_bytes();
        let mut room = &mut self.scratch.vector[..vector.length];
        let mut unpack = |rows: &[u8]| {
            let bytes = &rows[vector.start * number..];
            let count = room.len().min(bytes.len() / number);
            let part;
            (part, room) = std::mem::take(&mut room).split_at_mut(count);
            dequantize(quant, &bytes[..part.len() * number], part);
        };
        if let Some(rows) = self.tiers.resident(&vector.slice) {
            unpack(rows);
        } else if matches!(self.tiers.home(vector.slice.unit), Tier::Gpu(_)) {
            // The last norm's weights, where the output has stayed with the processor.
            let row = &mut self.scratch.bias_row;
            row.resize((vector.start + vector.length) * number, 0);
            self.tiers.gather(vector.slice.unit, 0, row)?;
            unpack(row);
            return Ok(());
        }
        each_staged(self.tiers, &vector.slice, &mut |_, _, rows| {
            unpack(rows);
            Ok(())
        })
    }
}

/// The columns of `tokens` tokens, and outputs of a matrix from `to` on.
const fn strided(linear: &Linear, tokens: usize, to: usize) -> Columns<'static> {
    Columns::Strided { from: 0, from_step: linear.inputs, to, to_step: linear.outputs, count: tokens }
}

/// What becomes of rows: the first, how many, and their bytes.
type UseRows<'a> = dyn FnMut(usize, usize, &[u8]) -> Result<()> + 'a;

/// Hands the rows of `slice`, where it comes from disk, to `use_them` as they land: the first row counted from the slice's,
/// how many, and their bytes. Resident rows are asked for by [`Tiers::resident`], as many at once as one call needs.
pub(super) fn each_staged(tiers: &mut Tiers, slice: &RowSlice, use_them: &mut UseRows) -> Result<()> {
    if tiers.is_resident(slice.unit) {
        return Ok(());
    }
    for piece in tiers.pieces(slice) {
        let first = piece.rows.start - slice.rows.start;
        let weights = tiers.lease(&piece)?;
        use_them(first as usize, (piece.rows.end - piece.rows.start) as usize, &weights)?;
    }
    Ok(())
}
