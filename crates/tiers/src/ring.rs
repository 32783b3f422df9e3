//! The bounded ring: reads of the pieces that are expected are under way ahead of their use, as many as there are slots.
//!
//! Slots are owned buffers: an empty one is here, one being filled belongs to the queue of reads, a full one is leased, so a
//! half-filled one cannot be seen. Pieces are asked for in the order in which they are expected, land in any, and are handed out in
//! the first again.
//!
//! Each drive that the model's files lie on has a queue of its own. Where the one whose pieces come next has as many reads under way as it takes, pieces of others
//! that come later are read beside it, into half of the slots at most. Parts of a model that hold whole layers take turns all the same, as far as the
//! slots reach ahead. More slots for that would gain nothing: each byte that is read ahead over there is one that could as well stay in RAM.
//!
//! There is no thread for it. Who computes asks for the next read itself, in the moment in which a slot gets free, and looks for what
//! landed when it needs it: the kernel and the drive go on meanwhile by themselves. A thread that waits for the drive hears of free slots
//! too late: with one, a 2-core machine had one slot of six under way for a sixth of the time.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cuda")]
use kernels::cuda::{CudaError, Gpu, PinnedSlice, RegisteredParts};
use kernels::memory::{Buffer, Landed, Queue, Reading};
use plan::{Bytes, Staging};

use crate::drives::{DriveCounts, Drives};
use crate::guess::{GUESS, Guesses};
use crate::rows::{Ahead, Expected, Places};
use crate::{Piece, RowSlice, TierError};

/// A full slot. It is filled again when it is dropped.
#[derive(Debug)]
pub struct Staged<'a> {
    buffer: Option<Buffer>,
    range: Range<usize>,
    ring: &'a mut Ring,
}

impl std::ops::Deref for Staged<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.range.clone()])
    }
}

#[cfg(feature = "cuda")]
impl Staged<'_> {
    /// The bytes, if cards may read them where they are.
    pub(crate) fn pinned(&self) -> Option<PinnedSlice<'_, u8>> {
        self.ring.registered.as_ref()?.part(self.buffer.as_ref()?, self.range.clone())
    }

    /// The slot, for somebody who gives it back later ([`Ring::give_back`]).
    pub(crate) fn keep(mut self) -> Option<Buffer> {
        self.buffer.take()
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.ring.give_back(buffer);
        }
    }
}

/// The slots, and what is to come through them.
pub(crate) struct Ring {
    places: Arc<Places>,
    drives: Drives,
    staging: Staging,
    free: Vec<Buffer>,
    /// By drive: what was expected and not yet asked for, each with the name of its first piece.
    ahead: Vec<Ahead>,
    /// Names of pieces that hold a slot.
    asked: Vec<u64>,
    /// What was expected and not yet taken.
    expected: Expected,
    /// What may be expected soon.
    guesses: Guesses,
    /// What landed before its turn.
    early: Vec<Landed>,
    /// Room for what lands at once.
    landing: Vec<Landed>,
    /// Names of pieces, in the order in which they are expected: of the next one, and of the one whose turn it is. What is before that is
    /// wanted no more.
    next: u64,
    turn: u64,
    /// The first piece that failed since the last [`Self::forget`]: none behind it is asked for. Where its error was told, nothing is taken.
    stopped: Option<u64>,
    failed: bool,
    /// What lets cards read slots where they are.
    #[cfg(feature = "cuda")]
    registered: Option<RegisteredParts>,
}

impl Ring {
    /// Allocates the slots.
    pub(crate) fn start(staging: Staging, places: Arc<Places>, drives: Drives) -> Result<Self, TierError> {
        let room = Queue::room(staging.slot.0 as usize);
        let free = Buffer::try_parts(room, staging.slots as usize).map_err(|source| TierError::Memory {
            what: "ring from disk",
            bytes: staging.bytes(),
            source,
        })?;
        Ok(Self {
            places,
            ahead: (0..drives.count()).map(|_| Ahead::default()).collect(),
            asked: Vec::with_capacity(staging.slots as usize),
            drives,
            staging,
            free,
            expected: Expected::default(),
            guesses: Guesses::default(),
            early: Vec::new(),
            landing: Vec::new(),
            next: 0,
            turn: 0,
            stopped: None,
            failed: false,
            #[cfg(feature = "cuda")]
            registered: None,
        })
    }

