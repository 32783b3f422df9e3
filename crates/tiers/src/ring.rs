//! The bounded ring: a reader keeps reads of the pieces that are expected under way, ahead of their use.
//!
//! Slots are owned buffers that travel between two channels and the queue of reads, so a half-filled one cannot be seen: a
//! buffer is empty while the reader has it, and full once it arrives here. Pieces are asked for in the order in which they are
//! expected, land in any, and are handed out in the first again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::memory::{Buffer, Landed, Queue, Reading};
use plan::{Bytes, Staging};

use crate::rows::{Expected, Places};
use crate::{Piece, RowSlice, TierError};

/// What the reader is told.
enum ToReader {
    /// An empty slot to fill.
    Free(Buffer),
    /// Read this after all that was expected before.
    Expect(RowSlice),
    /// Expect nothing; what was read under an older epoch will be thrown away.
    Forget {
        /// The epoch of what is expected from now on.
        epoch: u64,
    },
}

/// What the reader answers with: a slot, and whether the piece is in it.
struct Filled {
    epoch: u64,
    /// Pieces of the epoch that were expected before it.
    turn: u64,
    landed: Landed,
}

/// A full slot. It goes back to the reader when it is dropped.
#[derive(Debug)]
pub struct Staged<'a> {
    buffer: Option<Buffer>,
    range: Range<usize>,
    free: &'a Sender<ToReader>,
}

impl std::ops::Deref for Staged<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.range.clone()])
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // A reader that is gone needs no slots.
            let _ = self.free.send(ToReader::Free(buffer));
        }
    }
}

/// The consumer's end.
pub(crate) struct Ring {
    places: Arc<Places>,
    to_reader: Sender<ToReader>,
    filled: Receiver<Filled>,
    /// What landed before its turn.
    early: Vec<Filled>,
    reader: Option<JoinHandle<()>>,
    watch: Arc<Watch>,
    staging: Staging,
    epoch: u64,
    /// Pieces of this epoch that were taken.
    taken: u64,
    /// What was expected and not yet taken.
    expected: Expected,
    /// Whether a read failed since the last [`Self::forget`]: the reader has stopped then.
    failed: bool,
}

/// What the reader tells beside its pieces.
#[derive(Default)]
struct Watch {
    busy_ns: AtomicU64,
    deepest: AtomicU64,
}

impl Ring {
    /// Allocates the slots and starts the reader, which waits for what is expected.
    pub(crate) fn start(staging: Staging, places: Arc<Places>, queue: Queue) -> Result<Self, TierError> {
        let (to_reader, orders) = channel();
        let (to_consumer, filled) = channel();
        let room = Queue::room(staging.slot.0 as usize);
        let slots = Buffer::try_parts(room, staging.slots as usize).map_err(|source| TierError::Memory {
            what: "ring from disk",
            bytes: staging.bytes(),
            source,
        })?;
        let watch = Arc::new(Watch::default());
        let reader = Reader {
            places: Arc::clone(&places),
            queue,
            watch: Arc::clone(&watch),
            orders,
            to_consumer,
            free: slots,
            expected: Expected::default(),
            epoch: 0,
            first: 0,
            next: 0,
            failed: false,
        };
        let thread = std::thread::Builder::new().name("disk-reader".into()).spawn(move || reader.run());
        let reader = Some(thread.map_err(|_| TierError::ReaderGone)?);
        let (expected, early) = (Expected::default(), Vec::new());
        let failed = false;
        Ok(Self { places, to_reader, filled, early, reader, watch, staging, epoch: 0, taken: 0, expected, failed })
    }

    /// Has `slice` read after all that was expected before.
    pub(crate) fn expect(&mut self, slice: &RowSlice) -> Result<(), TierError> {
        if self.failed {
            return Err(TierError::NotForgotten { slice: slice.clone() });
        }
        self.send(ToReader::Expect(slice.clone()))?;
        self.expected.push(slice.clone());
        Ok(())
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
        let Landed { buffer, range, outcome, .. } = self.arrived()?;
        if let Err(source) = outcome {
            self.failed = true;
            self.send(ToReader::Free(buffer))?;
            return Err(TierError::Read { path: self.places.place(piece.unit).path.to_string(), source });
        }
        debug_assert_eq!(range.len() as u64, piece.bytes(), "both ends expect the same");
        self.expected.advance(piece);
        self.taken += 1;
        Ok(Staged { buffer: Some(buffer), range, free: &self.to_reader })
    }

