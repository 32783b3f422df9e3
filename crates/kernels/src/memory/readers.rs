//! Threads that read one range each: where there is no `io_uring`, or a source is no file that is read directly.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::file::positioned_read;
use super::progress::{Pages, Progress};
use super::queue::{Depth, Landed, QueueGone, Reading};
use super::watch::Watch;
use super::{Buffer, ByteSource, PAGE, ReadError, read_exact_at};

/// Threads at most: each reads a whole range, so that a few keep a drive busy.
const THREADS: usize = 4;

/// The threads, and what they were given.
pub(super) struct Readers {
    sources: Arc<[Arc<dyn ByteSource>]>,
    bytes: usize,
    jobs: Option<Sender<Reading>>,
    waiting: Arc<Mutex<Receiver<Reading>>>,
    done: Receiver<Option<Landed>>,
    done_by: Sender<Option<Landed>>,
    threads: Vec<JoinHandle<()>>,
    threads_most: usize,
    under_way: usize,
    deepest: usize,
    watch: Watch,
    gone: Option<String>,
}

impl Readers {
    pub(super) fn new(sources: Vec<Arc<dyn ByteSource>>, depth: Depth) -> Self {
        let ((jobs, waiting), (done_by, done)) = (channel(), channel());
        Self {
            sources: sources.into(),
            bytes: depth.bytes,
            jobs: Some(jobs),
            waiting: Arc::new(Mutex::new(waiting)),
            done,
            done_by,
            threads: Vec::new(),
            threads_most: depth.reads.min(THREADS),
            under_way: 0,
            deepest: 0,
            watch: Watch::default(),
            gone: None,
        }
    }

    pub(super) fn add(&mut self, reading: Reading) {
        assert!(reading.source < self.sources.len(), "a source of this queue");
        self.under_way += 1;
        self.watch.begins(reading.length, Instant::now());
        self.deepest = self.deepest.max(self.under_way.min(self.threads_most));
        // Threads are started as they are needed.
        if self.threads.len() < self.under_way.min(self.threads_most)
            && let Err(error) = self.start()
            && self.threads.is_empty()
        {
            self.gone = Some(error.to_string());
        }
        if let Some(jobs) = &self.jobs {
            // The receiver lives in this value.
            let _ = jobs.send(reading);
        }
    }

    /// One that waits for each thread counts as begun: threads do not ask for more by themselves.
    pub(super) const fn has_room(&self) -> bool {
        self.under_way < 2 * self.threads_most
    }

    fn start(&mut self) -> std::io::Result<()> {
        let (sources, waiting) = (Arc::clone(&self.sources), Arc::clone(&self.waiting));
        let (done, bytes) = (self.done_by.clone(), self.bytes);
        let run = move || {
            loop {
                // A thread that failed holding the lock had taken nothing.
                let reading = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(reading) = reading else { return };
                let landed = catch_unwind(AssertUnwindSafe(|| read(&sources, reading, bytes))).ok();
                let lost = landed.is_none();
                if done.send(landed).is_err() || lost {
                    return;
                }
            }
        };
        self.threads.push(thread::Builder::new().name("disk-reads".into()).spawn(run)?);
        Ok(())
    }

    pub(super) fn step(&mut self, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        if let Some(gone) = &self.gone {
            return Err(QueueGone(gone.clone()));
        }
        if self.under_way == 0 {
            return Ok(());
        }
        let come = self.done.try_recv();
        let waited = come.is_err();
        let one = come.or_else(|_| self.done.recv()).ok().flatten();
        self.land(one, waited, landed)
    }

    pub(super) fn look(&mut self, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        while let Ok(one) = self.done.try_recv() {
            self.land(one, false, landed)?;
        }
        self.gone.as_ref().map_or(Ok(()), |gone| Err(QueueGone(gone.clone())))
    }

    /// Takes what a thread came to, which is nothing where it was lost, and was waited for or not.
    fn land(&mut self, one: Option<Landed>, waited: bool, landed: &mut Vec<Landed>) -> Result<(), QueueGone> {
        if let Some(one) = one {
            self.under_way -= 1;
            self.watch.landed(one.range.len(), waited, Instant::now());
            landed.push(one);
            return Ok(());
        }
        let gone = self.gone.insert("a source failed by a defect".to_owned());
        Err(QueueGone(gone.clone()))
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

impl Drop for Readers {
    fn drop(&mut self) {
        // What waits is not wanted any more; then the channel's end ends the threads.
        self.jobs = None;
        while self.waiting.try_lock().is_ok_and(|waiting| waiting.try_recv().is_ok()) {}
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Reads one range, directly where its source allows that.
fn read(sources: &[Arc<dyn ByteSource>], reading: Reading, bytes: usize) -> Landed {
    let Reading { tag, source, offset, length, mut buffer } = reading;
    let from = sources[source].as_ref();
    let (start, outcome) = if let Some(file) = from.direct() {
        let pages = Pages::around(offset, length);
        let mut next = |at: u64, into: &mut [u8]| from.outcome(at, positioned_read(file, at, into));
        (pages.skew, read_pages(pages, &mut buffer, bytes, &mut next).and_then(|()| from.verify()))
    } else {
        let outcome = read_exact_at(from, offset, &mut buffer[..length]);
        from.forget(offset, length as u64);
        (0, outcome)
    };
    Landed { tag, source, buffer, range: start..start + length, outcome }
}

type ReadOnce<'a> = dyn FnMut(u64, &mut [u8]) -> std::io::Result<usize> + 'a;

/// Reads whole pages, some at a time.
fn read_pages(pages: Pages, buffer: &mut Buffer, bytes: usize, read: &mut ReadOnce) -> Result<(), ReadError> {
    let mut progress = Progress::new(pages.offset, pages.needed, PAGE);
    while let Some(from) = progress.next() {
        let end = pages.needed.next_multiple_of(PAGE).min(from + bytes);
        if let Some(pause) = progress.heard(read(pages.offset + from as u64, &mut buffer[from..end]))? {
            thread::sleep(pause);
        }
    }
    Ok(())
}