    /// Lets cards read the slots where they are.
    #[cfg(feature = "cuda")]
    pub(crate) fn register(&mut self, gpu: &Gpu) -> Result<(), CudaError> {
        if let Some(slot) = self.free.first() {
            self.registered = Some(RegisteredParts::new(gpu, slot)?);
        }
        Ok(())
    }

    /// How many slots may be kept at once: of the others, half may hold what comes later, and one is always left for what comes first.
    #[cfg(feature = "cuda")]
    pub(crate) const fn spare(&self) -> usize {
        (self.staging.slots as usize / 2).saturating_sub(1)
    }

    /// Takes a slot back.
    pub(crate) fn give_back(&mut self, slot: Buffer) {
        self.free.push(slot);
        // That no more is read is said to the next one who waits.
        let _ = self.go_on();
    }

    /// Has `slice` read after all that was expected before.
    pub(crate) fn expect(&mut self, slice: &RowSlice) -> Result<(), TierError> {
        if self.failed {
            return Err(TierError::NotForgotten { slice: slice.clone() });
        }
        self.expected.push(slice.clone());
        let drive = self.drives.of(self.places.place(slice.unit).file as usize);
        self.ahead[drive].push(slice.clone(), self.next);
        self.next += self.places.cut(slice).count() as u64;
        self.go_on()
    }

