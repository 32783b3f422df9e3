//! One allocation of a card's memory that holds every unit whose home is that card.
//!
//! Units pass on their way through two pinned slots: while one is copied to the card, the next piece is read into the other. Loading takes
//! those 16 MiB of RAM, however much the card holds.

use std::collections::BTreeSet;

use kernels::cuda::{DeviceBuffer, Event, Gpu, Pinned, Slice};
use plan::{Bytes, Inventory, Plan, Tier, UnitId};

use crate::TierError;
use crate::load::{Loader, READ, Starts, layout};

/// Units start at multiples of this: kernels read words of 16 bytes, and copies are fastest from whole lines.
const ALIGN: u64 = 256;
/// Zeros behind the last unit: kernels may read past a row's end, up to a word of each lane of a warp.
const TAIL: u64 = 512;

/// Units on one card, side by side.
pub(crate) struct Vram {
    gpu: Gpu,
    weights: DeviceBuffer<u8>,
    starts: Starts,
}

impl Vram {
    /// Opens every card that `plan` homes a unit or the KV cache on, and reads its units.
    pub(crate) fn load_all(plan: &Plan, inventory: &Inventory, loader: &mut Loader) -> Result<Vec<Self>, TierError> {
        let homes = plan.placements.iter().map(|placement| placement.home).chain(plan.kv.homes.iter().copied());
        let card = |home| if let Tier::Gpu(number) = home { Some(number) } else { None };
        let cards: BTreeSet<u32> = homes.filter_map(card).collect();
        cards.into_iter().map(|number| Self::load(plan, inventory, number, loader)).collect()
    }

    fn load(plan: &Plan, inventory: &Inventory, number: u32, loader: &mut Loader) -> Result<Self, TierError> {
        let tier = Tier::Gpu(number);
        let ceiling = plan.tier(tier).and_then(|tier| tier.ceiling).unwrap_or(Bytes(u64::MAX));
        let gpu = Gpu::open(number, ceiling)?;
        let (starts, end) = layout(plan, inventory, tier, ALIGN);
        let mut weights = DeviceBuffer::new(&gpu, "weights", (end + TAIL) as usize)?;
        let stream = gpu.copies();
        // The gaps between units, too.
        stream.fill(&mut weights.slice_mut(), 0)?;
        let mut slots = [(Pinned::new(&gpu, READ)?, Event::new(&gpu)?), (Pinned::new(&gpu, READ)?, Event::new(&gpu)?)];
        let mut turn = 0;
        for ((_, unit), place) in inventory.iter().zip(&starts) {
            let Some((start, length)) = *place else { continue };
            for piece in (0..length).step_by(READ) {
                let count = READ.min(length - piece);
                let (slot, copied) = &mut slots[turn % 2];
                copied.synchronize()?;
                loader.read(unit, piece, &mut slot[..count])?;
                let to = start + piece..start + piece + count;
                stream.upload(slot.part(..count), &mut weights.slice_mut().range(to))?;
                copied.record(stream)?;
                turn += 1;
            }
        }
        stream.synchronize()?;
        Ok(Self { gpu, weights, starts })
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

    /// Copies part of a unit's bytes to `row` and waits for them.
    pub(crate) fn gather(&self, unit: Slice<'_, u8>, start: usize, row: &mut [u8]) -> Result<(), TierError> {
        Ok(self.gpu.copies().download_now(unit.range(start..start + row.len()), row)?)
    }
}
