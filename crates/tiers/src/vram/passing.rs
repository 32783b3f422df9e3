//! What passes through cards, asked of the tiers.

use kernels::cuda::{DeviceBuffer, SliceMut, Stream};
use plan::UnitId;

use super::{DeviceLease, Road, Sources, Vram, no_ring};
use crate::gather::Rows;
use crate::{RowSlice, TierError, Tiers};

impl Tiers {
    /// Whether the plan streams what lives elsewhere to the card `gpu:number`.
    #[must_use]
    pub fn streams_to(&self, number: u32) -> bool {
        self.cards.iter().any(|card| card.number() == number && card.streams())
    }

    /// Says that rows which live elsewhere will be leased on the card `gpu:number` after all that was expected there before. Copies start
    /// as soon as there is room. Several slices come side by side, to be used together; one alone is cut by rows where it is longer than a
    /// slot of the card's ring. Expected through a card and not, rows from disk are leased in one order.
    ///
    /// # Errors
    /// As [`Self::expect`], [`TierError::SlotTooSmall`], and where the card fails.
    pub fn expect_on(&mut self, number: u32, together: &[RowSlice]) -> Result<(), TierError> {
        let (card, sources) = self.passage(number, together)?;
        card.expect(together, sources)
    }

    /// Asks for as many copies to the card `gpu:number` as slots of its ring are free for: leases do so by themselves, and who is about to wait for
    /// the card does it first, or its link rests meanwhile.
    ///
    /// # Errors
    /// As [`Self::expect_on`].
    pub fn advance_on(&mut self, number: u32) -> Result<(), TierError> {
        let (card, sources) = self.passage(number, &[])?;
        card.advance(sources)
    }

    /// Rows at hand on the card `gpu:number`: those at the front of `next`, which must be what was expected there next, as far as they lie
    /// in one slot of its ring, and what follows them in `next` as far as it lies in the same slot as a whole. Nobody waits but the card.
    ///
    /// # Errors
    /// [`TierError::NotExpected`] where something else comes next, and as [`Self::lease`] and [`Self::expect_on`].
    pub fn lease_on(&mut self, number: u32, next: &[RowSlice]) -> Result<DeviceLease<'_>, TierError> {
        let (card, sources) = self.passage(number, next)?;
        card.lease(next, sources)
    }

    /// Copies an expert's matrices side by side into a room of the card `gpu:number`, each from a multiple of 256 bytes on. Copies are asked of the
    /// card's stream of [copies](kernels::cuda::Gpu::copies), one behind another, and what is computed with them is asked of the same stream.
    /// What lives on disk must have been [expected](Self::expect), and is waited for.
    ///
    /// # Errors
    /// [`TierError::SlotTooSmall`], and as [`Self::lease`] and [`Self::expect_on`].
    pub fn fetch_on(&mut self, number: u32, room: usize, parts: [&RowSlice; 3]) -> Result<(), TierError> {
        let (card, sources) = self.passage(number, &[])?;
        card.fetch(room, parts, sources)
    }

    /// Counts that the card `gpu:number` reads an expert's matrices where they were [fetched](Self::fetch_on) to before.
    pub fn count_kept_on(&mut self, number: u32, parts: [&RowSlice; 3]) {
        let rows = parts.into_iter().filter_map(|part| self.places.range(part));
        self.count_on_card(number, rows.map(|rows| rows.len() as u64).sum());
    }

    /// Copies rows of a unit that lives in RAM or on disk side by side to the card `gpu:number`, in the time of `stream`, by the card's road:
    /// each row has its share of `to`.
    ///
    /// # Errors
    /// As [`Self::gather`], and where the card fails or is none of this plan's.
    pub fn gather_on(
        &mut self,
        number: u32,
        unit: UnitId,
        rows: &[u32],
        stream: &Stream,
        to: &mut SliceMut<'_, u8>,
    ) -> Result<(), TierError> {
        let length = to.len() / rows.len().max(1);
        let Self { arena, places, sources, counts, ram_bytes, cards, .. } = self;
        let mut source = Rows { arena, places, sources, counts, ram_bytes };
        let card = cards.iter_mut().find(|card| card.number() == number);
        let road = card.map(Vram::road).ok_or_else(|| no_ring(&[]))?;
        let step = (Road::STEP / length.max(1)).max(1);
        for (turn, rows) in rows.chunks(step).enumerate() {
            let start = turn * step * length;
            let mut to = to.range(start..start + rows.len() * length);
            road.send(stream, &mut to, |slot| {
                let mut places = slot.chunks_exact_mut(length).zip(rows);
                places.try_for_each(|(place, row)| source.read(unit, u64::from(*row), place))
            })?;
        }
        road.brought += to.len() as u64;
        Ok(())
    }

    /// The memory of the rooms for fetched experts on the card `gpu:number`, if it has any, and the bytes of one.
    #[must_use]
    pub fn rooms_on(&self, number: u32) -> Option<(&DeviceBuffer<u8>, usize)> {
        self.cards.iter().find(|card| card.number() == number)?.rooms()
    }

    fn passage(&mut self, number: u32, asked: &[RowSlice]) -> Result<(&mut Vram, Sources<'_>), TierError> {
        let card = self.cards.iter_mut().find(|card| card.number() == number);
        let sources = Sources {
            arena: &self.arena,
            disk: self.ring.as_mut(),
            places: &self.places,
            counts: &mut self.counts,
            ram_bytes: &self.ram_bytes,
        };
        card.map(|card| (card, sources)).ok_or_else(|| no_ring(asked))
    }
}
