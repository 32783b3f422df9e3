//! Runs of rows, where they lie in files, and how they are cut to pieces that fit a slot of the ring.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use plan::streaming::{ALIGN, TAIL};
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

impl fmt::Display for RowSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows {}..{} of unit {}", self.rows.start, self.rows.end, self.unit.0)
    }
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

    /// The rows, without where they lie.
    pub(crate) fn slice(&self) -> RowSlice {
        RowSlice { unit: self.unit, rows: self.rows.clone() }
    }
}

/// Where a unit lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Shared by all units of a file.
    pub(crate) path: Arc<str>,
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) home: Tier,
    /// Whether it may come through the ring: from disk, or as an expert that changes places.
    staged: bool,
    rows: u64,
    row_bytes: u64,
}

/// Places of all units, by unit, and the slot that pieces must fit.
pub(crate) struct Places {
    places: Vec<Place>,
    slot: u64,
}

impl Places {
    /// Where `inventory` has each unit and `plan` its home.
    ///
    /// Refuses a unit on disk whose rows do not fit a slot, if there are slots: without them its rows can be
    /// gathered only.
    pub(crate) fn new(plan: &Plan, inventory: &Inventory) -> Result<Self, TierError> {
        // What goes on to a GPU lies there in a slot as a whole.
        let rooms = plan.device_staging.iter().map(|(_, ring)| Bytes(ring.slot.0 / ALIGN * ALIGN).saturating_sub(TAIL));
        let slot = rooms.min().map_or(plan.staging.slot, |room| room.min(plan.staging.slot));
        let paths: Vec<Arc<str>> = inventory.files.iter().map(|file| Arc::from(file.path.as_str())).collect();
        let place = |(id, unit): (UnitId, &plan::Unit)| {
            let tensor = inventory.tensor_of(unit);
            let (home, row_bytes) = (plan.home(id), unit.bytes.0 / unit.rows.max(1));
            let staged = home == Tier::Disk || plan.placements[id.0 as usize].exchanges;
            if plan.staging.slots > 0 && staged && row_bytes > slot.0 {
                return Err(TierError::RowTooLong { tensor: tensor.name.clone(), row: Bytes(row_bytes), slot });
            }
            let path = Arc::clone(&paths[tensor.file as usize]);
            Ok(Place { path, file: tensor.file, offset: unit.offset, home, staged, rows: unit.rows, row_bytes })
        };
        Ok(Self { places: inventory.iter().map(place).collect::<Result<_, _>>()?, slot: slot.0 })
    }

    /// Whether any unit comes from disk.
    pub(crate) fn any_on_disk(&self) -> bool {
        self.places.iter().any(|place| place.home == Tier::Disk)
    }

    /// Where a unit lies.
    pub(crate) fn place(&self, unit: UnitId) -> &Place {
        &self.places[unit.0 as usize]
    }

    /// Where the unit of `slice` lies, if the model has these rows.
    pub(crate) fn checked(&self, slice: &RowSlice) -> Option<&Place> {
        let place = self.places.get(slice.unit.0 as usize)?;
        (slice.rows.start <= slice.rows.end && slice.rows.end <= place.rows).then_some(place)
    }

    /// Where the rows of `slice` lie in their unit's bytes, if the model has these rows.
    pub(crate) fn range(&self, slice: &RowSlice) -> Option<Range<usize>> {
        let row_bytes = self.checked(slice)?.row_bytes;
        Some((slice.rows.start * row_bytes) as usize..(slice.rows.end * row_bytes) as usize)
    }

    /// The first rows of `slice` that `room` bytes take, at least one, and the rest where it is less than half as much; none where the model has no such rows.
    pub(crate) fn run(&self, slice: &RowSlice, room: u64) -> Option<RowSlice> {
        let row_bytes = self.checked(slice)?.row_bytes.max(1);
        let (fit, all) = ((room / row_bytes).max(1), slice.rows.end - slice.rows.start);
        let count = if all - all.min(fit) <= fit / 2 { all } else { fit };
        Some(RowSlice { unit: slice.unit, rows: slice.rows.start..slice.rows.start + count })
    }

    /// `slice` in one piece where it is always resident, and in as few as fit the ring's slots where it is not.
    pub(crate) fn cut(&self, slice: &RowSlice) -> impl Iterator<Item = Piece> + use<> {
        let place = self.place(slice.unit);
        let (unit, rows, row_bytes) = (slice.unit, slice.rows.clone(), place.row_bytes);
        let most = if place.staged { self.slot / row_bytes.max(1) } else { u64::MAX };
        // A row that fits no slot is never staged; it is a piece of its own all the same.
        let most = most.clamp(1, (rows.end.saturating_sub(rows.start)).max(1));
        let starts = rows.clone().step_by(most as usize);
        starts.map(move |start| Piece {
            unit,
            rows: start..rows.end.min(start + most),
            offset: start * row_bytes,
            row_bytes,
        })
    }
}

