//! Direct reads by `io_uring` (`man 7 io_uring`): as many under way as a drive likes, and no thread waits for them but who needs them.
//!
//! A range is cut into reads of [`Depth::bytes`], each with a [`Progress`] of its own, so that ranges follow each other without a
//! gap and a long one is read at full depth by itself.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

use super::progress::{Pages, Progress};
use super::queue::{Depth, Landed, QueueGone, Reading};
use super::watch::Watch;
use super::{ByteSource, PAGE, ReadError};

/// A ring of the kernel and what it was given.
pub(super) struct Uring {
    ring: IoUring,
    depth: Depth,
    sources: Vec<Arc<dyn ByteSource>>,
    /// By place; reads name their range so. Each buffer in here may be written by the kernel.
    ranges: Vec<Option<Under>>,
    /// Ranges of which something was not asked for yet, in order.
    asking: VecDeque<usize>,
    /// By place; the kernel names a read so.
    reads: Vec<Option<Read>>,
    /// Ranges without bytes, which are there at once.
    empty: Vec<Reading>,
    submitted: usize,
    under_way: usize,
    deepest: usize,
    watch: Watch,
}

/// A range under way.
struct Under {
    reading: Reading,
    pages: Pages,
    /// Where its next read starts.
    asked: usize,
    /// Its reads that the kernel has.
    open: usize,
    failed: Option<ReadError>,
}

/// A read that the kernel has.
struct Read {
    range: usize,
    /// Where it starts in the range's buffer, and ends there at most.
    start: usize,
    end: usize,
    progress: Progress,
}

impl Read {
    /// Bytes that are asked for and not there.
    fn rest(&self) -> usize {
        self.progress.next().map_or(0, |next| self.end - self.start - next)
    }
}

impl Uring {
    /// A ring, where the kernel has one and lets this process use it.
    pub(super) fn open(sources: &[Arc<dyn ByteSource>], depth: Depth) -> io::Result<Self> {
        let entries = u32::try_from(depth.reads).map_err(io::Error::other)?.next_power_of_two();
        let ring = IoUring::new(entries)?;
        let reads = (0..depth.reads).map(|_| None).collect();
        Ok(Self {
            ring,
            depth,
            sources: sources.to_vec(),
            ranges: Vec::new(),
            asking: VecDeque::new(),
            reads,
            empty: Vec::new(),
            submitted: 0,
            under_way: 0,
            deepest: 0,
            watch: Watch::default(),
        })
    }

    pub(super) fn add(&mut self, reading: Reading) {
        assert!(reading.source < self.sources.len(), "a source of this queue");
        self.under_way += 1;
        let pages = Pages::around(reading.offset, reading.length);
        if pages.needed == 0 {
            self.empty.push(reading);
            return;
        }
        let under = Under { reading, pages, asked: 0, open: 0, failed: None };
        let place = self.ranges.iter().position(Option::is_none).unwrap_or_else(|| {
            self.ranges.push(None);
            self.ranges.len() - 1
        });
        self.ranges[place] = Some(under);
        self.asking.push_back(place);
    }

    pub(super) fn has_room(&self) -> bool {
        let rest = |under: &Under| (under.pages.needed - under.asked).div_ceil(self.depth.bytes);
        let waiting: usize = self.asking.iter().filter_map(|place| self.ranges[*place].as_ref()).map(rest).sum();
        self.submitted + waiting < self.depth.reads
    }

    /// Has as many reads under way as there may be.
    ///
    /// Each is handed over by itself: reads that follow each other in the file and are handed over together are joined by the kernel, and
    /// the drive of a virtual machine gave 2.8 GB/s in requests of 2 MiB where it gave 3.5 in those of 512 KiB.
    fn ask(&mut self) -> io::Result<()> {
        self.submit()?;
        while let Some(&place) = self.asking.front() {
            let Some(free) = self.reads.iter().position(Option::is_none) else { break };
            let Some(under) = &mut self.ranges[place] else { break };
            let (start, needed) = (under.asked, under.pages.needed);
            // A short rest comes with what is before it: a read of a page takes as long as one of many.
            let rest = needed.next_multiple_of(PAGE) - start;
            let end = start + if rest <= self.depth.bytes * 3 / 2 { rest } else { self.depth.bytes };
            (under.asked, under.open) = (end, under.open + 1);
            if end >= needed {
                self.asking.pop_front();
            }
            let progress = Progress::new(under.pages.offset + start as u64, needed.min(end) - start, PAGE);
            self.push(free, Read { range: place, start, end, progress });
            self.deepest = self.deepest.max(self.submitted);
            self.submit()?;
        }
        Ok(())
    }

