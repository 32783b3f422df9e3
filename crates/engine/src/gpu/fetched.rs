//! Chosen experts that are copied to a card while the processor computes the others of the choice.
//!
//! Of the experts of a few tokens that live elsewhere a share, by the plan's rates, is copied to rooms of the card as soon as the processor
//! knows the choice; those that came before and are still there are not. Copies and the products with them are in the card's stream of copies, one
//! behind another, beside the stream that waits for the processor's sum; that is let go when both are done, and adds both. So a token takes as
//! long as the slower half, and a room is never filled while it is read. Which experts come does not depend on where they live: see [`kept`](super::kept).
//!
//! Must never know how many are to come, or to stay: that is the plan's.

use kernels::cuda::{self, Arena, Chosen, DeviceBuffer, Event, ExpertTable, Gpu, Pinned, Quantized, Slice};
use plan::{Fetch, Plan, QuantType};
use tiers::Tiers;

use super::counts::Counts;
use super::experts::{FEW, Home, Layers, Tables, common, mixture, parts};
use super::kept::{Come, Kept};
use super::mixture::joining;
use super::{Result, check_room};
use crate::blocks::Quants;
use crate::spec::{Mixture, Spec};

/// A place in the list of choices that names no room.
const NOWHERE: u32 = u32::MAX;

/// Rooms for experts, and what they are computed with.
pub(super) struct Fetching {
    fetch: Fetch,
    number: u32,
    /// Tables of rooms, for each kind of experts.
    tables: Vec<Tables>,
    /// By layer: which of the tables, for those layers that fetch.
    layers: Vec<Option<usize>>,
    kept: Kept,
    /// Experts of the choice that live elsewhere, and those of them that are computed here, both ascending.
    away: Vec<u32>,
    coming: Vec<Come>,
    /// The room of each choice, on its way to the card and there.
    words: Pinned<u32>,
    there: DeviceBuffer<u32>,
    input: Quantized,
    inner: Quantized,
    /// Weighed outputs of all that came, by token.
    sums: DeviceBuffer<f32>,
    /// The input and the choice are there; the sums are.
    chosen: Event,
    done: Event,
}

/// What experts must share to be found by the same tables: types of gate, up and down, and how many numbers lie between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    quants: [QuantType; 3],
    inner: usize,
}

impl Fetching {
    /// Takes what the plan's share of chosen experts needs on this card, if it has any.
    pub(super) fn of(
        gpu: &Gpu,
        (spec, quants, tiers): (&Spec, &Quants, &Tiers),
        plan: &Plan,
        layers: &Layers,
        counts: Counts,
    ) -> Result<Option<Self>> {
        let number = gpu.info().ordinal;
        let Some(fetch) = plan.fetch.filter(|fetch| fetch.gpu == number && fetch.experts > 0) else { return Ok(None) };
        let Some((rooms, slot)) = tiers.rooms_on(number) else {
            unreachable!("the plan has rooms for what it fetches")
        };
        let kinds: Vec<Option<Kind>> = (0..spec.layers.len()).map(|layer| kind(spec, layer, quants, layers)).collect();
        let mut known: Vec<Kind> = Vec::new();
        for kind in kinds.iter().flatten() {
            if !known.contains(kind) {
                known.push(*kind);
            }
        }
        let serving = kinds.iter().flatten().count();
        let each = fetch.kept_by_each(serving as u32);
        let rooms_used = (fetch.experts + each * serving as u32) as usize;
        let table = |kind: &Kind| known.iter().position(|known| known == kind);
        let of_layer = kinds.iter().map(|kind| kind.as_ref().and_then(table)).collect();
        let (choices, count) = (FEW * counts.used, rooms_used);
        let needed = Arena::bytes_of::<u32>(choices)
            + Quantized::bytes(spec.width, FEW)
            + Quantized::bytes(counts.inner, choices)
            + Arena::bytes_of::<f32>(FEW * spec.width)
            + Arena::bytes_of::<u64>(count).times(3 * known.len() as u64);
        let all = fetch.slot.times(u64::from(fetch.rooms())) + needed;
        check_room(plan, number, "fetched experts on the GPU", &["fetched experts"], all)?;
        let mut arena = Arena::new(gpu, "fetched experts", needed)?;
        let tables = known.iter().map(|kind| kind.tables(gpu, &mut arena, (rooms, slot), count, spec.width));
        let tables = tables.collect::<Result<_>>()?;
        Ok(Some(Self {
            fetch,
            number,
            tables,
            layers: of_layer,
            kept: Kept::new(fetch.experts, each, counts.experts, kinds.iter().map(Option::is_some)),
            away: Vec::with_capacity(choices),
            coming: Vec::with_capacity(choices),
            words: Pinned::new(gpu, choices)?,
            there: arena.take(choices)?,
            input: Quantized::new(&mut arena, spec.width, FEW)?,
            inner: Quantized::new(&mut arena, counts.inner, choices)?,
            sums: arena.take(FEW * spec.width)?,
            chosen: Event::new(gpu)?,
            done: Event::new(gpu)?,
        }))
    }

    /// Whether experts of this layer are fetched.
    pub(super) fn serves(&self, layer: usize) -> bool {
        self.layers[layer].is_some()
    }