    /// Waits for `piece`, which must be the next one expected.
    pub(crate) fn take(&mut self, piece: &Piece) -> Result<Staged<'_>, TierError> {
        if self.failed {
            return Err(TierError::NotForgotten { slice: piece.slice() });
        }
        let next = self.expected.next(&self.places);
        if next.as_ref() != Some(piece) {
            return Err(TierError::NotExpected { asked: piece.slice(), next: next.as_ref().map(Piece::slice) });
        }
        let drive = self.drives.of(self.places.place(piece.unit).file as usize);
        let Landed { buffer, range, outcome, .. } = self.arrived(drive)?;
        if let Err(source) = outcome {
            self.failed = true;
            self.free.push(buffer);
            return Err(TierError::Read { path: self.places.place(piece.unit).path.to_string(), source });
        }
        debug_assert_eq!(range.len() as u64, piece.bytes(), "pieces are asked for as they are taken");
        self.expected.advance(piece);
        self.turn += 1;
        Ok(Staged { buffer: Some(buffer), range, ring: self })
    }

    /// Waits for the piece whose turn it is, which comes from this drive.
    fn arrived(&mut self, drive: usize) -> Result<Landed, TierError> {
        loop {
            self.ask();
            // Before what has landed is computed with. That no more is read is said to who waits.
            let _ = self.drives.begin();
            if let Some(place) = self.early.iter().position(|early| early.tag == self.turn) {
                self.asked.retain(|asked| *asked != self.turn);
                return Ok(self.early.swap_remove(place));
            }
            if self.drives.under_way() == 0 {
                return Err(TierError::ReaderGone);
            }
            self.drives.step(drive, &mut self.landing).map_err(|_| TierError::ReaderGone)?;
            self.sort();
        }
    }

    /// Takes what has landed, and asks for more.
    fn go_on(&mut self) -> Result<(), TierError> {
        self.drives.look(&mut self.landing).map_err(|_| TierError::ReaderGone)?;
        self.sort();
        self.ask();
        self.drives.begin().map_err(|_| TierError::ReaderGone)
    }

    /// Takes what has landed, asks for more, and says how many bytes of RAM may be read before somebody looks again: RAM is much faster than a
    /// drive, so reading twice what is under way takes less time than that has left. Without end where nothing more is to be asked for.
    pub(crate) fn read_on(&mut self) -> u64 {
        // That no more is read is said to the next one who waits.
        let _ = self.go_on();
        if self.ahead.iter().all(Ahead::is_empty) { u64::MAX } else { 2 * self.drives.at_once() }
    }

    /// Keeps of what landed the pieces that are wanted still, and the slots of the others.
    fn sort(&mut self) {
        for mut landed in self.landing.drain(..) {
            if landed.tag & GUESS != 0 {
                match self.guesses.landed(landed) {
                    Ok(Some(true_one)) => landed = true_one,
                    Ok(None) => continue,
                    Err(buffer) => {
                        self.free.push(buffer);
                        continue;
                    }
                }
            }
            if landed.tag < self.turn {
                self.free.push(landed.buffer);
                continue;
            }
            if landed.outcome.is_err() {
                self.stopped = Some(self.stopped.map_or(landed.tag, |first| first.min(landed.tag)));
            }
            self.early.push(landed);
        }
    }

    /// Asks for what is expected, as long as there are slots and reads begin at once: where the drive is what is waited for, the slots that
    /// were used last are filled again, and the others rest.
    fn ask(&mut self) {
        // One by one in turn, so that no drive's pieces take all slots.
        while (0..self.ahead.len()).filter(|drive| self.ask_one(*drive)).count() > 0 {}
        // Half of the slots stay free for what is expected.
        let half = self.staging.slots as usize / 2;
        while self.ahead.iter().all(Ahead::is_empty) && self.stopped.is_none() && self.free.len() > half {
            let Some(piece) = self.guesses.peek() else { break };
            let drive = self.drives.of(self.places.place(piece.unit).file as usize);
            if !self.drives.has_room(drive) {
                break;
            }
            let (Some((tag, piece)), Some(buffer)) = (self.guesses.next(), self.free.pop()) else { break };
            self.read(tag, &piece, buffer);
        }
    }

    /// Asks this drive for its next piece; false where there is none, or not now.
    fn ask_one(&mut self, drive: usize) -> bool {
        let Some((tag, piece)) = self.ahead[drive].next(&self.places) else { return false };
        if self.stopped.is_some_and(|failed| tag > failed) {
            return false;
        }
        if self.guesses.comes_true(&piece, tag, &mut self.early) {
            self.asked.push(tag);
            self.ahead[drive].advance(&piece);
            return true;
        }
        // Pieces that others come before may hold half of the slots: what comes first always finds one.
        let first = self.ahead.iter().filter_map(Ahead::name).min().unwrap_or(tag);
        let later = self.asked.iter().filter(|asked| **asked > first).count();
        if !self.drives.has_room(drive) || tag > first && later >= self.staging.slots as usize / 2 {
            return false;
        }
        let Some(buffer) = self.free.pop().or_else(|| self.guesses.give_up_one()) else { return false };
        self.asked.push(tag);
        self.ahead[drive].advance(&piece);
        self.read(tag, &piece, buffer);
        true
    }

    fn read(&mut self, tag: u64, piece: &Piece, buffer: Buffer) {
        let place = self.places.place(piece.unit);
        self.drives.add(Reading {
            tag,
            source: place.file as usize,
            offset: place.offset + piece.offset,
            length: piece.bytes() as usize,
            buffer,
        });
    }

    /// Has `slice` read where nothing that is expected waits, since it may be expected soon.
    pub(crate) fn guess(&mut self, slice: &RowSlice) -> Result<(), TierError> {
        if self.stopped.is_some() || self.failed {
            return Ok(());
        }
        self.places.cut(slice).for_each(|piece| self.guesses.want(piece));
        self.go_on()
    }

    /// Gives up all guesses that did not come true, and of which nothing is expected.
    pub(crate) fn give_up_guesses(&mut self) {
        let Self { guesses, free, ahead, .. } = self;
        guesses.give_up(free, |piece| ahead.iter().any(|ahead| ahead.has(piece.unit)));
    }

    /// Bytes of guesses that came true, and of others.
    pub(crate) fn guessed(&self) -> (u64, u64) {
        (self.guesses.used, self.guesses.wasted)
    }

    /// Expects nothing any more, and takes the slots back that were filled in vain. Those that are being filled right now are free when
    /// they have landed.
    pub(crate) fn forget(&mut self) {
        self.guesses.give_up(&mut self.free, |_| false);
        if self.expected.is_empty() && !self.failed {
            return;
        }
        self.expected.clear();
        self.ahead.iter_mut().for_each(Ahead::clear);
        self.asked.clear();
        (self.stopped, self.failed) = (None, false);
        self.turn = self.next;
        self.free.extend(self.early.drain(..).map(|landed| landed.buffer));
    }

    /// How long the busiest drive had something to read.
    pub(crate) fn busy(&self) -> Duration {
        self.drives.busy()
    }

    /// The most reads that were under way at once.
    pub(crate) fn deepest(&self) -> u64 {
        self.drives.deepest()
    }

    /// What was read of each drive.
    pub(crate) fn drives(&self) -> Vec<DriveCounts> {
        self.drives.counts()
    }

    /// Bytes of all slots.
    pub(crate) fn bytes(&self) -> Bytes {
        self.staging.bytes()
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("staging", &self.staging).field("free", &self.free.len()).finish_non_exhaustive()
    }
}
