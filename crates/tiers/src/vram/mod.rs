//! A card's memory: one allocation that holds every unit whose home is that card, a ring through which others pass, and rooms for experts
//! that are fetched.
//!
//! Units are read into two pinned slots on their way: while one is copied to the card, the next piece is read into the other. Loading takes
//! those 16 MiB of RAM, however much the card holds. They stay as the road of what the card cannot read by itself.

mod lent;
mod passing;
mod ring;
mod road;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use kernels::cuda::{DeviceBuffer, Gpu, Slice};
use plan::{Bytes, Inventory, Plan, Tier, UnitId};

pub(crate) use lent::{Lent, lend};
pub use ring::DeviceLease;
use ring::DeviceRing;
pub(crate) use ring::Sources;
pub(crate) use road::Road;

use crate::load::{Loader, Starts, layout};
use crate::ring::Ring;
use crate::rows::Places;
use crate::{CardCounts, RowSlice, TierError};

/// Units start at multiples of this: kernels read words of 16 bytes, and copies are fastest from whole lines.
const ALIGN: u64 = 256;
/// Zeros behind the last unit: kernels may read past a row's end, up to a word of each lane of a warp.
const TAIL: u64 = 512;

/// Units on one card, side by side.
pub(crate) struct Vram {
    gpu: Gpu,
    weights: DeviceBuffer<u8>,
    starts: Starts,
    /// For what passes through, if anything does.
    ring: Option<DeviceRing>,
    /// Rooms for experts that are fetched, if any are.
    fetched: Option<Fetched>,
    /// For both.
    road: Road,
    read_bytes: Cell<u64>,
}

/// Rooms side by side.
struct Fetched {
    rooms: DeviceBuffer<u8>,
    /// Bytes of one.
    slot: usize,
}

impl Vram {
    /// Opens every card that `plan` homes a unit or the KV cache on or streams to, and reads its units.
    pub(crate) fn load_all(
        plan: &Plan,
        inventory: &Inventory,
        places: &Arc<Places>,
        loader: &mut Loader,
    ) -> Result<Vec<Self>, TierError> {
        let homes = plan.placements.iter().map(|placement| placement.home).chain(plan.kv.homes.iter().copied());
        let card = |home| if let Tier::Gpu(number) = home { Some(number) } else { None };
        let streams = plan.device_staging.iter().map(|(number, _)| *number);
        let cards: BTreeSet<u32> = homes.filter_map(card).chain(streams).collect();
        cards.into_iter().map(|number| Self::load(plan, inventory, number, places, loader)).collect()
    }

    fn load(
        plan: &Plan,
        inventory: &Inventory,
        number: u32,
        places: &Arc<Places>,
        loader: &mut Loader,
    ) -> Result<Self, TierError> {
        let tier = Tier::Gpu(number);
        let ceiling = plan.tier(tier).and_then(|tier| tier.ceiling).unwrap_or(Bytes(u64::MAX));
        let gpu = Gpu::open(number, ceiling)?;
        let (starts, end) = layout(plan, inventory, tier, ALIGN);
        let mut weights = DeviceBuffer::new(&gpu, "weights", (end + TAIL) as usize)?;
        let stream = gpu.copies();
        // The gaps between units, too.
        stream.fill(&mut weights.slice_mut(), 0)?;
        let mut road = Road::new(&gpu)?;
        for ((_, unit), place) in inventory.iter().zip(&starts) {
            let Some((start, length)) = *place else { continue };
            for piece in (0..length).step_by(Road::STEP) {
                let to = start + piece..start + length.min(piece + Road::STEP);
                road.send(stream, &mut weights.slice_mut().range(to), |into| loader.read(unit, piece, into))?;
            }
        }
        stream.synchronize()?;
        let staging = plan.device_staging.iter().find(|(to, staging)| *to == number && staging.slots > 0);
        let ring = staging.map(|(_, staging)| DeviceRing::new(&gpu, *staging, places)).transpose()?;
        let fetch = plan.fetch.filter(|fetch| fetch.gpu == number && fetch.experts > 0);
        let fetched = fetch.map(|fetch| {
            let slot = fetch.slot.0 as usize;
            Ok::<_, TierError>(Fetched {
                rooms: DeviceBuffer::new(&gpu, "fetched experts", slot * fetch.rooms() as usize)?,
                slot,
            })
        });
        Ok(Self { gpu, weights, starts, ring, fetched: fetched.transpose()?, road, read_bytes: Cell::new(0) })
    }

    /// Its number in `gpu:N`.
    pub(crate) fn number(&self) -> u32 {
        self.gpu.info().ordinal
    }

