//! The bounded ring: a reader thread fills slots with the pieces of a pass, ahead of their use, around and around.
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

use crate::{Piece, Schedule, TierError};

/// What the reader is told.
enum ToReader {
    /// An empty slot to fill.
    Free(Buffer),
    /// Read on from this piece; what was read under an older `epoch` will be thrown away.
    Seek { epoch: u64, piece: usize },
}

/// What the reader answers with: a slot, and whether the piece is in it.
struct Filled {
    epoch: u64,
    piece: usize,
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
    schedule: Arc<Schedule>,
    to_reader: Sender<ToReader>,
    filled: Receiver<Filled>,
    reader: Option<JoinHandle<()>>,
    busy: Arc<AtomicU64>,
    staging: Staging,
    epoch: u64,
    /// The piece that comes next from the reader, or none before the first seek and after an error.
    next: Option<usize>,
}

impl Ring {
    /// Allocates the slots and starts the reader, which waits for the first demand.
    pub(crate) fn start(
        staging: Staging,
        schedule: Arc<Schedule>,
        sources: Vec<Arc<dyn ByteSource>>,
    ) -> Result<Self, TierError> {
        let (to_reader, orders) = channel();
        let (to_consumer, filled) = channel();
        for _ in 0..staging.slots.max(1) {
            let buffer = Buffer::try_new(staging.slot.0 as usize).map_err(|source| TierError::Memory {
                what: "ring from disk",
                bytes: staging.bytes(),
                source,
            })?;
            // The receiver lives in this function still.
            let _ = to_reader.send(ToReader::Free(buffer));
        }
        let busy = Arc::new(AtomicU64::new(0));
        let reader = Reader { schedule: Arc::clone(&schedule), sources, busy: Arc::clone(&busy), orders, to_consumer };
        let thread = std::thread::Builder::new().name("disk-reader".into()).spawn(move || reader.run());
        let thread = thread.map_err(|_| TierError::ReaderGone)?;
        Ok(Self { schedule, to_reader, filled, reader: Some(thread), busy, staging, epoch: 0, next: None })
    }

    /// Waits for `piece`. Out of the order of use, the reader is sent to it first.
    pub(crate) fn take(&mut self, piece: &Piece) -> Result<Staged<'_>, TierError> {
        let index = self.index_of(piece)?;
        if self.next != Some(index) {
            self.epoch += 1;
            self.send(ToReader::Seek { epoch: self.epoch, piece: index })?;
        }
        loop {
            let filled = self.filled.recv().map_err(|_| TierError::ReaderGone)?;
            if filled.epoch != self.epoch {
                self.send(ToReader::Free(filled.buffer))?;
                continue;
            }
            debug_assert_eq!(filled.piece, index, "the reader follows the schedule");
            if let Err(source) = filled.outcome {
                self.next = None;
                self.send(ToReader::Free(filled.buffer))?;
                return Err(TierError::Read { path: self.schedule.place(piece.unit).path.clone(), source });
            }
            self.next = Some((index + 1) % self.schedule.pieces().len());
            let length = piece.bytes() as usize;
            return Ok(Staged { buffer: Some(filled.buffer), length, free: &self.to_reader });
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

    fn index_of(&self, piece: &Piece) -> Result<usize, TierError> {
        let pieces = self.schedule.pieces();
        match self.next {
            Some(next) if pieces[next] == *piece => Ok(next),
            _ => pieces.iter().position(|p| p == piece).ok_or(TierError::NotScheduled { unit: piece.unit }),
        }
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
    schedule: Arc<Schedule>,
    sources: Vec<Arc<dyn ByteSource>>,
    busy: Arc<AtomicU64>,
    orders: Receiver<ToReader>,
    to_consumer: Sender<Filled>,
}

impl Reader {
    fn run(self) {
        let mut free = Vec::new();
        let mut target: Option<(u64, usize)> = None;
        loop {
            // Wait only when there is nothing to do; a newer seek is heard before each read.
            let ready = target.is_some() && !free.is_empty();
            let order = match if ready { self.orders.try_recv() } else { self.orders.recv().map_err(Into::into) } {
                Ok(order) => Some(order),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return,
            };
            match (order, target) {
                (Some(ToReader::Free(buffer)), _) => free.push(buffer),
                (Some(ToReader::Seek { epoch, piece }), _) => target = Some((epoch, piece)),
                (None, Some((epoch, piece))) => {
                    let Some(mut buffer) = free.pop() else { continue };
                    let outcome = self.read(piece, &mut buffer);
                    // After an error the consumer seeks anew.
                    target = outcome.is_ok().then(|| (epoch, (piece + 1) % self.schedule.pieces().len()));
                    if self.to_consumer.send(Filled { epoch, piece, buffer, outcome }).is_err() {
                        return;
                    }
                }
                (None, None) => {}
            }
        }
    }

    fn read(&self, index: usize, buffer: &mut Buffer) -> Result<(), ReadError> {
        let piece = &self.schedule.pieces()[index];
        let place = self.schedule.place(piece.unit);
        let source = &self.sources[place.file as usize];
        let (offset, length) = (place.offset + piece.offset, piece.bytes());
        let started = Instant::now();
        let outcome = read_exact_at(source.as_ref(), offset, &mut buffer[..length as usize]);
        source.forget(offset, length);
        self.busy.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        outcome
    }
}
