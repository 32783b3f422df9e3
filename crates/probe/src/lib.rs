//! Sees what a machine has, and measures how fast it is with the code that will run.
//!
//! Owns the reading of `/proc` and `/sys`, the measurements and their cache. Must never decide anything: it hands a
//! [`Machine`] to `plan`.

mod busy;
mod cache;
#[cfg(feature = "cuda")]
mod cards;
mod cgroup;
mod doctor;
mod drive;
#[cfg(feature = "cuda")]
mod gpus;
mod look;
mod measure;
mod processor;
mod runs;

use std::path::{Path, PathBuf};

use plan::card::CardKernels;
use plan::{Bytes, BytesPerSecond, Calibration, Machine, Rate, Reads, Source};
use serde::{Deserialize, Serialize};

use cache::Rates;
use look::{Drive, Seen};

pub use doctor::{Check, Verdict, examine};
#[cfg(feature = "cuda")]
pub use gpus::driver_trouble;
pub use look::{Resident, gpu_names, resident};
pub use measure::{Measured, Options, kept, measure};
pub use runs::{calibrate, record, runs};

/// Repeated measurements of one rate, in bytes or operations per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The highest: what the machine can do when nothing disturbs it.
    pub best: f64,
    /// The middle one, on which forecasts rest: what the machine does on an ordinary day.
    pub median: f64,
    /// The lowest.
    pub worst: f64,
    /// How many there were.
    pub runs: u32,
}

impl Spread {
    /// Whether all are rates that a machine may have.
    pub(crate) fn is_sane(&self) -> bool {
        [self.best, self.median, self.worst].into_iter().all(plan::is_rate)
    }
}

/// What was measured of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriveRates {
    /// Bytes per second.
    #[serde(flatten)]
    pub read: Spread,
    /// The reads that gave them.
    #[serde(default)]
    pub reads: Reads,
    /// The share of it that is left while all cores compute with weights from RAM.
    pub beside: f64,
}

impl DriveRates {
    /// Whether they are such as a drive may have.
    pub(crate) fn is_sane(&self) -> bool {
        let Reads { at_once, bytes } = self.reads;
        self.read.is_sane()
            && (1..=1024).contains(&at_once)
            && (1..=4096).contains(&(bytes.0 >> 12))
            && (drive::SHARE_LEAST..=1.0).contains(&self.beside)
    }
}

/// What was measured of a GPU with the kernels that will run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardRates {
    /// The driver's name for it.
    pub name: String,
    /// Bytes per second of weights read from its memory in decode.
    pub read: Spread,
    /// Bytes per second from pinned RAM.
    pub link: Spread,
    /// Bytes per second to pinned RAM.
    pub link_back: Spread,
    /// Bytes per second from RAM that is not pinned.
    pub link_pageable: Spread,
    /// Operations per second in prefill.
    pub operations: Spread,
    /// Seconds until a few thousand numbers have crossed to the processor, or back.
    pub crossing_s: f64,
    /// Seconds of a launch among many.
    pub launch_s: f64,
    /// What its kernels take one by one.
    pub kernels: CardKernels,
    /// The driver's own part of its memory, with all kernels loaded.
    pub context: Bytes,
}

impl CardRates {
    /// Whether all that forecasts rest on are figures that a card may have.
    pub(crate) fn is_sane(&self) -> bool {
        let rates = [&self.read, &self.link, &self.link_back, &self.operations];
        let seconds = [self.crossing_s, self.launch_s];
        rates.into_iter().all(Spread::is_sane)
            && seconds.into_iter().all(|seconds| seconds > 0.0 && plan::is_time(seconds))
            && self.kernels.is_sane()
            && self.context > Bytes::ZERO
    }
}