    /// What was read here and brought here so far.
    pub(crate) const fn counts(&self) -> CardCounts {
        CardCounts { read_bytes: self.read_bytes.get(), up_bytes: self.road.brought }
    }

    /// Counts bytes that are computed with where they live.
    pub(crate) fn count_read(&self, bytes: u64) {
        self.read_bytes.set(self.read_bytes.get() + bytes);
    }

    /// Whether anything passes through in prompts.
    pub(crate) const fn streams(&self) -> bool {
        self.ring.is_some()
    }

    /// Whether experts are fetched.
    pub(crate) const fn fetches(&self) -> bool {
        self.fetched.is_some()
    }

    /// The rooms for fetched experts and the bytes of one.
    pub(crate) fn rooms(&self) -> Option<(&DeviceBuffer<u8>, usize)> {
        self.fetched.as_ref().map(|fetched| (&fetched.rooms, fetched.slot))
    }

    /// Copies the rows of `parts` side by side into a room, each from a multiple of 256 bytes on, in the time of the stream of copies.
    pub(crate) fn fetch(
        &mut self,
        room: usize,
        parts: [&RowSlice; 3],
        mut sources: Sources<'_>,
    ) -> Result<(), TierError> {
        let Some(Fetched { rooms, slot }) = &mut self.fetched else { return Err(no_ring(&parts.map(RowSlice::clone))) };
        let (mut start, end) = (room * *slot, (room + 1) * *slot);
        let mut places = Vec::with_capacity(parts.len());
        for part in parts {
            let rows = sources.places.range(part).ok_or_else(|| TierError::NoSuchRows { slice: part.clone() })?;
            let (needed, left) = (Bytes(rows.len() as u64), Bytes((end - start) as u64));
            if needed > left {
                return Err(TierError::SlotTooSmall { slice: part.clone(), needed, slot: left });
            }
            places.push((part.clone(), start..start + rows.len()));
            start += rows.len().next_multiple_of(plan::streaming::ALIGN as usize);
        }
        sources.bring(places.into_iter(), &mut self.road, self.gpu.copies(), &mut rooms.slice_mut())
    }

    /// Has rows brought here after all that was expected before.
    pub(crate) fn expect(&mut self, together: &[RowSlice], sources: Sources<'_>) -> Result<(), TierError> {
        match &mut self.ring {
            Some(ring) => ring.expect(together, &mut self.road, sources),
            None => Err(no_ring(together)),
        }
    }

    /// Asks for as many copies as slots are free for.
    pub(crate) fn advance(&mut self, sources: Sources<'_>) -> Result<(), TierError> {
        self.ring.as_mut().map_or(Ok(()), |ring| ring.advance(&mut self.road, sources))
    }

    /// What comes next of `next`, and of what follows as much as lies beside it.
    pub(crate) fn lease(&mut self, next: &[RowSlice], sources: Sources<'_>) -> Result<DeviceLease<'_>, TierError> {
        match &mut self.ring {
            Some(ring) => ring.lease(next, &mut self.road, sources),
            None => Err(no_ring(next)),
        }
    }

    /// The road of what the card cannot read by itself.
    pub(crate) const fn road(&mut self) -> &mut Road {
        &mut self.road
    }

    /// Expects nothing any more.
    pub(crate) fn forget(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.forget();
        }
    }

    /// Gives those slots of the ring from disk back that it has read.
    pub(crate) fn give_back(&mut self, disk: &mut Ring) -> Result<(), TierError> {
        self.road.lent.as_mut().map_or(Ok(()), |lent| lent.give_back(disk))
    }

    /// The card.
    pub(crate) const fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The bytes of `unit`, if it lives here.
    pub(crate) fn unit(&self, unit: UnitId) -> Option<Slice<'_, u8>> {
        let (start, length) = (*self.starts.get(unit.0 as usize)?)?;
        Some(self.weights.slice().range(start..start + length))
    }

    /// The memory of all units, and the first byte of `unit` in it, if it lives here.
    pub(crate) fn place(&self, unit: UnitId) -> Option<(&DeviceBuffer<u8>, usize)> {
        let (start, _) = (*self.starts.get(unit.0 as usize)?)?;
        Some((&self.weights, start))
    }

    /// Copies part of a unit's bytes to `row` and waits for them.
    pub(crate) fn gather(&self, unit: Slice<'_, u8>, start: usize, row: &mut [u8]) -> Result<(), TierError> {
        Ok(self.gpu.copies().download_now(unit.range(start..start + row.len()), row)?)
    }
}

pub(crate) fn no_ring(slices: &[RowSlice]) -> TierError {
    let none = RowSlice { unit: UnitId(u32::MAX), rows: 0..0 };
    TierError::NoDeviceRing { slice: slices.first().cloned().unwrap_or(none) }
}
