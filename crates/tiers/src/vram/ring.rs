//! The ring in a card's memory through which rows pass that live elsewhere, for the card to compute with.
//!
//! Owns the slots, the marks and the copies; which rows lie where and who waits for whom is [`Schedule`]'s. Rows in RAM go straight from
//! the arena, as far as it is registered, those on disk from the slots in which they land, and everything else by the card's [`Road`].

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use kernels::cuda::{DeviceBuffer, Event, Gpu, Slice, SliceMut, Stream};
use plan::streaming::ALIGN;
use plan::{Bytes, Staging, Tier};

use super::road::Road;
use crate::arena::Arena;
use crate::ring::Ring;
use crate::rows::Places;
use crate::schedule::{Marks, Placed, Schedule, Streams};
use crate::{Counts, RowSlice, TierError};

/// Slots of one card.
pub(crate) struct DeviceRing {
    buffer: DeviceBuffer<u8>,
    schedule: Schedule,
    events: Events,
    /// What went wrong where nobody could be told.
    failed: Option<TierError>,
}

/// Marks of each slot.
struct Events {
    gpu: Gpu,
    filled: Vec<Event>,
    freed: Vec<Event>,
}

/// Where rows come from.
pub(crate) struct Sources<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) disk: Option<&'a mut Ring>,
    pub(crate) places: &'a Places,
    pub(crate) counts: &'a mut Counts,
    pub(crate) ram_bytes: &'a Cell<u64>,
}

impl Sources<'_> {
    /// Copies rows to a card, each to its place in `whole`, in the stream's time. What lies in RAM as it is to lie there is copied at once: a call of the driver
    /// takes microseconds, and a layer of a mixture has hundreds of matrices. From disk they must have been expected, and are waited for.
    pub(crate) fn bring(
        &mut self,
        rows: impl Iterator<Item = (RowSlice, Range<usize>)>,
        road: &mut Road,
        stream: &Stream,
        whole: &mut SliceMut<'_, u8>,
    ) -> Result<(), TierError> {
        let mut run: Option<Run> = None;
        for (slice, to) in rows {
            let rows = self.places.range(&slice).ok_or_else(|| TierError::NoSuchRows { slice: slice.clone() })?;
            road.brought += rows.len() as u64;
            let Some(from) = self.arena.place(slice.unit, rows) else {
                self.bring_from_disk(&slice, road, stream, &mut whole.range(to))?;
                continue;
            };
            self.ram_bytes.set(self.ram_bytes.get() + from.len() as u64);
            let next = Run { from, to };
            match &mut run {
                Some(run) if run.goes_on(&next) => (run.from.end, run.to.end) = (next.from.end, next.to.end),
                _ => self.send(run.replace(next), road, stream, whole)?,
            }
        }
        self.send(run, road, stream, whole)
    }

    fn send(
        &self,
        run: Option<Run>,
        road: &mut Road,
        stream: &Stream,
        whole: &mut SliceMut<'_, u8>,
    ) -> Result<(), TierError> {
        run.map_or(Ok(()), |Run { from, to }| self.arena.send(from, stream, &mut whole.range(to), road))
    }

    fn bring_from_disk(
        &mut self,
        slice: &RowSlice,
        road: &mut Road,
        stream: &Stream,
        to: &mut SliceMut<'_, u8>,
    ) -> Result<(), TierError> {
        let disk = self.disk.as_mut().ok_or_else(|| TierError::NoRing { slice: slice.clone() })?;
        let mut start = 0;
        for piece in self.places.cut(slice) {
            if let Some(lent) = &mut road.lent {
                lent.make_room(disk)?;
            }
            let (asked, end) = (Instant::now(), start + piece.bytes() as usize);
            let staged = disk.take(&piece)?;
            self.counts.disk_stall += asked.elapsed();
            road.pass_on(stream, staged, &mut to.range(start..end))?;
            start = end;
        }
        self.counts.disk_bytes += start as u64;
        Ok(())
    }
}

/// Bytes of the arena, and where they go.
struct Run {
    from: Range<usize>,
    to: Range<usize>,
}

impl Run {
    /// Whether `next` is as far behind it here as there: nowhere else is what lies between.
    fn goes_on(&self, next: &Self) -> bool {
        let gap = |run: &Range<usize>, next: &Range<usize>| next.start.checked_sub(run.end);
        gap(&self.from, &next.from).is_some_and(|here| here < ALIGN as usize && Some(here) == gap(&self.to, &next.to))
    }
}

impl DeviceRing {
    /// Takes the memory of a ring on `gpu`.
    pub(crate) fn new(gpu: &Gpu, staging: Staging, places: &Arc<Places>) -> Result<Self, TierError> {
        // Each slot begins where kernels can read.
        let staging = Staging { slot: Bytes(staging.slot.0 / ALIGN * ALIGN), ..staging };
        let buffer = DeviceBuffer::new(gpu, "ring", staging.bytes().0 as usize)?;
        let events = || (0..staging.slots).map(|_| Event::new(gpu)).collect::<Result<_, _>>();
        let events = Events { gpu: gpu.clone(), filled: events()?, freed: events()? };
        let schedule = Schedule::new(Arc::clone(places), staging.slot, staging.slots);
        Ok(Self { buffer, schedule, events, failed: None })
    }

