//! Which rows lie in which slot of a device's ring, and what two streams wait for: the rules, without a device.
//!
//! Rows are copied by one stream and computed with by another. A slot takes as many rows as fit it, one run behind another. Copies into it
//! wait until it was *freed*, a mark that the stream of kernels passes behind the last use of what was in it before; kernels wait until it is
//! *filled*, a mark of the stream of copies. Nobody on the host waits: everything is asked for ahead, and the marks keep the order.
//!
//! The trap is that a mark which was never set holds nobody up. A slot is given out again only when its mark has been asked for, and the
//! tests run both streams as early and as late as marks allow.

use std::collections::VecDeque;
use std::sync::Arc;

use plan::Bytes;
use plan::streaming::{ALIGN, TAIL};

use crate::rows::Places;
use crate::{Piece, RowSlice, TierError};

/// Rows of a matrix's tile on a device: cuts are at multiples of as many where there are more.
const TILE: u64 = 128;

/// The marks of slots, and who waits for them.
pub(crate) trait Marks {
    /// Copies wait for the mark that `slot` is freed.
    fn wait_freed(&mut self, slot: usize) -> Result<(), TierError>;
    /// Marks, behind the copies so far, that `slot` is filled.
    fn mark_filled(&mut self, slot: usize) -> Result<(), TierError>;
    /// Kernels wait for the mark that `slot` is filled.
    fn wait_filled(&mut self, slot: usize) -> Result<(), TierError>;
    /// Marks, behind the kernels so far, that `slot` is freed.
    fn mark_freed(&mut self, slot: usize) -> Result<(), TierError>;
}

/// What a device does when it is told, in the order of two streams.
pub(crate) trait Streams {
    type Marks: Marks;
    /// The marks of its slots.
    fn marks(&mut self) -> &mut Self::Marks;
    /// Whether rows can be copied without waiting for a drive.
    fn is_at_hand(&self, slice: &RowSlice) -> bool;
    /// Copies rows to one slot, in which they lie one behind another.
    fn copy<'p>(&mut self, placed: impl Iterator<Item = &'p Placed>) -> Result<(), TierError>;
}

/// Rows in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) piece: Piece,
    pub(crate) slot: usize,
    /// Where they start in it.
    pub(crate) at: u64,
}

/// Rows that will be used.
struct Waiting {
    slice: RowSlice,
    /// Slices that come after it and belong into the same slot.
    with: usize,
    /// Whether it belongs to slices that were placed before.
    follows: bool,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Bytes from its start that pieces take.
    used: u64,
    /// Pieces in it that were not given back.
    held: usize,
    /// Whether the mark that it is freed was set since it was last filled.
    was_used: bool,
    /// Whether the kernels' stream waits for the last mark that it is filled already.
    waited: bool,
}

/// The rows on their way, from what is expected to what is given back.
pub(crate) struct Schedule {
    places: Arc<Places>,
    /// Bytes of a slot that pieces may take.
    room: u64,
    slots: Vec<Slot>,
    /// The slot that is being filled.
    open: usize,
    waiting: VecDeque<Waiting>,
    /// Copied, or asked to be, and not leased yet.
    placed: VecDeque<Placed>,
}

impl Schedule {
    /// For so many slots of so many bytes.
    pub(crate) fn new(places: Arc<Places>, slot: Bytes, slots: u32) -> Self {
        let slots = vec![Slot::default(); slots as usize];
        let room = slot.saturating_sub(TAIL).0;
        Self { places, room, slots, open: 0, waiting: VecDeque::new(), placed: VecDeque::new() }
    }

    /// Has the rows of `together` copied after all that was expected before. Several slices lie in one slot; one alone is cut by rows where
    /// it is longer than a slot.
    pub(crate) fn expect(&mut self, together: &[RowSlice]) -> Result<(), TierError> {
        let mut sum = 0;
        for slice in together {
            self.places.checked(slice).ok_or_else(|| TierError::NoSuchRows { slice: slice.clone() })?;
            let rows = if together.len() > 1 { slice.rows.end - slice.rows.start } else { 1 };
            sum += self.places.bytes(slice.unit, rows).next_multiple_of(ALIGN);
            if sum > self.room || self.slots.is_empty() {
                let (needed, slot) = (Bytes(sum), Bytes(self.room));
                return Err(TierError::SlotTooSmall { slice: slice.clone(), needed, slot });
            }
        }
        let full: Vec<_> = together.iter().filter(|slice| !slice.rows.is_empty()).collect();
        for (index, slice) in full.iter().enumerate() {
            let with = full.len() - 1 - index;
            self.waiting.push_back(Waiting { slice: (*slice).clone(), with, follows: index > 0 });
        }
        Ok(())
    }

