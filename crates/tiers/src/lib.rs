//! Has each unit's bytes at hand when its turn comes.
//!
//! Owns where weights are while a model runs: an arena for units whose home is RAM, one on each card for those whose home
//! is its memory (feature `cuda`), a bounded ring through which units homed on disk pass, and the counts of what was read.
//! All of it is allocated at [`Tiers::open`] and none of it grows. Must never know what a unit means to the model, nor decide where one lives: that is the plan's.
//!
//! The tiers do not know in which order a pass uses units, since a router chooses experts as it goes. The engine says
//! what it will use as soon as it knows ([`Tiers::expect`]), the ring reads ahead along that, and the engine leases
//! just that, in that order ([`Tiers::lease`]).

mod arena;
mod counts;
mod drives;
mod error;
mod exchange;
mod gather;
mod guess;
mod load;
mod ring;
mod rows;
#[cfg(any(test, feature = "cuda"))]
mod schedule;
#[cfg(feature = "cuda")]
mod vram;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use kernels::memory::ByteSource;
use plan::{Bytes, Inventory, Plan, Tier, UnitId};

use arena::Arena;
#[cfg(feature = "cuda")]
pub use counts::CardCounts;
pub use counts::Counts;
pub use drives::DriveCounts;
use drives::Drives;
pub use error::TierError;
use exchange::Exchange;
use gather::Rows;
use load::Loader;
use ring::Ring;
pub use ring::Staged;
use rows::Places;
pub use rows::{Piece, RowSlice};
#[cfg(feature = "cuda")]
pub use vram::DeviceLease;

/// Bytes of a run of rows, at hand until it is dropped. A staged one gives its slot back then.
#[derive(Debug)]
pub enum Lease<'a> {
    /// In the arena.
    Resident(&'a [u8]),
    /// In a slot of the ring.
    Staged(Staged<'a>),
}

impl std::ops::Deref for Lease<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Resident(bytes) => bytes,
            Self::Staged(staged) => staged,
        }
    }
}

/// Every weight of a model, each in its home.
pub struct Tiers {
    /// First, since memory of a card is given back when all its work is done, and that may be copies out of the arena.
    #[cfg(feature = "cuda")]
    cards: Vec<vram::Vram>,
    arena: Arena,
    ring: Option<Ring>,
    exchange: Exchange,
    places: Arc<Places>,
    sources: Vec<Arc<dyn ByteSource>>,
    fallbacks: Vec<String>,
    /// Everything but `ram_bytes` and what the ring counts.
    counts: Counts,
    /// Apart from the other counts, since many borrow resident bytes at once.
    ram_bytes: Cell<u64>,
}