    /// Has rows copied after all that was expected before, as slots get free.
    pub(crate) fn expect(
        &mut self,
        together: &[RowSlice],
        road: &mut Road,
        mut sources: Sources<'_>,
    ) -> Result<(), TierError> {
        self.schedule.expect(together)?;
        if let Some(disk) = &mut sources.disk {
            for slice in together {
                if sources.places.place(slice.unit).home == Tier::Disk {
                    disk.expect(slice)?;
                }
            }
        }
        let (schedule, mut flow) = self.flow(road, sources)?;
        schedule.pump(&mut flow, false)
    }

    /// Asks for as many copies as slots are free for.
    pub(crate) fn advance(&mut self, road: &mut Road, sources: Sources<'_>) -> Result<(), TierError> {
        let (schedule, mut flow) = self.flow(road, sources)?;
        schedule.pump(&mut flow, false)
    }

    /// What comes next of `next`, and of what follows as much as lies beside it.
    pub(crate) fn lease(
        &mut self,
        next: &[RowSlice],
        road: &mut Road,
        sources: Sources<'_>,
    ) -> Result<DeviceLease<'_>, TierError> {
        let (schedule, mut flow) = self.flow(road, sources)?;
        let placed = schedule.lease(&mut flow, next)?;
        Ok(DeviceLease { ring: self, placed })
    }

    /// Expects nothing any more.
    pub(crate) fn forget(&mut self) {
        self.failed = self.schedule.forget(&mut self.events).err();
    }

    fn flow<'a>(
        &'a mut self,
        road: &'a mut Road,
        sources: Sources<'a>,
    ) -> Result<(&'a mut Schedule, Flow<'a>), TierError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let slot = self.buffer.len() / self.events.filled.len().max(1);
        Ok((&mut self.schedule, Flow { buffer: &mut self.buffer, slot, events: &mut self.events, road, sources }))
    }
}

/// Rows in a card's memory until this is dropped. What is computed with them is asked for before that, on the card's stream of kernels.
pub struct DeviceLease<'a> {
    ring: &'a mut DeviceRing,
    placed: Vec<Placed>,
}

impl DeviceLease<'_> {
    /// How many runs of rows there are: at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.placed.len()
    }

    /// Whether there is nothing, which is so where nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    /// The rows of a run, counted from the unit's first.
    ///
    /// # Panics
    /// Where there is no such run.
    #[must_use]
    pub fn rows(&self, run: usize) -> Range<u64> {
        self.placed[run].piece.rows.clone()
    }

    /// The bytes of a run.
    ///
    /// # Panics
    /// Where there is no such run.
    #[must_use]
    pub fn bytes(&self, run: usize) -> Slice<'_, u8> {
        let slot = self.ring.buffer.len() / self.ring.events.filled.len();
        self.ring.buffer.slice().range(range(&self.placed[run], slot))
    }
}

impl Drop for DeviceLease<'_> {
    fn drop(&mut self) {
        for placed in self.placed.drain(..) {
            if let Err(error) = self.ring.schedule.give_back(&mut self.ring.events, placed.slot) {
                self.ring.failed = Some(error);
            }
        }
    }
}

impl std::fmt::Debug for DeviceLease<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DeviceLease").field(&self.placed).finish()
    }
}

/// Where rows lie in the buffer of all slots.
fn range(placed: &Placed, slot: usize) -> Range<usize> {
    let start = placed.slot * slot + placed.at as usize;
    start..start + placed.piece.bytes() as usize
}

impl Marks for Events {
    fn wait_freed(&mut self, slot: usize) -> Result<(), TierError> {
        Ok(self.gpu.copies().wait(&self.freed[slot])?)
    }

    fn mark_filled(&mut self, slot: usize) -> Result<(), TierError> {
        Ok(self.filled[slot].record(self.gpu.copies())?)
    }

    fn wait_filled(&mut self, slot: usize) -> Result<(), TierError> {
        Ok(self.gpu.compute().wait(&self.filled[slot])?)
    }

    fn mark_freed(&mut self, slot: usize) -> Result<(), TierError> {
        Ok(self.freed[slot].record(self.gpu.compute())?)
    }
}

/// Everything that a copy needs.
struct Flow<'a> {
    buffer: &'a mut DeviceBuffer<u8>,
    /// Bytes of a slot.
    slot: usize,
    events: &'a mut Events,
    road: &'a mut Road,
    sources: Sources<'a>,
}

impl Streams for Flow<'_> {
    type Marks = Events;

    fn marks(&mut self) -> &mut Events {
        self.events
    }

    fn is_at_hand(&self, slice: &RowSlice) -> bool {
        self.sources.places.place(slice.unit).home != Tier::Disk
    }

    fn copy<'p>(&mut self, placed: impl Iterator<Item = &'p Placed>) -> Result<(), TierError> {
        let Self { buffer, slot, events, road, sources } = self;
        let rows = placed.map(|placed| (placed.piece.slice(), range(placed, *slot)));
        sources.bring(rows, road, events.gpu.copies(), &mut buffer.slice_mut())
    }
}
