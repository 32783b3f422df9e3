//! A source that fails as real ones do, but on schedule: tests of everything that reads.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{ByteSource, PAGE, ReadError};

/// What happens to one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the read is passed on.
    None,
    /// At most this many bytes (and at least 1) are read; of a direct read the whole pages around them.
    Short(usize),
    /// `EINTR`.
    Interrupted,
    /// `EIO`.
    Device,
}

/// Wraps a source and lets reads fail, the same way at each run.
#[derive(Debug)]
pub struct FaultySource<S> {
    inner: S,
    faults: Schedule,
    end: u64,
    reads: AtomicU64,
}

#[derive(Debug)]
enum Schedule {
    /// These, over and over.
    Listed(Vec<Fault>),
    /// Drawn from the seed and the number of the read; never two device errors in a row.
    Seeded(u64),
}

impl<S: ByteSource> FaultySource<S> {
    /// The `i`-th read meets the `i`-th fault; after the last comes the first again.
    pub fn scheduled(inner: S, faults: &[Fault]) -> Self {
        let end = inner.len();
        Self { inner, faults: Schedule::Listed(faults.to_vec()), end, reads: AtomicU64::new(0) }
    }

    /// About half of the reads meet a fault that a careful reader survives.
    pub fn seeded(inner: S, seed: u64) -> Self {
        let end = inner.len();
        Self { inner, faults: Schedule::Seeded(seed), end, reads: AtomicU64::new(0) }
    }

    /// The file was cut to `end` bytes after it was opened.
    pub fn truncated(inner: S, end: u64) -> Self {
        Self { inner, faults: Schedule::Listed(Vec::new()), end, reads: AtomicU64::new(0) }
    }

    /// How many reads were tried.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn next_fault(&self) -> Fault {
        self.fault(self.reads.fetch_add(1, Ordering::Relaxed))
    }

    fn before_end(&self, offset: u64) -> usize {
        usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX)
    }

    fn fault(&self, read: u64) -> Fault {
        match &self.faults {
            Schedule::Listed(list) if list.is_empty() => Fault::None,
            Schedule::Listed(list) => list[(read % list.len() as u64) as usize],
            Schedule::Seeded(seed) => {
                let draw = scramble(seed.wrapping_add(read));
                match draw % 8 {
                    0 | 1 => Fault::Short((draw >> 8) as usize % 7),
                    2 => Fault::Interrupted,
                    // Even reads only, so that three in a row cannot come.
                    3 if read.is_multiple_of(2) => Fault::Device,
                    _ => Fault::None,
                }
            }
        }
    }
}

impl<S: ByteSource> ByteSource for FaultySource<S> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = match self.next_fault() {
            Fault::None => buf.len(),
            Fault::Short(most) => buf.len().min(most.max(1)),
            Fault::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Fault::Device => return Err(rustix::io::Errno::IO.into()),
        };
        self.inner.read_at(offset, &mut buf[..wanted.min(self.before_end(offset))])
    }

    fn direct(&self) -> Option<&File> {
        self.inner.direct()
    }

    fn drive(&self) -> u64 {
        self.inner.drive()
    }

    fn outcome(&self, offset: u64, outcome: io::Result<usize>) -> io::Result<usize> {
        let most = match self.next_fault() {
            Fault::None => usize::MAX,
            Fault::Short(most) => most.max(1).next_multiple_of(PAGE),
            Fault::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Fault::Device => return Err(rustix::io::Errno::IO.into()),
        };
        Ok(self.inner.outcome(offset, outcome)?.min(most).min(self.before_end(offset)))
    }

    fn verify(&self) -> Result<(), ReadError> {
        self.inner.verify()
    }

    fn forget(&self, offset: u64, len: u64) {
        self.inner.forget(offset, len);
    }
}

/// A well-mixed number for each input (the finalizer of `SplitMix64`).
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