    /// Hands a read, or what is left of it, to the kernel's queue under the name `place`.
    fn push(&mut self, place: usize, read: Read) {
        let under = self.ranges[read.range].as_ref().expect("the range of an open read is kept");
        let source = &self.sources[under.reading.source];
        let file = source.direct().expect("a source that was direct stays so");
        let from = read.start + read.progress.next().expect("a read that is not over");
        let (buffer, length) = (under.reading.buffer.raw(), read.rest());
        assert!(from < read.end && read.end <= buffer.len(), "reads end within their buffer");
        // SAFETY: `from` is within the buffer, by the assertion.
        let into = unsafe { buffer.cast::<u8>().add(from) };
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), into.as_ptr(), length as u32)
            .offset(under.pages.offset + from as u64)
            .build()
            .user_data(place as u64);
        // SAFETY: the kernel writes `length` bytes from `into` on, which lie in the buffer by the assertion. The buffer is owned
        // by `self.ranges[read.range]`, of which nothing makes a reference to its bytes, and stays there until `open` is 0, which
        // `heard` brings about when the kernel has said that it is done; `drop` waits for that, too, or leaks the buffers. The
        // file stays open as long, since `self.sources` holds it.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the kernel's queue has room for as many reads as there may be");
        self.reads[place] = Some(read);
        self.submitted += 1;
        self.watch.begins(length, Instant::now());
    }

    pub(super) fn step(&mut self, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        self.begin()?;
        let waits = self.submitted > 0 && self.empty.is_empty() && self.ring.completion().is_empty();
        if waits {
            self.wait().map_err(|error| QueueGone(error.to_string()))?;
        }
        self.take(landed, waits)
    }

    pub(super) fn look(&mut self, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        self.take(landed, false)
    }

    /// Takes what has come, of which the first was waited for or not, and begins more.
    fn take(&mut self, landed: &mut Vec<Landed>, waited: bool) -> Result<(), QueueGone> {
        for reading in self.empty.drain(..) {
            self.under_way -= 1;
            let Reading { tag, source, buffer, .. } = reading;
            landed.push(Landed { tag, source, buffer, range: 0..0, outcome: Ok(()) });
        }
        let (mut longest, mut bytes, seen) = (None, 0, Instant::now());
        loop {
            let entry = self.ring.completion().next();
            let Some(entry) = entry else { break };
            let result = entry.result();
            let outcome = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
            let place = entry.user_data() as usize;
            bytes += self.reads[place].as_ref().map_or(0, Read::rest);
            longest = longest.max(self.heard(place, outcome, landed));
        }
        self.watch.landed(bytes, waited, seen);
        if let Some(pause) = longest {
            // A drive in trouble: nothing else is read from it meanwhile either.
            thread::sleep(pause);
        }
        self.begin()
    }

    pub(super) fn begin(&mut self) -> Result<(), QueueGone> {
        self.ask().map_err(|error| QueueGone(error.to_string()))
    }

    /// Has the kernel begin what is in its queue.
    fn submit(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        match self.ring.submit() {
            Err(error) if !passes(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the kernel is done with a read.
    fn wait(&self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                // It wants completions to be taken first.
                Err(error) if passes(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes what a read came to; gives a pause to make before going on.
    fn heard(&mut self, place: usize, outcome: io::Result<usize>, landed: &mut Vec<Landed>) -> Option<Duration> {
        let mut read = self.reads[place].take().expect("the kernel names reads that it has");
        self.submitted -= 1;
        let under = self.ranges[read.range].as_mut().expect("the range of an open read is kept");
        let source = &self.sources[under.reading.source];
        let from = read.start + read.progress.next().expect("a read that is not over");
        let mut pause = None;
        match read.progress.heard(source.outcome(under.pages.offset + from as u64, outcome)) {
            Ok(wait) => pause = wait,
            Err(error) => under.failed = under.failed.take().or(Some(error)),
        }
        if under.failed.is_none() && read.progress.next().is_some() {
            self.push(place, read);
            return pause;
        }
        under.open -= 1;
        let all_asked = under.asked >= under.pages.needed;
        if under.failed.is_some() && !all_asked {
            under.asked = under.pages.needed;
            self.asking.retain(|asking| *asking != read.range);
        } else if !all_asked {
            return pause;
        }
        if under.open == 0
            && let Some(under) = self.ranges[read.range].take()
        {
            self.land(under, landed);
        }
        pause
    }

    fn land(&mut self, under: Under, landed: &mut Vec<Landed>) {
        self.under_way -= 1;
        let Under { reading, pages, failed, .. } = under;
        let outcome = failed.map_or_else(|| self.sources[reading.source].verify(), Err);
        let Reading { tag, source, buffer, length, .. } = reading;
        landed.push(Landed { tag, source, buffer, range: pages.skew..pages.skew + length, outcome });
    }

    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    pub(super) const fn deepest(&self) -> usize {
        self.deepest
    }

    pub(super) fn busy(&self) -> Duration {
        self.watch.busy(Instant::now())
    }
}

/// Whether the kernel may take a second call.
fn passes(error: &io::Error) -> bool {
    [Errno::INTR, Errno::AGAIN, Errno::BUSY].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Drop for Uring {
    fn drop(&mut self) {
        while self.submitted > 0 {
            if self.wait().is_err() {
                // Nobody knows what the kernel still writes: these bytes are its own from now on.
                std::mem::forget(std::mem::take(&mut self.ranges));
                return;
            }
            self.submitted -= self.ring.completion().count();
        }
    }
}
