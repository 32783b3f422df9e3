//! Mixtures over many tokens on a card: pairs of token and expert are grouped by expert, and each expert is read once for all of its tokens.
//!
//! The processor reads the choice, lists the pairs, and has the card compute its experts run by run, as many pairs at a time as outputs have
//! room; meanwhile it computes its own. Experts that are alike share a launch ([`JobList`]); others are computed one by one, those that are
//! [apart](Home::Apart) with the processor's help, after its own.

use std::ops::Range;
use std::sync::Arc;

use kernels::cuda::{
    self, JOB_COLUMNS, JobList, Matrix, Output, Rows, Slice, WeightedRows, add_weighted, in_integers, lookup,
    scale_rows,
};
use plan::QuantType;

use super::experts::{Home, Lists, parts};
use super::mixture::{NO_ROOM, count_on_card, joining};
use super::words::Words;
use super::{GpuPass, GpuSide, Result};
use crate::blocks::Quants;
use crate::pairs::Pairs;
use crate::spec::{Linear, Mixture};
use crate::steps::{Part, Register, Steps};

/// How a run of experts is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By lists of matrices of these types.
    Listed([QuantType; 3]),
    /// One by one.
    Single,
    /// One by one, some of their matrices by the processor.
    Apart,
    /// As they are brought.
    Brought,
}

/// Experts that are computed together: groups of pairs, and the pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) kind: Kind,
    pub(super) groups: Range<usize>,
    pub(super) pairs: Range<usize>,
}

impl Run {
    fn len(&self) -> usize {
        self.pairs.len()
    }
}

/// Cuts groups of pairs to runs of one kind that have room for `most` pairs; no group has more.
pub(super) fn cut(pairs: &Pairs, groups: Range<usize>, most: usize, kind_of: impl Fn(usize) -> Kind) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for group in groups {
        let (expert, range) = pairs.group_at(group);
        let kind = kind_of(expert);
        match runs.last_mut() {
            Some(last) if last.kind == kind && last.len() + range.len() <= most => {
                last.groups.end = group + 1;
                last.pairs.end = range.end;
            }
            _ => runs.push(Run { kind, groups: group..group + 1, pairs: range }),
        }
    }
    runs
}

/// Where a matrix (0: gate, 1: up, 2: down) of an expert is on the card.
pub(super) type Place<'p, 't> = &'p dyn Fn(usize, usize) -> Slice<'t, u8>;

/// The list of one matrix of each expert of a run, and then of the next one, of matrices that have the same shape and read the same: each with the
/// columns of the expert's pairs.
fn list<'t>(
    place: Place<'_, 't>,
    quants: &Quants,
    f: &Mixture,
    (pairs, run, matrices): (&Pairs, &Run, Range<usize>),
) -> JobList<'t> {
    let many = run.len() > JOB_COLUMNS * run.groups.len();
    let mut list = if many { JobList::wide() } else { JobList::default() };
    for part in matrices {
        let (rows, width) = if part == 2 { (f.router.inputs, f.inner) } else { (f.inner, f.router.inputs) };
        for (expert, range) in run.groups.clone().map(|group| pairs.group_at(group)) {
            let slice = parts(&f.experts[expert])[part];
            let weights = place(expert, part);
            let column = |pair| if part == 2 { pair - run.pairs.start } else { pairs.token(pair) };
            list.push(
                &Matrix { quant: quants.get(slice.unit), weights, rows, width },
                range.map(|pair| column(pair) as u32),
            );
        }
    }
    list
}