/// Why a measurement could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The cache of rates could not be written.
    #[error("cannot keep measured rates or runs in {path}: {source}\n\nhint: set XDG_CACHE_HOME to a folder that can be written", path = path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The cache of rates cannot be used.
    #[error("the measured rates in {path} cannot be used: {why}\n\nhint: `plimsoll probe --force` measures anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The drive could not be measured.
    #[error("cannot measure the drive with {path}: {source}\n\nhint: give a model on that drive with -m", path = path.display())]
    Drive {
        /// The file that was read or written.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The system refused threads.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    /// The system refused memory.
    #[error("cannot measure RAM: {0}")]
    Memory(#[from] kernels::memory::AllocError),
}

/// This machine as seen now: nothing is measured, nothing is written.
///
/// `model_dir` is a folder (or file) on the drive that holds the model. `cache` is the folder where
/// measured rates are kept; rates that are not there are cautious estimates, marked [`Source::Estimated`].
/// `ram_total` and `ram_available` are in bytes and within the limits of this process's control groups (versions 1 and 2).
/// GPUs are listed in builds with the feature `cuda`; [`gpu_names`] names them in any.
#[must_use]
pub fn machine(model_dir: &Path, cache: Option<&Path>) -> Machine {
    let seen = Seen::look();
    let rates = cache.and_then(|folder| Rates::load(folder, &seen));
    assemble(&seen, Drive::of(model_dir), rates.as_ref())
}

/// What is wrong with the measured rates that are kept for this machine, where there are some and forecasts cannot rest on them:
/// [`machine`] estimates then.
#[must_use]
pub fn damage(cache: &Path) -> Option<ProbeError> {
    Rates::read(cache, &Seen::look()).err()
}

fn assemble(seen: &Seen, drive: Option<Drive>, rates: Option<&Rates>) -> Machine {
    let cores = f64::from(seen.cores);
    let disk_measured = drive.and_then(|drive| rates?.drives.get(&drive.key()));
    Machine {
        cpu: seen.cpu.clone(),
        cores: seen.cores,
        ram_total: seen.ram_total,
        ram_available: seen.ram_available,
        ram_read: rate(rates.map(|r| &r.ram_read), (cores * RAM_PER_CORE).min(RAM_MOST)),
        cpu_ops_per_second: rates.map_or(cores * OPS_PER_CORE, |r| r.cpu_ops.median),
        disk_read: rate(disk_measured.map(|rates| &rates.read), disk_estimate(drive)),
        disk_reads: disk_measured.map_or(Reads::USUAL, |rates| rates.reads),
        disk_beside: disk_measured.map_or(1.0, |rates| rates.beside),
        #[cfg(feature = "cuda")]
        gpus: gpus::gpus(rates),
        #[cfg(not(feature = "cuda"))]
        gpus: Vec::new(),
        processor: rates.map(|rates| rates.processor.clone()),
        calibration: rates.map_or(Calibration::NONE, |rates| rates.calibration),
    }
}

// Estimates are chosen so that ordinary desktops of the last ten years are faster: a forecast that is too slow
// disappoints nobody.

/// One core with AVX2 reads quantized weights at 5 GB/s or more.
const RAM_PER_CORE: f64 = 5e9;
/// Two channels of DDR4-2666 give about 30 GB/s in practice.
const RAM_MOST: f64 = 30e9;
/// One core with AVX2 does 20 GFLOP/s or more in quantized products.
const OPS_PER_CORE: f64 = 20e9;
/// A SATA drive; `NVMe` is three to ten times as fast.
const DISK: f64 = 0.5e9;
/// Platters in sequence.
const DISK_ROTATING: f64 = 0.1e9;

fn disk_estimate(drive: Option<Drive>) -> f64 {
    if drive.and_then(Drive::rotates) == Some(true) { DISK_ROTATING } else { DISK }
}

fn rate(measured: Option<&Spread>, estimate: f64) -> Rate {
    match measured {
        Some(spread) => Rate { rate: BytesPerSecond(spread.median), source: Source::Measured },
        None => Rate { rate: BytesPerSecond(estimate), source: Source::Estimated },
    }
}

#[cfg(test)]
mod tests {
    use plan::processor::Processor;

    use super::*;

    #[test]
    fn without_a_cache_every_rate_is_an_estimate_that_says_so() {
        let machine = machine(Path::new("/"), None);
        assert_eq!(machine.ram_read.source, Source::Estimated);
        assert_eq!(machine.disk_read.source, Source::Estimated);
        assert!(machine.cores >= 1 && machine.ram_available <= machine.ram_total, "{machine:?}");
        assert!(machine.disk_read.rate.0 > 0.0 && machine.cpu_ops_per_second > 0.0);
    }

    #[test]
    fn measured_rates_are_used_where_they_are_known() {
        let seen = Seen::look();
        let spread = |median| Spread { best: 2.0 * median, median, worst: median / 2.0, runs: 3 };
        let mut rates = Rates::new(&seen, spread(7e10), spread(5e11), Processor::default());
        let here = Drive::of(Path::new("/"));
        let before = assemble(&seen, here, Some(&rates));
        assert_eq!((before.ram_read.source, before.disk_read.source), (Source::Measured, Source::Estimated));
        // Not the best run: a forecast is for an ordinary day.
        assert_eq!((before.ram_read.rate, before.cpu_ops_per_second), (BytesPerSecond(7e10), 5e11));

        let reads = Reads { at_once: 4, bytes: Bytes(1 << 20) };
        rates.drives.insert(here.expect("a drive").key(), DriveRates { read: spread(6e9), reads, beside: 1.0 });
        let after = assemble(&seen, here, Some(&rates));
        assert_eq!(after.disk_read, Rate { rate: BytesPerSecond(6e9), source: Source::Measured });
        assert_eq!((before.disk_reads, after.disk_reads), (Reads::USUAL, reads));
    }
}