    /// Waits for the piece whose turn it is.
    fn arrived(&mut self) -> Result<Landed, TierError> {
        if let Some(early) = self.early.iter().position(|early| early.turn == self.taken) {
            return Ok(self.early.swap_remove(early).landed);
        }
        loop {
            let filled = self.filled.recv().map_err(|_| TierError::ReaderGone)?;
            if filled.epoch != self.epoch {
                self.send(ToReader::Free(filled.landed.buffer))?;
            } else if filled.turn == self.taken {
                return Ok(filled.landed);
            } else {
                self.early.push(filled);
            }
        }
    }

    /// Expects nothing any more, and gives the slots back that were filled in vain. Those that are being filled right now go
    /// back when they have landed.
    pub(crate) fn forget(&mut self) {
        if self.expected.is_empty() && !self.failed {
            return;
        }
        self.expected.clear();
        self.failed = false;
        self.epoch += 1;
        self.taken = 0;
        // That a reader is gone is said by the next `expect` or `take`.
        let _ = self.send(ToReader::Forget { epoch: self.epoch });
        let early = std::mem::take(&mut self.early);
        for filled in early.into_iter().chain(self.filled.try_iter()) {
            let _ = self.send(ToReader::Free(filled.landed.buffer));
        }
    }

    /// Time that reads were under way.
    pub(crate) fn busy(&self) -> Duration {
        Duration::from_nanos(self.watch.busy_ns.load(Ordering::Relaxed))
    }

    /// The most reads that were under way at once.
    pub(crate) fn deepest(&self) -> u64 {
        self.watch.deepest.load(Ordering::Relaxed)
    }

    /// Bytes of all slots.
    pub(crate) fn bytes(&self) -> Bytes {
        self.staging.bytes()
    }

    fn send(&self, order: ToReader) -> Result<(), TierError> {
        self.to_reader.send(order).map_err(|_| TierError::ReaderGone)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing the channel ends the reader.
        let (closed, _) = channel();
        self.to_reader = closed;
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has been noticed by `take` already.
            let _ = reader.join();
        }
    }
}

/// The reader's end.
struct Reader {
    places: Arc<Places>,
    queue: Queue,
    watch: Arc<Watch>,
    orders: Receiver<ToReader>,
    to_consumer: Sender<Filled>,
    free: Vec<Buffer>,
    /// What was expected and not yet asked for.
    expected: Expected,
    epoch: u64,
    /// The tag of the epoch's first piece, and of the next one.
    first: u64,
    next: u64,
    /// Whether a read failed since the last [`ToReader::Forget`]: the consumer must hear of it before more is read.
    failed: bool,
}

impl Reader {
    fn run(mut self) {
        let mut landed = Vec::new();
        loop {
            // Wait for orders only when nothing is under way; what was said meanwhile is heard before more is asked for.
            let order = match self.queue.under_way() {
                0 if self.free.is_empty() || self.expected.is_empty() => self.orders.recv().map_err(Into::into),
                _ => self.orders.try_recv(),
            };
            match order {
                Ok(order) => self.hear(order),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.ask();
                    let started = Instant::now();
                    let Ok(()) = self.queue.step(&mut landed) else { return };
                    self.watch.busy_ns.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
                    self.watch.deepest.store(self.queue.deepest() as u64, Ordering::Relaxed);
                    for landed in landed.drain(..) {
                        let Some(()) = self.hand_out(landed) else { return };
                    }
                }
            }
        }
    }

    fn hear(&mut self, order: ToReader) {
        match order {
            ToReader::Free(buffer) => self.free.push(buffer),
            ToReader::Expect(slice) if !self.failed => self.expected.push(slice),
            ToReader::Expect(_) => {}
            ToReader::Forget { epoch } => {
                self.expected.clear();
                (self.epoch, self.first, self.failed) = (epoch, self.next, false);
            }
        }
    }

    /// Asks for what is expected, as long as there are slots.
    fn ask(&mut self) {
        while let Some(piece) = self.expected.next(&self.places) {
            let Some(buffer) = self.free.pop() else { return };
            self.expected.advance(&piece);
            let place = self.places.place(piece.unit);
            self.queue.add(Reading {
                tag: self.next,
                source: place.file as usize,
                offset: place.offset + piece.offset,
                length: piece.bytes() as usize,
                buffer,
            });
            self.next += 1;
        }
    }

    /// Sends a piece to the consumer, or takes its slot back where nobody wants it any more; none where nobody listens.
    fn hand_out(&mut self, landed: Landed) -> Option<()> {
        let Some(turn) = landed.tag.checked_sub(self.first) else {
            self.free.push(landed.buffer);
            return Some(());
        };
        if landed.outcome.is_err() {
            self.failed = true;
            self.expected.clear();
        }
        self.to_consumer.send(Filled { epoch: self.epoch, turn, landed }).ok()
    }
}