impl GpuPass<'_, '_> {
    /// Waits for the choice, groups it for both sides, and has the processor's experts brought, with what they read.
    pub(super) fn group(&mut self, layer: usize, f: &Mixture) -> Result<()> {
        self.pay()?;
        let (host, side) = (&mut *self.host, &mut *self.side);
        let Some(m) = &mut side.mixtures else { unreachable!("{NO_ROOM}") };
        let choices = host.tokens * f.routing.used;
        let (experts, stream, quants) = (m.layers.at(layer), side.gpu.compute(), host.quants);
        let Lists { pairs, runs, .. } = &mut m.lists;
        pairs.clear(choices);
        let brought = host.devices.brought_to(side.number);
        if brought.is_some() {
            host.tiers.advance_on(side.number)?;
        }
        stream.download_now(m.chosen.slice().range(..choices), &mut pairs.chosen)?;
        stream.download_now(m.weights.slice().range(..choices), &mut pairs.weights)?;
        let brought = brought.is_some();
        let route = Arc::clone(&host.devices.route);
        let kept = |expert: usize| route.keeps(f.experts[expert].gate.unit);
        let mine = |expert: usize| experts.home(expert) != Home::Away || brought && !kept(expert);
        pairs.group(f.routing.experts, f.routing.used, &mine);
        let kind = |expert: usize| {
            let types = parts(&f.experts[expert]).map(|part| quants.get(part.unit));
            match experts.home(expert) {
                Home::Here if types.into_iter().all(in_integers) => Kind::Listed(types),
                Home::Here => Kind::Single,
                Home::Away | Home::Apart if brought => Kind::Brought,
                Home::Away | Home::Apart => Kind::Apart,
            }
        };
        *runs = cut(pairs, 0..pairs.group_count(), m.counts.run, kind);
        let theirs = &mut host.scratch.pairs;
        theirs.clear(choices);
        theirs.chosen.copy_from_slice(&pairs.chosen);
        theirs.weights.copy_from_slice(&pairs.weights);
        host.count_choice(layer, f, &|expert| !mine(expert));
        let chosen = pairs.groups().map(|(expert, _)| expert);
        let (brought, here): (Vec<usize>, Vec<usize>) = chosen.partition(|expert| kind(*expert) == Kind::Brought);
        count_on_card(host, side.number, f, here.into_iter());
        host.bring_experts(side.number, f, &brought)?;
        host.expect_experts(f)?;
        for run in runs.iter().filter(|run| run.kind == Kind::Apart) {
            for part in [0, 1, 2] {
                for (expert, _) in run.groups.clone().map(|group| pairs.group_at(group)) {
                    host.tiers.expect(parts(&f.experts[expert])[part])?;
                }
            }
        }
        host.go_on()?;
        side.send_words(f, choices)?;
        if host.scratch.pairs.len() > 0 {
            // Now, for the stream is at its end: later they would wait for all that the card computes meanwhile.
            let normed = host.now().rows(Register::Normed, host.spec.width);
            self.send_away(normed)?;
        }
        Ok(())
    }

    /// block = the outputs of the grouped experts for `x`, or that added to it.
    pub(super) fn add_grouped(&mut self, f: &Mixture, x: Part, block: Part, add: bool) -> Result<()> {
        let side = &mut *self.side;
        side.writes(block);
        if !add {
            side.gpu.compute().fill(&mut side.registers.get_mut(block), 0)?;
        }
        let Some(m) = &mut side.mixtures else { unreachable!("{NO_ROOM}") };
        let words = Words { pairs: m.lists.pairs.len(), choices: self.host.tokens * f.routing.used };
        let runs = std::mem::take(&mut m.lists.runs);
        for run in runs.iter().filter(|run| !matches!(run.kind, Kind::Apart | Kind::Brought)) {
            self.add_run(f, run, words, x, block)?;
        }
        self.add_brought(f, words, x, block)?;
        self.add_away(f, block)?;
        for run in runs.iter().filter(|run| run.kind == Kind::Apart) {
            self.add_run(f, run, words, x, block)?;
        }
        self.side.add_down_biases(f, words, block)
    }

    /// Adds the outputs of one run of experts.
    pub(super) fn add_run(&mut self, f: &Mixture, run: &Run, words: Words, x: Part, block: Part) -> Result<()> {
        if matches!(run.kind, Kind::Listed(_)) {
            let (tiers, number) = (&*self.host.tiers, self.side.number);
            let place = |expert: usize, part: usize| {
                let Some(weights) = tiers.on_card(number, parts(&f.experts[expert])[part]) else {
                    unreachable!("listed experts are here")
                };
                weights
            };
            return self.side.add_listed(self.host.quants, f, (run, words), (x, block), &place);
        }
        let RunParts { halves, rows, inners } = RunParts::of(f, run);
        self.side.gather(words.of_pair(0), run, x, rows, f.router.inputs)?;
        self.singly(f, run, 0, rows, halves[0])?;
        self.singly(f, run, 1, rows, halves[1])?;
        self.side.join_halves(f, run, words, halves, Some(inners))?;
        self.singly(f, run, 2, inners, rows)?;
        self.side.add_rows(f, run, words, rows, block)
    }

