//! Measures a drive: reads as the ring from disk does, by so many at once as it likes.
//!
//! A sketch of what should come out: 0.5 GB/s (SATA) to 7 GB/s (`NVMe`). Half a MiB takes an `NVMe` drive 0.1 to 0.3 ms, so that 16 at once are more than it
//! serves at a time; a drive that a network answers for, after milliseconds, wants more, and one of a virtual machine, whose host copies what it
//! reads, longer reads and less memory that is written in turn. It has to be clearly more that another way gives.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::memory::{Buffer, ByteSource, Depth, FileSource, Method, Queue, Reading};
use plan::cost::RINGS;
use plan::{Bytes, Reads};

use crate::measure::{RUNS, RUNS_SHOWN, spread};
use crate::{DriveRates, ProbeError};

/// The ways that are tried, the usual one first.
const TRIED: [Reads; 4] = [Reads::USUAL, reads(8, 512), reads(4, 1024), reads(32, 512)];
/// How many times the rate of the usual way another has to give.
const BETTER: f64 = 1.05;
/// Bytes of one measurement.
const TURN: u64 = 256 << 20;
/// A slow drive is not read for longer than this at a time: there are 34 turns.
const TURN_TIME: Duration = Duration::from_millis(250);
/// The least that is said to be left of a drive.
pub(crate) const SHARE_LEAST: f64 = 0.01;
/// Bytes of a temporary file.
const FILE: u64 = 512 << 20;
const BLOCK: u64 = 2 << 20;

const fn reads(at_once: u32, kib: u64) -> Reads {
    Reads { at_once, bytes: Bytes(kib << 10) }
}

/// Reads a file, or a temporary one in a folder; `compute` keeps all cores busy for less time than the reads under way take.
pub(crate) fn measure(path: &Path, compute: &mut dyn FnMut()) -> Result<DriveRates, ProbeError> {
    let temporary = path.is_dir().then(|| Temporary::write(path)).transpose()?;
    let path = temporary.as_ref().map_or(path, |file| &file.0);
    let fail = |source| ProbeError::Drive { path: path.to_owned(), source };
    let mut read = Read::open(path).map_err(fail)?;
    let reads = read.best().map_err(fail)?;
    let (alone, beside) = read.pairs(reads, compute).map_err(fail)?;
    Ok(DriveRates { read: spread(alone), reads, beside })
}

/// A file, and slots to read it into as a ring does.
struct Read {
    file: Arc<FileSource>,
    slots: Vec<Buffer>,
    start: u64,
}