impl Tiers {
    /// Allocates everything the plan says, opening its cards, and loads the units that are not homed on disk.
    ///
    /// `sources` are the model's files, in the order of the inventory. `progress` hears bytes loaded and bytes to load.
    ///
    /// # Errors
    /// Where memory is refused, a file cannot be read, a row from disk fits no slot of the ring, a card cannot be opened, or
    /// the plan asks for one in a build without the feature `cuda`.
    pub fn open(
        plan: &Plan,
        inventory: &Inventory,
        sources: Vec<Arc<dyn ByteSource>>,
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<Self, TierError> {
        #[cfg(not(feature = "cuda"))]
        if let Some(tier) = plan.placements.iter().map(|p| p.home).find(|home| matches!(home, Tier::Gpu(_))) {
            return Err(TierError::NoGpu { tier });
        }
        let places = Arc::new(Places::new(plan, inventory)?);
        let mut loader = Loader::new(plan, inventory, &sources, progress);
        let mut drives = Drives::open(inventory, &sources, plan.disk_reads);
        #[cfg_attr(not(feature = "cuda"), expect(unused_mut))]
        let mut fallbacks = drives.fallbacks(inventory, &sources);
        let arena = Arena::load(plan, inventory, &mut loader, &mut drives)?;
        #[cfg(feature = "cuda")]
        let (arena, mut cards) = on_cards(plan, inventory, &places, arena, &mut loader, &mut fallbacks)?;
        #[cfg_attr(not(feature = "cuda"), expect(unused_mut))]
        let mut ring = if plan.staging.slots > 0 && places.any_on_disk() {
            Some(Ring::start(plan.staging, Arc::clone(&places), drives)?)
        } else {
            None
        };
        #[cfg(feature = "cuda")]
        if let Some(ring) = &mut ring {
            fallbacks.extend(vram::lend(&mut cards, ring)?);
        }
        let on_cards = plan.placements.iter().any(|placement| matches!(placement.home, Tier::Gpu(_)));
        // Cards read the arena behind the host's back.
        let exchange = if ring.is_none() || on_cards || !plan.device_staging.is_empty() {
            Exchange::default()
        } else {
            Exchange::new(plan, inventory, &arena.starts)
        };
        Ok(Self {
            arena,
            exchange,
            #[cfg(feature = "cuda")]
            cards,
            ring,
            places,
            sources,
            fallbacks,
            counts: Counts::default(),
            ram_bytes: Cell::new(0),
        })
    }

    /// Whether a unit is in RAM.
    #[must_use]
    pub fn is_resident(&self, unit: UnitId) -> bool {
        self.arena.unit(unit).is_some()
    }

    /// The bytes of `slice` where its unit is in RAM, to hold as many of as one computation needs. None where it
    /// is not, or the model has no such rows.
    #[must_use]
    pub fn resident(&self, slice: &RowSlice) -> Option<&[u8]> {
        let bytes = self.arena.unit(slice.unit)?.get(self.places.range(slice)?)?;
        self.ram_bytes.set(self.ram_bytes.get() + bytes.len() as u64);
        Some(bytes)
    }

    /// The first rows of `slice` where its unit is in RAM, and how many they are: those that `room` bytes take, at least one, and the rest with
    /// them where it is short.
    #[must_use]
    pub fn resident_run(&self, slice: &RowSlice, room: u64) -> Option<(&[u8], u64)> {
        let run = self.places.run(slice, room)?;
        Some((self.resident(&run)?, run.rows.end - run.rows.start))
    }

    /// Where a unit lives.
    ///
    /// # Panics
    /// Where the model has no such unit.
    #[must_use]
    pub fn home(&self, unit: UnitId) -> Tier {
        self.places.place(unit).home
    }

    /// The card `gpu:number`, if the plan homes anything on it.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn card(&self, number: u32) -> Option<&kernels::cuda::Gpu> {
        self.cards.iter().find(|card| card.number() == number).map(vram::Vram::gpu)
    }