    /// Marks, behind the choice and its input, that both are on the card.
    pub(super) fn mark(&self, gpu: &Gpu) -> Result<()> {
        Ok(self.chosen.record(gpu.compute())?)
    }

    /// Decides which of the experts that were chosen and are away are computed here.
    pub(super) fn choose(&mut self, layer: usize, chosen: &[u32], away: impl Fn(usize) -> bool) {
        self.away.clear();
        self.away.extend(chosen.iter().filter(|expert| away(**expert as usize)));
        self.away.sort_unstable();
        self.away.dedup();
        self.kept.choose(layer, &self.away, |count| self.fetch.share(count), &mut self.coming);
    }

    /// Empties the rooms.
    pub(super) fn forget(&mut self) {
        self.kept.forget();
    }

    /// Whether this expert is computed here.
    pub(super) fn has(&self, expert: usize) -> bool {
        room_of(&self.coming, expert as u32).is_some()
    }

    /// Those that are computed here, ascending, each with whether it has still to come.
    pub(super) fn coming(&self) -> impl Iterator<Item = (usize, bool)> + '_ {
        self.coming.iter().map(|come| (come.expert as usize, come.fresh))
    }

    /// Starts the copies, and the products of `x` with what they bring.
    pub(super) fn start(
        &mut self,
        gpu: &Gpu,
        tiers: &mut Tiers,
        (layer, f): (usize, &Mixture),
        chosen: &[u32],
        weights: Slice<'_, f32>,
        x: Slice<'_, f32>,
    ) -> Result<()> {
        let Some(kind) = self.layers[layer] else { return Ok(()) };
        for come in self.coming.iter().filter(|come| come.fresh) {
            tiers.fetch_on(self.number, come.room as usize, parts(&f.experts[come.expert as usize]))?;
        }
        let stream = gpu.copies();
        // The words of the layer before are used: its sums were waited for.
        for (word, expert) in self.words[..chosen.len()].iter_mut().zip(chosen) {
            *word = room_of(&self.coming, *expert).unwrap_or(NOWHERE);
        }
        let mut there = self.there.slice_mut();
        stream.upload(self.words.part(..chosen.len()), &mut there.range(..chosen.len()))?;
        stream.wait(&self.chosen)?;
        self.input.quantize(stream, x, f.router.inputs)?;
        let experts = self.there.slice().range(..chosen.len());
        let chosen = Chosen { experts, weights, per_token: f.routing.used };
        let Tables { gate, up, down } = &self.tables[kind];
        cuda::experts_up(stream, gate, up, None, joining(f.activation), &self.input, &chosen, &mut self.inner)?;
        let mut sums = self.sums.slice_mut();
        cuda::experts_down(stream, down, None, &self.inner, &chosen, &mut sums, f.router.inputs, false)?;
        Ok(self.done.record(stream)?)
    }

    /// Waits for the sums.
    pub(super) fn finish(&self) -> Result<()> {
        while !self.done.has_come()? {
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// The sums, for the stream that is let go when they are done.
    pub(super) fn sums(&self, count: usize) -> Slice<'_, f32> {
        self.sums.slice().range(..count)
    }
}

impl Kind {
    /// Tables of as many rooms as there are, each with an expert's matrices side by side.
    fn tables(
        self,
        gpu: &Gpu,
        arena: &mut Arena,
        (rooms, slot): (&DeviceBuffer<u8>, usize),
        count: usize,
        width: usize,
    ) -> Result<Tables> {
        let [gate, up, down] = self.quants;
        let mut tables = Tables {
            gate: ExpertTable::new(arena, gate, count, self.inner, width)?,
            up: ExpertTable::new(arena, up, count, self.inner, width)?,
            down: ExpertTable::new(arena, down, count, width, self.inner)?,
        };
        let mut start = 0;
        let sizes = [(gate, self.inner, width), (up, self.inner, width), (down, width, self.inner)];
        for (table, (quant, rows, width)) in [&mut tables.gate, &mut tables.up, &mut tables.down].into_iter().zip(sizes)
        {
            for room in 0..count {
                table.set(room, Some((rooms, room * slot + start)));
            }
            table.upload(gpu.compute())?;
            let row = quant.bytes(width as u64).map_or(0, |row| row.0 as usize);
            start += (rows * row).next_multiple_of(plan::streaming::ALIGN as usize);
        }
        Ok(tables)
    }
}

/// The room of an expert among those that are computed here, ascending.
fn room_of(coming: &[Come], expert: u32) -> Option<u32> {
    coming.binary_search_by_key(&expert, |come| come.expert).ok().map(|place| coming[place].room)
}

/// What the experts of a layer that live elsewhere share, if they can be fetched.
fn kind(spec: &Spec, layer: usize, quants: &Quants, layers: &Layers) -> Option<Kind> {
    let f = mixture(&spec.layers[layer].ffn)?;
    let experts = layers.get(layer)?;
    let away = f.experts.iter().enumerate().filter(|(index, _)| experts.home(*index) == Home::Away);
    // Biases are found by numbers of experts, not of rooms.
    let plain = !f.weighs_input && f.experts.iter().all(|expert| expert.biases.is_none());
    let types = away.map(|(_, expert)| parts(expert).map(|part| quants.get(part.unit)));
    common(types).filter(|_| plain).map(|quants| Kind { quants, inner: f.inner })
}
