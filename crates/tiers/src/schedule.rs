//! The order in which one pass uses units, cut to pieces that fit a slot of the ring.

use std::ops::Range;

use plan::{Bytes, Inventory, Plan, Tier, UnitId};

use crate::TierError;

/// A run of rows of a unit: what one operation multiplies with. Fused matrices are used as several slices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowSlice {
    /// The unit.
    pub unit: UnitId,
    /// Its rows.
    pub rows: Range<u64>,
}

/// A run of rows that comes in one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The unit.
    pub unit: UnitId,
    /// The rows, counted from the unit's first.
    pub rows: Range<u64>,
    /// Where the rows start in the unit's bytes.
    pub offset: u64,
    row_bytes: u64,
}

impl Piece {
    /// Bytes of all its rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.rows.end - self.rows.start) * self.row_bytes
    }
}

/// Where a unit lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: String,
    pub(crate) file: u32,
    pub(crate) offset: u64,
    row_bytes: u64,
    home: Tier,
}

/// Places of all units, and the pieces that one pass takes from disk, in order.
pub(crate) struct Schedule {
    places: Vec<Place>,
    slot: u64,
    pieces: Vec<Piece>,
}

impl Schedule {
    /// The pieces of `order` that come from disk.
    pub(crate) fn new(plan: &Plan, inventory: &Inventory, order: &[RowSlice]) -> Result<Self, TierError> {
        let place = |(id, unit): (UnitId, &plan::Unit)| {
            let tensor = inventory.tensor_of(unit);
            let path = inventory.files[tensor.file as usize].path.clone();
            let row_bytes = unit.bytes.0 / unit.rows.max(1);
            Place { path, file: tensor.file, offset: unit.offset, row_bytes, home: plan.home(id) }
        };
        let places: Vec<Place> = inventory.iter().map(place).collect();
        let mut schedule = Self { places, slot: plan.staging.slot.0, pieces: Vec::new() };
        for slice in order {
            let place = &schedule.places[slice.unit.0 as usize];
            if place.home != Tier::Disk {
                continue;
            }
            if place.row_bytes > schedule.slot {
                let tensor = inventory.tensor_of(inventory.unit(slice.unit)).name.clone();
                return Err(TierError::RowTooLong { tensor, row: Bytes(place.row_bytes), slot: plan.staging.slot });
            }
            let pieces = schedule.cut(slice);
            schedule.pieces.extend(pieces);
        }
        Ok(schedule)
    }

    /// Whether nothing comes from disk.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The pieces of one pass.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Where a unit lies.
    pub(crate) fn place(&self, unit: UnitId) -> &Place {
        &self.places[unit.0 as usize]
    }

    /// `slice` in one piece where it is resident, and in as few as fit the ring's slots where it is not.
    pub(crate) fn cut(&self, slice: &RowSlice) -> impl Iterator<Item = Piece> + use<> {
        let place = self.place(slice.unit);
        let (unit, rows, row_bytes) = (slice.unit, slice.rows.clone(), place.row_bytes);
        let most = if place.home == Tier::Disk { self.slot / row_bytes.max(1) } else { rows.end - rows.start };
        let starts = rows.clone().step_by(most.max(1) as usize);
        starts.map(move |start| Piece {
            unit,
            rows: start..rows.end.min(start + most),
            offset: start * row_bytes,
            row_bytes,
        })
    }
}