impl Read {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = Arc::new(FileSource::open(path)?);
        if file.is_empty() {
            return Err(std::io::Error::other("the file is empty"));
        }
        let (slot, slots) = RINGS[0];
        let slots = Buffer::try_parts(Queue::room(slot.0 as usize), slots as usize).map_err(std::io::Error::other)?;
        Ok(Self { file, slots, start: 0 })
    }

    fn queue(&self, reads: Reads) -> Queue {
        Queue::open(vec![Arc::clone(&self.file) as Arc<dyn ByteSource>], Depth::of(reads), Method::Uring)
    }

    /// The way that is usual, unless another is clearly better. All take turns, since drives of shared machines swing.
    fn best(&mut self) -> std::io::Result<Reads> {
        let mut found = TRIED.map(|reads| (reads, self.queue(reads), Vec::new()));
        for _ in 0..RUNS {
            for (_, queue, rates) in &mut found {
                rates.push(self.turn(queue, None)?);
            }
        }
        Ok(choose(found.map(|(reads, _, rates)| (reads, spread(rates).median))))
    }

    /// Bytes per second of the chosen way, and the share of that which it has beside busy cores. Measured anew: of ways that are as fast as each other
    /// the one that was lucky is chosen.
    fn pairs(&mut self, reads: Reads, compute: &mut dyn FnMut()) -> std::io::Result<(Vec<f64>, f64)> {
        let mut queue = self.queue(reads);
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..RUNS_SHOWN {
            alone.push(self.turn(&mut queue, None)?);
            beside.push(self.turn(&mut queue, Some(compute))?);
        }
        let share = spread(beside).median / spread(alone.clone()).median;
        Ok((alone, share.clamp(SHARE_LEAST, 1.0)))
    }

    /// Bytes per second of one turn, each time of another part where the file is long enough.
    fn turn(&mut self, queue: &mut Queue, mut compute: Option<&mut dyn FnMut()>) -> std::io::Result<f64> {
        let (start, length) = (self.start, self.file.len());
        let end = length.min(start + TURN);
        self.start = if end + TURN <= length { end } else { 0 };
        self.file.forget(start, end - start);
        let started = Instant::now();
        let (mut offset, mut landed) = (start, Vec::new());
        loop {
            let late = started.elapsed() >= TURN_TIME;
            while let Some(buffer) = self.slots.pop_if(|_| offset < end && !late && queue.has_room()) {
                let length = (end - offset).min(RINGS[0].0.0) as usize;
                queue.add(Reading { tag: offset, source: 0, offset, length, buffer });
                offset += length as u64;
            }
            if queue.under_way() == 0 {
                return Ok((offset - start) as f64 / started.elapsed().as_secs_f64());
            }
            if let Some(compute) = &mut compute {
                queue.begin().map_err(std::io::Error::other)?;
                compute();
                queue.look(&mut landed).map_err(std::io::Error::other)?;
            } else {
                queue.step(&mut landed).map_err(std::io::Error::other)?;
            }
            for landed in landed.drain(..) {
                landed.outcome.map_err(std::io::Error::other)?;
                self.slots.push(landed.buffer);
            }
        }
    }
}

/// The first, unless another is clearly better.
fn choose(rates: [(Reads, f64); TRIED.len()]) -> Reads {
    let [usual, others @ ..] = rates;
    let better = others.into_iter().filter(|(_, rate)| *rate > BETTER * usual.1);
    better.max_by(|one, other| one.1.total_cmp(&other.1)).unwrap_or(usual).0
}

/// A file that is removed again.
struct Temporary(PathBuf);

impl Temporary {
    fn write(folder: &Path) -> Result<Self, ProbeError> {
        let path = folder.join(format!(".plimsoll-probe.{}.tmp", std::process::id()));
        let fail = |source| ProbeError::Drive { path: path.clone(), source };
        let mut file = fs::File::create(&path).map_err(fail)?;
        let temporary = Self(path.clone());
        // Not zeros: some drives and file systems store those in no space and no time.
        let block: Vec<u8> = (0..BLOCK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for _ in 0..FILE / BLOCK {
            file.write_all(&block).map_err(fail)?;
        }
        file.sync_all().map_err(fail)?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a file that will not go.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_way_has_to_be_clearly_better() {
        let chosen = |rates: [f64; 4]| choose([0, 1, 2, 3].map(|i| (TRIED[i], rates[i])));
        assert_eq!(chosen([3e9, 3.1e9, 2.9e9, 1e9]), Reads::USUAL);
        assert_eq!(chosen([3e9, 2e9, 3.3e9, 4e9]), reads(32, 512));
        assert_eq!(chosen([1e9, 1.2e9, 1.3e9, 1e9]), reads(4, 1024));
    }

    #[test]
    fn a_file_is_read_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        fs::write(&path, vec![7; 5 * BLOCK as usize + 100]).expect("a file");
        let mut computed = 0;
        let rates = measure(&path, &mut || computed += 1).expect("rates");
        assert!(rates.is_sane() && rates.read.runs == RUNS_SHOWN as u32 && TRIED.contains(&rates.reads), "{rates:?}");
        assert!(computed >= RUNS_SHOWN, "{computed}");
        let measure = |path: &Path| measure(path, &mut || ()).expect_err("nothing to read").to_string();
        assert!(measure(&folder.path().join("absent")).contains("absent"));
        fs::write(&path, "").expect("a file");
        assert!(measure(&path).contains("empty"));
    }
}