    /// The products of one matrix of each expert of a run, one after another, from rows that lie by pair.
    fn singly(&mut self, f: &Mixture, run: &Run, part: usize, x: Part, out: Part) -> Result<()> {
        let (inputs, outputs) = (x.count / run.len(), out.count / run.len());
        for group in run.groups.clone() {
            let Some(m) = &self.side.mixtures else { unreachable!("{NO_ROOM}") };
            let (expert, range) = m.lists.pairs.group_at(group);
            let (first, count) = (range.start - run.pairs.start, range.len());
            let weight = parts(&f.experts[expert])[part].clone();
            let linear = Linear { weight, bias: None, inputs, outputs };
            let (from, to) = (x.part(first * inputs, count * inputs), out.part(first * outputs, count * outputs));
            // What was expected here is taken here, or it would stand in the way of what comes behind it.
            match run.kind {
                Kind::Brought => self.streamed(&[&linear], from, to, count)?,
                _ => self.where_they_live(&[&linear], from, to, count)?,
            }
        }
        Ok(())
    }
}

/// Where a run's numbers are: gates and ups, outputs by pair, and what they are made from.
struct RunParts {
    halves: [Part; 2],
    rows: Part,
    inners: Part,
}

impl RunParts {
    fn of(f: &Mixture, run: &Run) -> Self {
        let (inner, count) = (f.inner, run.len());
        let both = Part { register: Register::GateUp, start: 0, count: 2 * count * inner };
        Self {
            halves: [both.part(0, count * inner), both.part(count * inner, count * inner)],
            rows: Part { register: Register::Attended, start: 0, count: count * f.router.inputs },
            inners: Part { register: Register::Inner, start: 0, count: count * inner },
        }
    }
}

impl GpuSide {
    /// Adds the outputs of a run of experts that are alike, which are at these places.
    pub(super) fn add_listed(
        &mut self,
        quants: &Quants,
        f: &Mixture,
        (run, words): (&Run, Words),
        (x, block): (Part, Part),
        place: Place<'_, '_>,
    ) -> Result<()> {
        let RunParts { halves, rows, .. } = RunParts::of(f, run);
        self.round(x, f.router.inputs)?;
        if matches!(run.kind, Kind::Listed([gate, up, _]) if gate == up) {
            // In one launch: a slot's worth of one of them leaves half of a large card idle.
            let both = Part { count: halves[0].count + halves[1].count, ..halves[0] };
            self.listed(quants, f, (run, 0..2), both, place)?;
        } else {
            self.listed(quants, f, (run, 0..1), halves[0], place)?;
            self.listed(quants, f, (run, 1..2), halves[1], place)?;
        }
        self.join_halves(f, run, words, halves, None)?;
        self.listed(quants, f, (run, 2..3), rows, place)?;
        self.add_rows(f, run, words, rows, block)
    }

    /// The products of one matrix of each expert of a run, or of two, in one launch.
    fn listed(
        &mut self,
        quants: &Quants,
        f: &Mixture,
        (run, matrices): (&Run, Range<usize>),
        out: Part,
        place: Place<'_, '_>,
    ) -> Result<()> {
        let Some(m) = &mut self.mixtures else { unreachable!("{NO_ROOM}") };
        let Lists { pairs, jobs, .. } = &mut m.lists;
        let (columns, outputs) =
            if matrices.start == 2 { (&m.inner, f.router.inputs) } else { (&self.columns, f.inner) };
        let list = list(place, quants, f, (pairs, run, matrices));
        let mut to = self.registers.get_mut(out);
        jobs.multiply(&list, columns, &mut to, outputs)?;
        self.writes(out);
        Ok(())
    }

    /// Sends the words about the grouped pairs to the card, and makes room for their lists. The stream has come to its end: the choice was
    /// waited for.
    fn send_words(&mut self, f: &Mixture, choices: usize) -> Result<()> {
        let Some(m) = &mut self.mixtures else { unreachable!("{NO_ROOM}") };
        let Lists { pairs, jobs, words, there, .. } = &mut m.lists;
        jobs.empty()?;
        let places = Words { pairs: pairs.len(), choices };
        places.write(pairs, f.routing.used, f.weighs_input, &mut words[..places.count()]);
        let to = &mut there.slice_mut();
        Ok(self.gpu.compute().upload(words.part(..places.count()), &mut to.range(..places.count()))?)
    }

    /// The rows of a run's tokens, one for each pair.
    fn gather(&mut self, tokens: Range<usize>, run: &Run, x: Part, rows: Part, width: usize) -> Result<()> {
        let Some(m) = &self.mixtures else { unreachable!("{NO_ROOM}") };
        let ids = m.lists.there.slice().range(tokens).range(run.pairs.clone());
        let (from, mut to) = self.registers.pair(x, rows);
        let matrix = Matrix { quant: QuantType::F32, weights: from.cast(), rows: x.count / width, width };
        lookup(self.gpu.compute(), &matrix, ids, 1.0, &mut to)?;
        self.writes(rows);
        Ok(())
    }