    /// The bytes of `slice` where its unit is homed on the card `gpu:number`. None where it is homed elsewhere, or the
    /// model has no such rows.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn on_card(&self, number: u32, slice: &RowSlice) -> Option<kernels::cuda::Slice<'_, u8>> {
        let card = self.cards.iter().find(|card| card.number() == number)?;
        let (bytes, range) = (card.unit(slice.unit)?, self.places.range(slice)?);
        card.count_read(range.len() as u64);
        Some(bytes.range(range))
    }

    /// Counts bytes that the card `gpu:number` read of its units again, without their being asked for.
    #[cfg(feature = "cuda")]
    pub fn count_on_card(&mut self, number: u32, bytes: u64) {
        self.cards.iter().filter(|card| card.number() == number).for_each(|card| card.count_read(bytes));
    }

    /// What was read and brought on the card `gpu:number` since the tiers were opened.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn card_counts(&self, number: u32) -> CardCounts {
        self.cards.iter().find(|card| card.number() == number).map_or(CardCounts::default(), vram::Vram::counts)
    }

    /// Where the rows of `slice` begin on the card `gpu:number`: the memory that holds them and the first byte there, for tables that kernels
    /// look them up in. None where [`Self::on_card`] gives none; nothing is counted.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn place_on_card(&self, number: u32, slice: &RowSlice) -> Option<(&kernels::cuda::DeviceBuffer<u8>, usize)> {
        let card = self.cards.iter().find(|card| card.number() == number)?;
        let (buffer, start) = card.place(slice.unit)?;
        Some((buffer, start + self.places.range(slice)?.start))
    }

    /// How the rows of `slice` come: whole where they are always in RAM, cut to the ring's slots where they come from disk.
    ///
    /// # Panics
    /// Where the model has no such unit.
    pub fn pieces(&self, slice: &RowSlice) -> impl Iterator<Item = Piece> + use<> {
        self.places.cut(slice)
    }

    /// Says that the rows of `slice` will be leased after all that was expected before, so that they are read ahead
    /// as slots of the ring get free. Where they are resident there is nothing to do.
    ///
    /// What is expected and not leased must be forgotten ([`Self::forget_expected`]) before anything else is used.
    ///
    /// # Errors
    /// [`TierError::NotForgotten`] after a failed read, and defects of the caller: rows that the model has not, or
    /// that no ring can bring.
    pub fn expect(&mut self, slice: &RowSlice) -> Result<(), TierError> {
        let place = self.places.checked(slice).ok_or_else(|| TierError::NoSuchRows { slice: slice.clone() })?;
        if place.home != Tier::Disk && !self.exchange.has(slice.unit) || self.arena.unit(slice.unit).is_some() {
            return Ok(());
        }
        self.ring.as_mut().ok_or_else(|| TierError::NoRing { slice: slice.clone() })?.expect(slice)
    }

    /// Takes what has landed from disk, and asks for more: while nobody does, a drive has no more to do than what was under way. So many bytes of
    /// resident weights may be computed with before the next look.
    pub fn read_on(&mut self) -> u64 {
        self.ring.as_mut().map_or(u64::MAX, Ring::read_on)
    }

    /// Says that the rows of `slice` may be expected soon: they are read where nothing that is expected waits, and given up for it. Where
    /// they are resident there is nothing to do.
    ///
    /// # Errors
    /// Where the queue of reads is gone.
    pub fn guess(&mut self, slice: &RowSlice) -> Result<(), TierError> {
        let staged = |place: &rows::Place| place.home == Tier::Disk || self.exchange.has(slice.unit);
        let comes = self.places.checked(slice).is_some_and(staged) && self.arena.unit(slice.unit).is_none();
        match &mut self.ring {
            Some(ring) if comes => ring.guess(slice),
            _ => Ok(()),
        }
    }

    /// Gives up all guesses that did not come true, and of which nothing is expected now.
    pub fn give_up_guesses(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.give_up_guesses();
        }
    }

    /// Takes what the router of one layer chose, a unit of each expert, before any of them is expected: where experts change places,
    /// those that are leased from disk in this pass may stay in RAM.
    pub fn chose(&mut self, experts: impl Iterator<Item = UnitId>) {
        self.exchange.chose(experts, &mut self.arena.starts);
    }

    /// The bytes of `piece`, waited for where they are still on their way from disk. From there it must be the next
    /// one expected; from RAM any will do.
    ///
    /// # Errors
    /// Where the drive fails or the file changed underneath: this is said once, and then [`TierError::NotForgotten`]
    /// until [`Self::forget_expected`]. [`TierError::NotExpected`] where another piece comes next or none; it changes
    /// nothing.
    pub fn lease(&mut self, piece: &Piece) -> Result<Lease<'_>, TierError> {
        if self.is_resident(piece.unit) {
            let slice = piece.slice();
            return self.resident(&slice).map(Lease::Resident).ok_or(TierError::NoSuchRows { slice });
        }
        let ring = self.ring.as_mut().ok_or_else(|| TierError::NoRing { slice: piece.slice() })?;
        #[cfg(feature = "cuda")]
        self.cards.iter_mut().try_for_each(|card| card.give_back(ring))?;
        let asked = Instant::now();
        let staged = ring.take(piece)?;
        self.counts.disk_stall += asked.elapsed();
        self.counts.disk_bytes += piece.bytes();
        let (offset, length) = (piece.offset as usize, staged.len());
        if let Some(start) = self.exchange.keep(piece.unit, offset, length, &mut self.arena.starts) {
            self.arena.write(start, &staged);
        }
        Ok(Lease::Staged(staged))
    }

    /// Drops all that was expected and not leased: after an error or an interruption, or when something else is to be
    /// used. The reader gives up what it has read ahead, and its slots are free again. Costs nothing where nothing was
    /// expected.
    pub fn forget_expected(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.forget();
        }
        self.exchange.abandon(&mut self.arena.starts);
        #[cfg(feature = "cuda")]
        self.cards.iter_mut().for_each(vram::Vram::forget);
    }

    /// Copies one row of a unit into `row`: a look-up in an embedding table reads no more than it needs.
    ///
    /// # Errors
    /// Where the drive fails or the file changed underneath.
    ///
    /// # Panics
    /// Where `row` is not as long as a row, or the unit has no such row: callers check token ids first.
    pub fn gather(&mut self, unit: UnitId, index: u64, row: &mut [u8]) -> Result<(), TierError> {
        #[cfg(feature = "cuda")]
        for card in &self.cards {
            if let Some(bytes) = card.unit(unit) {
                let length = row.len() as u64;
                card.count_read(length);
                return card.gather(bytes, (index * length) as usize, row);
            }
        }
        self.rows().read(unit, index, row)
    }

    /// What rows are read out of, one at a time.
    fn rows(&mut self) -> Rows<'_> {
        let Self { arena, places, sources, counts, ram_bytes, .. } = self;
        Rows { arena, places, sources, counts, ram_bytes }
    }

    /// What the tiers have done since they were opened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (disk_busy, disk_depth) = self.ring.as_ref().map_or_else(Default::default, |r| (r.busy(), r.deepest()));
        let (guessed_bytes, wasted_bytes) = self.ring.as_ref().map_or((0, 0), Ring::guessed);
        Counts { guessed_bytes, wasted_bytes, disk_busy, disk_depth, ram_bytes: self.ram_bytes.get(), ..self.counts }
    }

    /// What was read of each drive that the model's files lie on, where anything comes from disk while the model runs.
    #[must_use]
    pub fn drives(&self) -> Vec<DriveCounts> {
        self.ring.as_ref().map_or_else(Vec::new, Ring::drives)
    }

    /// What differs from what was planned, for people: what the system refused.
    #[must_use]
    pub fn fallbacks(&self) -> &[String] {
        &self.fallbacks
    }

    /// Bytes of RAM that the arena and the ring hold.
    #[must_use]
    pub fn allocated(&self) -> Bytes {
        self.arena.bytes() + self.ring.as_ref().map_or(Bytes::ZERO, Ring::bytes)
    }
}

/// Opens the plan's cards and loads what lives there; where something is streamed, they may read the arena.
#[cfg(feature = "cuda")]
fn on_cards(
    plan: &Plan,
    inventory: &Inventory,
    places: &Arc<Places>,
    mut arena: Arena,
    loader: &mut Loader,
    fallbacks: &mut Vec<String>,
) -> Result<(Arena, Vec<vram::Vram>), TierError> {
    let cards = vram::Vram::load_all(plan, inventory, places, loader)?;
    if let Some(card) = cards.iter().find(|card| card.streams() || card.fetches()) {
        fallbacks.extend(arena.register(card.gpu())?);
    }
    Ok((arena, cards))
}

impl std::fmt::Debug for Tiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tiers")
            .field("allocated", &self.allocated())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
