//! Has each unit's bytes at hand when its turn comes.
//!
//! Owns where weights are while a model runs: an arena for units whose home is RAM, a bounded ring through
//! which units homed on disk pass, and the counts of what was read. All of it is allocated at [`Tiers::open`] and
//! none of it grows. Must never know what a unit means to the model, nor decide where one lives: that is the plan's.

mod arena;
mod error;
mod ring;
mod schedule;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::memory::{ByteSource, read_exact_at};
use plan::{Bytes, Inventory, Plan, Tier, UnitId};

use arena::Arena;
pub use error::TierError;
use ring::Ring;
pub use ring::Staged;
use schedule::Schedule;
pub use schedule::{Piece, RowSlice};

/// What the tiers have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Bytes of weights that computation read from RAM-homed units.
    pub ram_bytes: u64,
    /// Bytes of weights that passed from disk, read ahead or on demand.
    pub disk_bytes: u64,
    /// Time that the disk reader was reading.
    pub disk_busy: Duration,
    /// Time that computation waited for bytes from disk.
    pub disk_stall: Duration,
}

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
    arena: Arena,
    ring: Option<Ring>,
    schedule: Arc<Schedule>,
    sources: Vec<Arc<dyn ByteSource>>,
    counts: Counts,
}

impl Tiers {
    /// Allocates everything the plan says and loads the units homed in RAM.
    ///
    /// `order` is what one pass over the model uses, in order; the ring reads ahead along it, around and around.
    /// `progress` hears bytes loaded and bytes to load.
    ///
    /// # Errors
    /// Where memory is refused, a file cannot be read, or the plan asks for a tier that this build has not.
    pub fn open(
        plan: &Plan,
        inventory: &Inventory,
        sources: Vec<Arc<dyn ByteSource>>,
        order: &[RowSlice],
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<Self, TierError> {
        if let Some(tier) = plan.placements.iter().map(|p| p.home).find(|home| matches!(home, Tier::Gpu(_))) {
            return Err(TierError::NoGpu { tier });
        }
        let arena = Arena::load(plan, inventory, &sources, progress)?;
        let schedule = Arc::new(Schedule::new(plan, inventory, order)?);
        let ring = if schedule.is_empty() {
            None
        } else {
            Some(Ring::start(plan.staging, Arc::clone(&schedule), sources.clone())?)
        };
        Ok(Self { arena, ring, schedule, sources, counts: Counts::default() })
    }

    /// How the rows of `slice` come: whole where its home is RAM, cut to the ring's slots where it is disk.
    pub fn pieces(&self, slice: &RowSlice) -> impl Iterator<Item = Piece> + use<> {
        self.schedule.cut(slice)
    }

    /// The bytes of `piece`, waited for where they are still on their way from disk.
    ///
    /// # Errors
    /// Where the drive fails or the file changed underneath.
    pub fn lease(&mut self, piece: &Piece) -> Result<Lease<'_>, TierError> {
        let bytes = piece.bytes();
        if let Some(resident) = self.arena.unit(piece.unit) {
            self.counts.ram_bytes += bytes;
            let start = piece.offset as usize;
            return Ok(Lease::Resident(&resident[start..start + bytes as usize]));
        }
        let ring = self.ring.as_mut().ok_or(TierError::NotScheduled { unit: piece.unit })?;
        let asked = Instant::now();
        let staged = ring.take(piece)?;
        self.counts.disk_stall += asked.elapsed();
        self.counts.disk_bytes += bytes;
        Ok(Lease::Staged(staged))
    }

    /// Copies one row of a unit into `row`: a look-up in an embedding table reads no more than it needs.
    ///
    /// # Errors
    /// Where the drive fails or the file changed underneath.
    ///
    /// # Panics
    /// Where `row` is not as long as a row, or the unit has no such row: callers check token ids first.
    pub fn gather(&mut self, unit: UnitId, index: u64, row: &mut [u8]) -> Result<(), TierError> {
        let length = row.len() as u64;
        if let Some(resident) = self.arena.unit(unit) {
            let start = (index * length) as usize;
            row.copy_from_slice(&resident[start..start + row.len()]);
            self.counts.ram_bytes += length;
            return Ok(());
        }
        let place = self.schedule.place(unit);
        let source = &self.sources[place.file as usize];
        let offset = place.offset + index * length;
        let asked = Instant::now();
        read_exact_at(source.as_ref(), offset, row)
            .map_err(|source| TierError::Read { path: place.path.clone(), source })?;
        source.forget(offset, length);
        self.counts.disk_stall += asked.elapsed();
        self.counts.disk_bytes += length;
        Ok(())
    }

    /// What the tiers have done since they were opened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let disk_busy = self.ring.as_ref().map_or(Duration::ZERO, Ring::busy);
        Counts { disk_busy, ..self.counts }
    }

    /// Bytes that the arena and the ring hold.
    #[must_use]
    pub fn allocated(&self) -> Bytes {
        self.arena.bytes() + self.ring.as_ref().map_or(Bytes::ZERO, Ring::bytes)
    }
}

impl std::fmt::Debug for Tiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tiers")
            .field("allocated", &self.allocated())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
