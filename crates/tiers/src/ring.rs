//! The bounded ring: a reader thread fills slots with the pieces that are expected, ahead of their use.
//!
//! Slots are owned buffers that travel between two channels, so a half-filled one cannot be seen: a buffer is empty
//! while the reader or its channel holds it, and full once it arrives here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::memory::{Buffer, ByteSource, ReadError, read_exact_at};
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
    piece: Piece,
    buffer: Buffer,
    outcome: Result<(), ReadError>,
}

/// A full slot. It goes back to the reader when it is dropped.
#[derive(Debug)]
pub struct Staged<'a> {
    buffer: Option<Buffer>,
    length: usize,
    free: &'a Sender<ToReader>,
}

impl std::ops::Deref for Staged<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.length])
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
    reader: Option<JoinHandle<()>>,
    busy: Arc<AtomicU64>,
    staging: Staging,
    epoch: u64,
    /// What was expected and not yet taken.
    expected: Expected,
    /// Whether a read failed since the last [`Self::forget`]: the reader has stopped then.
    failed: bool,
}

impl Ring {
    /// Allocates the slots and starts the reader, which waits for what is expected.
    pub(crate) fn start(
        staging: Staging,
        places: Arc<Places>,
        sources: Vec<Arc<dyn ByteSource>>,
    ) -> Result<Self, TierError> {
        let (to_reader, orders) = channel();
        let (to_consumer, filled) = channel();
        for _ in 0..staging.slots {
            let buffer = Buffer::try_new(staging.slot.0 as usize).map_err(|source| TierError::Memory {
                what: "ring from disk",
                bytes: staging.bytes(),
                source,
            })?;
            // The receiver lives in this function still.
            let _ = to_reader.send(ToReader::Free(buffer));
        }
        let busy = Arc::new(AtomicU64::new(0));
        let reader = Reader {
            places: Arc::clone(&places),
            sources,
            busy: Arc::clone(&busy),
            orders,
            to_consumer,
            free: Vec::with_capacity(staging.slots as usize),
            expected: Expected::default(),
            epoch: 0,
            failed: false,
        };
        let thread = std::thread::Builder::new().name("disk-reader".into()).spawn(move || reader.run());
        let reader = Some(thread.map_err(|_| TierError::ReaderGone)?);
        let expected = Expected::default();
        Ok(Self { places, to_reader, filled, reader, busy, staging, epoch: 0, expected, failed: false })
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
        loop {
            let filled = self.filled.recv().map_err(|_| TierError::ReaderGone)?;
            if filled.epoch != self.epoch {
                self.send(ToReader::Free(filled.buffer))?;
                continue;
            }
            debug_assert_eq!(filled.piece, *piece, "both ends expect the same");
            if let Err(source) = filled.outcome {
                self.failed = true;
                self.send(ToReader::Free(filled.buffer))?;
                return Err(TierError::Read { path: self.places.place(piece.unit).path.to_string(), source });
            }
            self.expected.advance(piece);
            let length = piece.bytes() as usize;
            return Ok(Staged { buffer: Some(filled.buffer), length, free: &self.to_reader });
        }
    }

    /// Expects nothing any more, and takes the slots back that were filled in vain. One that is being filled right now
    /// comes with the next [`Self::take`] at the latest.
    pub(crate) fn forget(&mut self) {
        if self.expected.is_empty() && !self.failed {
            return;
        }
        self.expected.clear();
        self.failed = false;
        self.epoch += 1;
        // That a reader is gone is said by the next `expect` or `take`.
        let _ = self.send(ToReader::Forget { epoch: self.epoch });
        while let Ok(filled) = self.filled.try_recv() {
            let _ = self.send(ToReader::Free(filled.buffer));
        }
    }

    /// Time that the reader was reading.
    pub(crate) fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
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
    sources: Vec<Arc<dyn ByteSource>>,
    busy: Arc<AtomicU64>,
    orders: Receiver<ToReader>,
    to_consumer: Sender<Filled>,
    free: Vec<Buffer>,
    /// What was expected and not yet read.
    expected: Expected,
    epoch: u64,
    /// Whether a read failed since the last [`ToReader::Forget`]: the consumer must hear of it before more is read.
    failed: bool,
}

impl Reader {
    fn run(mut self) {
        loop {
            // Wait only when there is nothing to do; all that was said is heard before each read.
            let ready = !self.free.is_empty() && !self.expected.is_empty();
            let order = if ready { self.orders.try_recv() } else { self.orders.recv().map_err(Into::into) };
            match order {
                Ok(order) => self.hear(order),
                Err(TryRecvError::Empty) => {
                    if self.fill().is_none() {
                        return;
                    }
                }
                Err(TryRecvError::Disconnected) => return,
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
                (self.epoch, self.failed) = (epoch, false);
            }
        }
    }

    /// Reads the next piece into a slot and sends it; none where there is nobody to send it to.
    fn fill(&mut self) -> Option<()> {
        let (piece, mut buffer) = (self.expected.next(&self.places)?, self.free.pop()?);
        let outcome = self.read(&piece, &mut buffer);
        if outcome.is_ok() {
            self.expected.advance(&piece);
        } else {
            self.failed = true;
            self.expected.clear();
        }
        self.to_consumer.send(Filled { epoch: self.epoch, piece, buffer, outcome }).ok()
    }

    fn read(&self, piece: &Piece, buffer: &mut Buffer) -> Result<(), ReadError> {
        let place = self.places.place(piece.unit);
        let source = &self.sources[place.file as usize];
        let (offset, length) = (place.offset + piece.offset, piece.bytes());
        let started = Instant::now();
        let outcome = read_exact_at(source.as_ref(), offset, &mut buffer[..length as usize]);
        source.forget(offset, length);
        self.busy.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        outcome
    }
}
