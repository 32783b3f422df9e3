//! Reads under way: ranges of files asked for together, which come in any order into buffers that the queue owns meanwhile.
//!
//! On Linux the kernel keeps many direct reads under way, asked through `io_uring` (see `uring`). Where the kernel refuses that, or a
//! file is not read past the page cache, threads read one range each (see `readers`). Both go by the same rules
//! about short, interrupted and failed reads.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::readers::Readers;
#[cfg(target_os = "linux")]
use super::uring::Uring;
use super::{Buffer, ByteSource, PAGE, ReadError};

/// How many reads are under way at once, and how long one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Reads at once, at most.
    pub reads: usize,
    /// Bytes of one read, at most: whole pages.
    pub bytes: usize,
}

impl Depth {
    /// What suits most drives. More reads at once would only be more memory that is written in turn ([`Queue::has_room`]).
    pub const USUAL: Self = Self::of(plan::Reads::USUAL);

    /// As a plan says; one page at least.
    #[must_use]
    pub const fn of(reads: plan::Reads) -> Self {
        let (at_once, pages) = (reads.at_once as usize, reads.bytes.0 as usize / PAGE);
        Self { reads: if at_once == 0 { 1 } else { at_once }, bytes: if pages == 0 { PAGE } else { pages * PAGE } }
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The kernel, asked through `io_uring`.
    Uring,
    /// Threads with positioned reads.
    Threads,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Threads => "threads",
        })
    }
}

/// A range to be read.
#[derive(Debug)]
pub struct Reading {
    /// The caller's name for it.
    pub tag: u64,
    /// Which of the queue's sources.
    pub source: usize,
    /// Where the range starts.
    pub offset: u64,
    /// How long it is.
    pub length: usize,
    /// Where it goes, with room for [`Queue::room`].
    pub buffer: Buffer,
}

/// What became of a [`Reading`].
#[derive(Debug)]
pub struct Landed {
    /// The caller's name for it.
    pub tag: u64,
    /// Which of the queue's sources it is from.
    pub source: usize,
    /// The caller's buffer.
    pub buffer: Buffer,
    /// Where the range lies in it: direct reads start on a page. Nothing is there where the read failed.
    pub range: Range<usize>,
    /// Whether all of it is there.
    pub outcome: Result<(), ReadError>,
}

/// A queue that reads no more: its threads ended by a defect, or the kernel closed it.
#[derive(Debug, thiserror::Error)]
#[error("reads under way were lost: {0}")]
pub struct QueueGone(pub(super) String);

/// Reads under way.
pub struct Queue {
    inner: Inner,
    refused: Option<String>,
}

enum Inner {
    #[cfg(target_os = "linux")]
    Uring(Box<Uring>),
    Threads(Box<Readers>),
}

impl Queue {
    /// A queue over `sources`, by `io_uring` if `method` allows it, the kernel has it and all sources are read directly.
    ///
    /// # Panics
    /// Where `depth` is of no reads, or of parts of pages.
    #[must_use]
    pub fn open(sources: Vec<Arc<dyn ByteSource>>, depth: Depth, method: Method) -> Self {
        assert!(depth.reads > 0 && depth.bytes > 0 && depth.bytes.is_multiple_of(PAGE), "reads of whole pages");
        let refused = match method {
            Method::Threads => None,
            #[cfg(target_os = "linux")]
            Method::Uring if sources.iter().all(|source| source.direct().is_some()) => {
                match Uring::open(&sources, depth) {
                    Ok(uring) => return Self { inner: Inner::Uring(Box::new(uring)), refused: None },
                    Err(error) => Some(error.to_string()),
                }
            }
            Method::Uring => None,
        };
        Self { inner: Inner::Threads(Box::new(Readers::new(sources, depth))), refused }
    }