    /// Activates gates and ups of a run, with biases and weights where the model has them there: to numbers, or to 8 bits for a list.
    fn join_halves(
        &mut self,
        f: &Mixture,
        run: &Run,
        words: Words,
        halves: [Part; 2],
        numbers: Option<Part>,
    ) -> Result<()> {
        let Some(m) = &mut self.mixtures else { unreachable!("{NO_ROOM}") };
        let (stream, inner, count) = (self.gpu.compute(), f.inner, run.len());
        let of_run = |which: usize| m.lists.there.slice().range(words.of_pair(which)).range(run.pairs.clone());
        for (which, half) in halves.into_iter().enumerate() {
            let mut half = self.registers.get_mut(half);
            if let Some(biases) = f.experts[0].biases {
                let y = self.vectors.of_experts(biases[which], f.experts.len());
                let rows = WeightedRows { y, places: of_run(1), first: 0, weights: of_run(3).cast(), used: 1 };
                add_weighted(stream, &mut half, &rows, inner)?;
            }
            if f.weighs_input {
                scale_rows(stream, &mut half, of_run(2).cast(), inner)?;
            }
        }
        let whole = Part { count: 2 * count * inner, ..halves[0] };
        let inners = numbers.unwrap_or(Part { register: Register::Inner, start: 0, count: count * inner });
        let (both, mut to) = self.registers.pair(whole, inners);
        let half = |start| Rows { numbers: both.range(start..start + count * inner), step: inner };
        let output = if numbers.is_some() { Output::numbers(&mut to) } else { Output::rounded(&mut m.inner) };
        cuda::gated(stream, joining(f.activation), half(0), half(count * inner), count, inner, output)?;
        self.writes(inners);
        Ok(())
    }

    /// Adds the rows of a run's pairs, with their weights, to their tokens' sums.
    fn add_rows(&mut self, f: &Mixture, run: &Run, words: Words, rows: Part, block: Part) -> Result<()> {
        let Some(m) = &self.mixtures else { unreachable!("{NO_ROOM}") };
        let there = m.lists.there.slice();
        let (y, mut block) = self.registers.pair(rows, block);
        let (places, weights) = (there.range(words.of_choice(0)), there.range(words.of_choice(1)).cast());
        let rows = WeightedRows { y, places, first: run.pairs.start as u32, weights, used: f.routing.used };
        Ok(add_weighted(self.gpu.compute(), &mut block, &rows, f.router.inputs)?)
    }

    fn add_down_biases(&mut self, f: &Mixture, words: Words, block: Part) -> Result<()> {
        let (Some([_, _, down]), Some(m)) = (f.experts[0].biases, &self.mixtures) else { return Ok(()) };
        let there = m.lists.there.slice();
        let y: Slice<'_, f32> = self.vectors.of_experts(down, f.experts.len());
        let (places, weights) = (there.range(words.of_choice(2)), there.range(words.of_choice(1)).cast());
        let rows = WeightedRows { y, places, first: 0, weights, used: f.routing.used };
        Ok(add_weighted(self.gpu.compute(), &mut self.registers.get_mut(block), &rows, f.router.inputs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::tests::pairs;
    use super::*;

    #[test]
    fn runs_hold_whole_experts_of_one_kind() {
        // Experts 0, 1, 3 and 5 with 3, 1, 2 and 2 pairs.
        let pairs = pairs(&[3, 0, 0, 1, 3, 0, 5, 7, 5, 6], &[0, 1, 3, 5]);
        let run = |kind, groups, pairs| Run { kind, groups, pairs };
        let single = Kind::Single;
        for (most, apart, expected) in [
            (8, 7, vec![run(single, 0..4, 0..8)]),
            (4, 7, vec![run(single, 0..2, 0..4), run(single, 2..4, 4..8)]),
            (3, 7, vec![run(single, 0..1, 0..3), run(single, 1..3, 3..6), run(single, 3..4, 6..8)]),
            (8, 1, vec![run(single, 0..1, 0..3), run(Kind::Apart, 1..2, 3..4), run(single, 2..4, 4..8)]),
        ] {
            let kind = |expert| if expert == apart { Kind::Apart } else { single };
            assert_eq!(cut(&pairs, 0..pairs.group_count(), most, kind), expected, "{most} {apart}");
        }
    }
}