    /// Asks for copies of what is expected, as far as slots are free. Rows that come from a drive are waited for only where `now` says that
    /// they are needed and nothing else is there before them.
    pub(crate) fn pump(&mut self, streams: &mut impl Streams, now: bool) -> Result<(), TierError> {
        // Those at the end of what is placed that are not copied yet: all in one slot.
        let mut run = 0;
        while let Some(next) = self.waiting.front() {
            let asked = next.follows || (now && self.placed.is_empty());
            let mut together = self.waiting.iter().take(1 + next.with);
            if !asked && !together.all(|next| streams.is_at_hand(&next.slice)) {
                break;
            }
            let Some((placed, after)) = self.place() else { break };
            let slot = placed.slot;
            if self.placed.back().is_some_and(|last| run > 0 && last.slot != slot) {
                self.copy(streams, std::mem::take(&mut run))?;
            }
            self.placed.push_back(placed);
            self.slots[slot].waited = false;
            if after {
                streams.marks().wait_freed(slot)?;
            }
            run += 1;
        }
        self.copy(streams, run)
    }

    /// Copies the last `run` of what is placed to their slot.
    fn copy(&self, streams: &mut impl Streams, run: usize) -> Result<(), TierError> {
        let last = self.placed.range(self.placed.len() - run..);
        let Some(slot) = last.clone().next().map(|placed| placed.slot) else { return Ok(()) };
        let outcome = streams.copy(last);
        streams.marks().mark_filled(slot).and(outcome)
    }

    /// The place of the rows that come next, and whether it has to be waited for; none where all slots are taken.
    fn place(&mut self) -> Option<(Placed, bool)> {
        let free = self.room - self.slots[self.open].used;
        let piece = if let Some(piece) = self.fitting(free) {
            piece
        } else {
            let next = (self.open + 1) % self.slots.len();
            if self.slots[next].held > 0 {
                return None;
            }
            (self.open, self.slots[next].used) = (next, 0);
            self.fitting(self.room)?
        };
        let slot = &mut self.slots[self.open];
        let (at, after) = (slot.used, slot.used == 0 && slot.was_used);
        slot.used += piece.bytes().next_multiple_of(ALIGN);
        slot.held += 1;
        slot.was_used = true;
        self.advance(&piece);
        Some((Placed { piece, slot: self.open, at }, after))
    }

    /// As much of what comes next as `free` bytes take: all of what fits a slot or nothing, and else whole tiles, or less in an empty slot.
    fn fitting(&self, free: u64) -> Option<Piece> {
        let next = self.waiting.front()?;
        let bytes = |slice: &RowSlice| self.places.bytes(slice.unit, slice.rows.end - slice.rows.start);
        let together = self.waiting.iter().take(1 + next.with);
        let together: u64 = together.map(|waiting| bytes(&waiting.slice).next_multiple_of(ALIGN)).sum();
        match together {
            fits if fits <= free => Some(self.places.whole(&next.slice)),
            fits if fits <= self.room => None,
            _ => self.places.within(&next.slice, free / ALIGN * ALIGN, TILE, free == self.room),
        }
    }

    /// Takes rows that were placed away from the front of what is expected.
    fn advance(&mut self, piece: &Piece) {
        if let Some(front) = self.waiting.front_mut() {
            front.slice.rows.start = piece.rows.end;
            if front.slice.rows.is_empty() {
                self.waiting.pop_front();
            }
        }
    }

    /// The rows at the front of `next`, which must be what was expected next, and of what follows as much as lies in the same slot, each
    /// slice as a whole. Kernels that are asked for from now on find them there.
    pub(crate) fn lease(&mut self, streams: &mut impl Streams, next: &[RowSlice]) -> Result<Vec<Placed>, TierError> {
        self.pump(streams, true)?;
        let Some(asked) = next.first() else { return Ok(Vec::new()) };
        let is_next = |placed: &Placed| {
            let (rows, wanted) = (&placed.piece.rows, &asked.rows);
            placed.piece.unit == asked.unit && rows.start == wanted.start && rows.end <= wanted.end
        };
        let Some(first) = self.placed.pop_front_if(|placed| is_next(placed)) else {
            let waiting = self.waiting.front().map(|waiting| waiting.slice.clone());
            let next = self.placed.front().map(|placed| placed.piece.slice()).or(waiting);
            return Err(TierError::NotExpected { asked: asked.clone(), next });
        };
        let slot = first.slot;
        let whole = first.piece.rows.end == asked.rows.end;
        let mut leased = vec![first];
        for wanted in next[1..].iter().take(if whole { usize::MAX } else { 0 }) {
            let found = |placed: &mut Placed| placed.slot == slot && placed.piece.slice() == *wanted;
            let Some(placed) = self.placed.pop_front_if(found) else { break };
            leased.push(placed);
        }
        if !self.slots[slot].waited {
            streams.marks().wait_filled(slot)?;
            self.slots[slot].waited = true;
        }
        Ok(leased)
    }

    /// Gives a piece's part of `slot` back: kernels that use it were asked for.
    pub(crate) fn give_back(&mut self, marks: &mut impl Marks, slot: usize) -> Result<(), TierError> {
        self.slots[slot].held -= 1;
        if self.slots[slot].held > 0 {
            return Ok(());
        }
        // The slot that is being filled is done with too: what comes next goes into another one, whose time has come longer ago.
        if slot == self.open {
            self.slots[slot].used = self.room;
        }
        marks.mark_freed(slot)
    }

    /// Expects nothing any more.
    pub(crate) fn forget(&mut self, marks: &mut impl Marks) -> Result<(), TierError> {
        self.waiting.clear();
        while let Some(placed) = self.placed.pop_front() {
            self.give_back(marks, placed.slot)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