/// How rows are cut for a device.
#[cfg(any(test, feature = "cuda"))]
impl Places {
    /// Bytes of `rows` rows of a unit.
    pub(crate) fn bytes(&self, unit: UnitId, rows: u64) -> u64 {
        rows * self.place(unit).row_bytes
    }

    /// `slice` as one piece.
    pub(crate) fn whole(&self, slice: &RowSlice) -> Piece {
        let row_bytes = self.place(slice.unit).row_bytes;
        Piece { unit: slice.unit, rows: slice.rows.clone(), offset: slice.rows.start * row_bytes, row_bytes }
    }

    /// The first rows of `slice`, as many as `room` bytes take, in multiples of `tile` or, from disk, of what comes through that ring at
    /// once. Fewer than that only where `any` will do, and none if there is not room for one.
    pub(crate) fn within(&self, slice: &RowSlice, room: u64, tile: u64, any: bool) -> Option<Piece> {
        let place = self.place(slice.unit);
        let all = slice.rows.end - slice.rows.start;
        let fit = (room / place.row_bytes.max(1)).min(all);
        let tile = if place.home == Tier::Disk { (self.slot / place.row_bytes.max(1)).max(1) } else { tile };
        let tiles = if fit == all { all } else { fit / tile * tile };
        let count = if tiles == 0 && any { fit } else { tiles };
        let rows = slice.rows.start..slice.rows.start + count;
        (count > 0).then(|| self.whole(&RowSlice { unit: slice.unit, rows }))
    }
}

/// Slices from disk that will be used, in order, taken from the front piece by piece.
///
/// The ring keeps one at either end, and cuts both the same way, so that the ends agree on what comes next.
#[derive(Default)]
pub(crate) struct Expected(VecDeque<RowSlice>);

impl Expected {
    /// Adds `slice` to the end. One without rows has no piece and is left out.
    pub(crate) fn push(&mut self, slice: RowSlice) {
        if !slice.rows.is_empty() {
            self.0.push_back(slice);
        }
    }

    /// The piece that comes next.
    pub(crate) fn next(&self, places: &Places) -> Option<Piece> {
        places.cut(self.0.front()?).next()
    }

    /// Takes `next` away, which is what [`Self::next`] gave.
    pub(crate) fn advance(&mut self, next: &Piece) {
        if let Some(front) = self.0.front_mut() {
            front.rows.start = next.rows.end;
            if front.rows.is_empty() {
                self.0.pop_front();
            }
        }
    }

    /// Takes everything away.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether nothing is to come.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Slices of one drive in their order, each with the name of the piece that comes next of it: pieces are named in the order in which they are
/// expected of all drives.
#[derive(Default)]
pub(crate) struct Ahead {
    expected: Expected,
    names: VecDeque<u64>,
}

impl Ahead {
    /// Adds `slice`, whose first piece has this name.
    pub(crate) fn push(&mut self, slice: RowSlice, name: u64) {
        if !slice.rows.is_empty() {
            self.expected.push(slice);
            self.names.push_back(name);
        }
    }

    /// The name of the piece that comes next.
    pub(crate) fn name(&self) -> Option<u64> {
        self.names.front().copied()
    }

    /// The piece that comes next, and its name.
    pub(crate) fn next(&self, places: &Places) -> Option<(u64, Piece)> {
        Some((self.name()?, self.expected.next(places)?))
    }

    /// Takes away what [`Self::next`] gave.
    pub(crate) fn advance(&mut self, next: &Piece) {
        let slices = self.expected.0.len();
        self.expected.advance(next);
        if self.expected.0.len() < slices {
            self.names.pop_front();
        } else if let Some(name) = self.names.front_mut() {
            *name += 1;
        }
    }

    /// Whether rows of this unit are to come.
    pub(crate) fn has(&self, unit: UnitId) -> bool {
        self.expected.0.iter().any(|slice| slice.unit == unit)
    }

    /// Takes everything away.
    pub(crate) fn clear(&mut self) {
        self.expected.clear();
        self.names.clear();
    }

    /// Whether nothing is to come.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Places of units with so many rows of so many bytes in their homes, and a ring from disk with slots of `slot` bytes.
    pub(crate) fn places(units: impl Iterator<Item = (u64, u64, Tier)>, slot: u64) -> Places {
        let place = |(rows, row_bytes, home)| {
            let staged = home == Tier::Disk;
            Place { path: "".into(), file: 0, offset: 0, home, staged, rows, row_bytes }
        };
        Places { places: units.map(place).collect(), slot }
    }
}