    /// Who reads.
    #[must_use]
    pub const fn method(&self) -> Method {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(_) => Method::Uring,
            Inner::Threads(_) => Method::Threads,
        }
    }

    /// What the kernel said where it refused `io_uring`.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Bytes that a buffer needs for a range of `length` bytes anywhere in a file: whole pages around it.
    #[must_use]
    pub const fn room(length: usize) -> usize {
        length.next_multiple_of(PAGE) + PAGE
    }

    /// Adds a read to those that the next [`Self::begin`], [`Self::look`] or [`Self::step`] begins.
    ///
    /// # Panics
    /// Where the buffer has no room for it, or there is no such source.
    pub fn add(&mut self, reading: Reading) {
        assert!(reading.buffer.len() >= Self::room(reading.length), "a buffer with room for the range");
        match &mut self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.add(reading),
            Inner::Threads(readers) => readers.add(reading),
        }
    }

    /// Whether a range that is added now is begun at once, at least in part.
    ///
    /// Who asks only then, and has several buffers, leaves those untouched that are not needed: a drive of a virtual machine, whose host
    /// copies what it reads, wrote 12 MiB again and again at 2.6 to 3.8 GB/s, and 24 MiB at 2.4 to 3.2.
    #[must_use]
    pub fn has_room(&self) -> bool {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.has_room(),
            Inner::Threads(readers) => readers.has_room(),
        }
    }

    /// Begins what was added, as much of it as may be under way at once, and does not wait.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn begin(&mut self) -> Result<(), QueueGone> {
        match &mut self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.begin(),
            Inner::Threads(_) => Ok(()),
        }
    }

    /// Takes what has come without waiting, as [`Self::step`] does where it need not wait.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn look(&mut self, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        match &mut self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.look(landed),
            Inner::Threads(readers) => readers.look(landed),
        }
    }

    /// Waits until something has come, or at once where nothing is under way, and adds the ranges that are complete or failed to
    /// `landed`, if any.
    ///
    /// # Errors
    /// [`QueueGone`], and from then on always.
    pub fn step(&mut self, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        match &mut self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.step(landed),
            Inner::Threads(readers) => readers.step(landed),
        }
    }

    /// Ranges that were added and have not landed.
    #[must_use]
    pub fn under_way(&self) -> usize {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.under_way(),
            Inner::Threads(readers) => readers.under_way(),
        }
    }

    /// How long something was under way, as far as can be known: where all had landed before somebody looked, what it takes at the rate of other times.
    #[must_use]
    pub fn busy(&self) -> Duration {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.busy(),
            Inner::Threads(readers) => readers.busy(),
        }
    }

    /// The most reads that were under way at once so far.
    #[must_use]
    pub fn deepest(&self) -> usize {
        match &self.inner {
            #[cfg(target_os = "linux")]
            Inner::Uring(uring) => uring.deepest(),
            Inner::Threads(readers) => readers.deepest(),
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("method", &self.method()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::super::{Fault, FaultySource, FileSource};
    use super::*;

    const LENGTH: usize = 300_000;

    fn bytes() -> Vec<u8> {
        (0..LENGTH as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn write(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("bytes");
        std::fs::File::create(&path).unwrap().write_all(&bytes()).unwrap();
        path
    }

    /// Ranges that start and end on pages, across them, in one byte, at the end.
    const RANGES: [(u64, usize); 8] = [
        (0, 4096),
        (1, 4096),
        (4095, 2),
        (100, 0),
        (8191, 50_000),
        (0, LENGTH),
        (LENGTH as u64 - 1, 1),
        (123_457, 99_999),
    ];

    fn read_all(queue: &mut Queue, source: usize) -> Vec<(usize, Result<Vec<u8>, ReadError>)> {
        for (tag, (offset, length)) in (0..).zip(RANGES) {
            let buffer = Buffer::try_new(Queue::room(length)).unwrap();
            queue.add(Reading { tag, source, offset, length, buffer });
        }
        assert_eq!(queue.under_way(), RANGES.len());
        let mut landed = Vec::new();
        while queue.under_way() > 0 {
            queue.step(&mut landed).unwrap();
        }
        queue.step(&mut landed).unwrap();
        landed.sort_by_key(|landed| landed.tag);
        let found = landed.into_iter().map(|l| (l.tag as usize, l.outcome.map(|()| l.buffer[l.range].to_vec())));
        found.collect()
    }

    fn right(found: Vec<(usize, Result<Vec<u8>, ReadError>)>) {
        assert_eq!(found.len(), RANGES.len());
        for (tag, found) in found {
            let (offset, length) = RANGES[tag];
            assert!(found.unwrap() == bytes()[offset as usize..][..length], "range {tag}");
        }
    }

    const SMALL: Depth = Depth { reads: 3, bytes: 2 * PAGE };

    #[test]
    fn every_way_of_reading_gives_the_bytes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path());
        for method in [Method::Uring, Method::Threads] {
            for (source, depth) in [
                (FileSource::open(&path), SMALL),
                (FileSource::open(&path), Depth::USUAL),
                (FileSource::open_buffered(&path), SMALL),
            ] {
                let mut queue = Queue::open(vec![Arc::new(source.unwrap())], depth, method);
                right(read_all(&mut queue, 0));
                right(read_all(&mut queue, 0));
                assert!((1..=depth.reads).contains(&queue.deepest()));
            }
        }
    }

    #[test]
    fn short_and_interrupted_reads_and_failures_that_pass_do_not_show() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path());
        let faults =
            [Fault::Short(3), Fault::Interrupted, Fault::Device, Fault::Device, Fault::Short(5000), Fault::None];
        for method in [Method::Uring, Method::Threads] {
            let one = Depth { reads: 1, ..SMALL };
            let source = FaultySource::scheduled(FileSource::open(&path).unwrap(), &faults[..2]);
            right(read_all(&mut Queue::open(vec![Arc::new(source)], SMALL, method), 0));
            // One read at a time, so that failures of one range follow each other.
            let source = FaultySource::scheduled(FileSource::open(&path).unwrap(), &faults);
            let mut queue = Queue::open(vec![Arc::new(source)], one, method);
            queue.add(Reading {
                tag: 0,
                source: 0,
                offset: 5,
                length: 9_000,
                buffer: Buffer::try_new(20_000).unwrap(),
            });
            let mut landed = Vec::new();
            while queue.under_way() > 0 {
                queue.step(&mut landed).unwrap();
            }
            let landed = landed.pop().unwrap();
            landed.outcome.unwrap();
            assert!(landed.buffer[landed.range] == bytes()[5..9_005]);
        }
    }

    #[test]
    fn a_failed_range_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path());
        for method in [Method::Uring, Method::Threads] {
            let cut = FaultySource::truncated(FileSource::open(&path).unwrap(), 200_000);
            let broken = FaultySource::scheduled(FileSource::open(&path).unwrap(), &[Fault::Device]);
            let sources: Vec<Arc<dyn ByteSource>> = vec![Arc::new(cut), Arc::new(broken)];
            let mut queue = Queue::open(sources, SMALL, method);
            for (tag, found) in read_all(&mut queue, 0) {
                let (offset, length) = RANGES[tag];
                let whole = offset as usize + length <= 200_000;
                assert!(whole == found.is_ok() && (whole || matches!(found, Err(ReadError::Changed { .. }))), "{tag}");
            }
            let failed = read_all(&mut queue, 1);
            assert!(failed.iter().all(|(tag, found)| match found {
                Ok(_) => RANGES[*tag].1 == 0,
                Err(error) => matches!(error, ReadError::Io { .. }),
            }));
        }
    }

    #[test]
    fn a_queue_can_be_dropped_with_reads_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path());
        for method in [Method::Uring, Method::Threads] {
            for steps in 0..3 {
                let mut queue = Queue::open(vec![Arc::new(FileSource::open(&path).unwrap())], SMALL, method);
                for tag in 0..10 {
                    let buffer = Buffer::try_new(Queue::room(LENGTH)).unwrap();
                    queue.add(Reading { tag, source: 0, offset: 0, length: LENGTH, buffer });
                }
                for _ in 0..steps {
                    queue.step(&mut Vec::new()).unwrap();
                }
            }
        }
    }
}
