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
use plan::{Bytes, Reads};

use crate::measure::{RUNS, spread};
use crate::{DriveRates, ProbeError};

/// The ways that are tried, the usual one first.
const TRIED: [Reads; 4] = [Reads::USUAL, reads(8, 512), reads(4, 1024), reads(32, 512)];
/// How many times the rate of the usual way another has to give.
const BETTER: f64 = 1.05;
/// Bytes of one slot, as a ring has it, and slots for the most reads at once, with one to spare.
const SLOT: usize = 2 << 20;
const SLOTS: usize = 9;
/// Bytes of one measurement.
const TURN: u64 = 256 << 20;
/// A slow drive is not read for longer than this at a time.
const TURN_TIME: Duration = Duration::from_secs(1);
/// Bytes of a temporary file.
const FILE: u64 = 512 << 20;

const fn reads(at_once: u32, kib: u64) -> Reads {
    Reads { at_once, bytes: Bytes(kib << 10) }
}

/// Reads a file, or a temporary one in a folder.
pub(crate) fn measure(path: &Path) -> Result<DriveRates, ProbeError> {
    if path.is_dir() {
        let file = Temporary::write(path)?;
        return read(&file.0);
    }
    read(path)
}

/// All ways take turns, since drives of shared machines swing, and each turn reads another part where the file is long enough.
fn read(path: &Path) -> Result<DriveRates, ProbeError> {
    let fail = |source: std::io::Error| ProbeError::Drive { path: path.to_owned(), source };
    let file = Arc::new(FileSource::open(path).map_err(fail)?);
    if file.is_empty() {
        return Err(fail(std::io::Error::other("the file is empty")));
    }
    let mut slots = Buffer::try_parts(Queue::room(SLOT), SLOTS)?;
    let mut found = TRIED.map(|reads| {
        let sources = vec![Arc::clone(&file) as Arc<dyn ByteSource>];
        (reads, Queue::open(sources, Depth::of(reads), Method::Uring), Vec::new())
    });
    let mut start = 0;
    for _ in 0..RUNS {
        for (_, queue, rates) in &mut found {
            let end = file.len().min(start + TURN);
            file.forget(start, end - start);
            rates.push(turn(queue, start, end, &mut slots).map_err(fail)?);
            start = if end + TURN <= file.len() { end } else { 0 };
        }
    }
    Ok(choose(found.map(|(reads, _, rates)| DriveRates { read: spread(rates), reads })))
}

/// The first, unless another is clearly better.
fn choose(rates: [DriveRates; TRIED.len()]) -> DriveRates {
    let [usual, others @ ..] = rates;
    let better = others.into_iter().filter(|other| other.read.median > BETTER * usual.read.median);
    better.max_by(|one, other| one.read.median.total_cmp(&other.read.median)).unwrap_or(usual)
}

/// Bytes per second of one turn.
fn turn(queue: &mut Queue, start: u64, end: u64, slots: &mut Vec<Buffer>) -> std::io::Result<f64> {
    let started = Instant::now();
    let (mut offset, mut landed) = (start, Vec::new());
    loop {
        let late = started.elapsed() >= TURN_TIME;
        while let Some(buffer) = slots.pop_if(|_| offset < end && !late && queue.has_room()) {
            let length = (end - offset).min(SLOT as u64) as usize;
            queue.add(Reading { tag: offset, source: 0, offset, length, buffer });
            offset += length as u64;
        }
        if queue.under_way() == 0 {
            return Ok((offset - start) as f64 / started.elapsed().as_secs_f64());
        }
        queue.step(&mut landed).map_err(std::io::Error::other)?;
        for landed in landed.drain(..) {
            landed.outcome.map_err(std::io::Error::other)?;
            slots.push(landed.buffer);
        }
    }
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
        let block: Vec<u8> = (0..SLOT as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for _ in 0..FILE / SLOT as u64 {
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
    use crate::Spread;

    #[test]
    fn another_way_has_to_be_clearly_better() {
        let chosen = |medians: [f64; 4]| {
            let spread = |median| Spread { best: 2.0 * median, median, worst: 0.5 * median, runs: 5 };
            choose([0, 1, 2, 3].map(|i| DriveRates { read: spread(medians[i]), reads: TRIED[i] })).reads
        };
        assert_eq!(chosen([3e9, 3.1e9, 2.9e9, 1e9]), Reads::USUAL);
        assert_eq!(chosen([3e9, 2e9, 3.3e9, 4e9]), reads(32, 512));
        assert_eq!(chosen([1e9, 1.2e9, 1.3e9, 1e9]), reads(4, 1024));
    }

    #[test]
    fn a_file_is_read_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        fs::write(&path, vec![7; 5 * SLOT + 100]).expect("a file");
        let rates = measure(&path).expect("rates");
        assert!(rates.is_sane() && rates.read.runs == RUNS as u32 && TRIED.contains(&rates.reads), "{rates:?}");
        let error = measure(&folder.path().join("absent")).expect_err("no file");
        assert!(error.to_string().contains("absent"), "{error}");
        fs::write(&path, "").expect("a file");
        assert!(measure(&path).expect_err("nothing to read").to_string().contains("empty"));
    }
}
