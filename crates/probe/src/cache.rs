//! Measured rates, kept between runs: one small JSON file per machine.
//!
//! Owns the fingerprint and the file. A file that is missing, foreign or damaged means "not measured", never an error.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use plan::Calibration;
use plan::processor::Processor;
use serde::{Deserialize, Serialize};

use crate::look::Seen;
use crate::{CardRates, ProbeError, Spread};

/// Raised when a rate changes its meaning, or the kernels behind it their speed.
const VERSION: u32 = 4;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    version: u32,
    /// In clear, so that a person can see which machine it was.
    machine: String,
    /// Bytes per second of weights read from RAM in decode.
    pub(crate) ram_read: Spread,
    /// Operations per second in prefill.
    pub(crate) cpu_ops: Spread,
    /// What each of the processor's kernels does.
    pub(crate) processor: Processor,
    /// Bytes per second read from each drive.
    pub(crate) drives: BTreeMap<String, Spread>,
    /// How many times longer work took in recorded runs than these rates say.
    #[serde(default)]
    pub(crate) calibration: Calibration,
    /// What was measured of GPUs, by their identity.
    #[serde(default)]
    pub(crate) cards: BTreeMap<String, CardRates>,
}

impl Rates {
    pub(crate) fn new(seen: &Seen, ram_read: Spread, cpu_ops: Spread, processor: Processor) -> Self {
        Self {
            version: VERSION,
            machine: describe(seen),
            ram_read,
            cpu_ops,
            processor,
            drives: BTreeMap::new(),
            calibration: Calibration::NONE,
            cards: BTreeMap::new(),
        }
    }

    /// The rates of this machine, if they were measured.
    pub(crate) fn load(folder: &Path, seen: &Seen) -> Option<Self> {
        let text = fs::read_to_string(path(folder, seen)).ok()?;
        let rates: Self = serde_json::from_str(&text).ok()?;
        let spreads = [&rates.ram_read, &rates.cpu_ops].into_iter().chain(rates.drives.values());
        let sane = spreads.into_iter().all(|s| s.median.is_finite() && s.median > 0.0)
            && rates.processor.is_sane()
            && rates.cards.values().all(CardRates::is_sane);
        (rates.version == VERSION && rates.machine == describe(seen) && sane).then_some(rates)
    }

    /// Writes the file whole or not at all.
    pub(crate) fn save(&self, folder: &Path, seen: &Seen) -> Result<PathBuf, ProbeError> {
        let path = path(folder, seen);
        let fail = |source| ProbeError::Cache { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(fail)?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let text = serde_json::to_string_pretty(self).map_err(|error| fail(error.into()))?;
        let written = fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(source) = written {
            // The first failure is the one to report; a leftover temporary file harms nobody.
            let _ = fs::remove_file(&temporary);
            return Err(fail(source));
        }
        Ok(path)
    }
}

/// What tells machines apart: another processor, core count or memory size makes rates stale, and so does a build whose
/// kernels check every overflow, or whose kernels are others.
pub(crate) fn describe(seen: &Seen) -> String {
    let build = if cfg!(debug_assertions) { ", debug build" } else { "" };
    let gpus = if seen.gpus.is_empty() { String::new() } else { format!(", {}", seen.gpus) };
    let (memory, kernels) = (seen.ram_installed.0 >> 20, env!("PLIMSOLL_KERNELS"));
    format!("{}, {} cores, {memory} MiB{gpus}, kernels {kernels}{build}", seen.cpu, seen.cores)
}

pub(crate) fn path(folder: &Path, seen: &Seen) -> PathBuf {
    folder.join(format!("machine-{:016x}.json", fnv1a(describe(seen).as_bytes())))
}

/// FNV-1a, 64 bits: short, fixed for all time, and collisions only cost a comparison of the clear text.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Bytes;
    use plan::processor::AttentionRates;

    fn seen(cpu: &str) -> Seen {
        Seen {
            cpu: cpu.into(),
            cores: 2,
            ram_installed: Bytes::GIB,
            ram_total: Bytes::GIB,
            ram_available: Bytes::GIB,
            gpus: String::new(),
        }
    }

    fn processor() -> Processor {
        let attention = AttentionRates { operations_per_s: 1e11, ..AttentionRates::default() };
        Processor { reads: vec![(2, 4e10)], attention, ..Processor::default() }
    }

    fn spread(best: f64) -> Spread {
        Spread { best, median: best * 0.9, worst: best * 0.8, runs: 3 }
    }

    #[test]
    fn rates_are_found_again_on_the_same_machine_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rates = Rates::new(&seen("A"), spread(4e10), spread(1e11), processor());
        rates.drives.insert("259:3".into(), spread(3e9));
        let path = rates.save(folder.path(), &seen("A")).expect("saved");
        assert_eq!(Rates::load(folder.path(), &seen("A")), Some(rates));
        assert_eq!(Rates::load(folder.path(), &seen("B")), None);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no temporary file stays");

        fs::write(&path, "{\"version\":1").expect("a file");
        assert_eq!(Rates::load(folder.path(), &seen("A")), None, "a damaged file is no file");
    }

    #[test]
    fn impossible_rates_are_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        Rates::new(&seen("A"), spread(0.0), spread(1e11), processor()).save(folder.path(), &seen("A")).expect("saved");
        assert_eq!(Rates::load(folder.path(), &seen("A")), None);
        let card = CardRates {
            name: "a card".into(),
            read: spread(3e11),
            link: spread(2e10),
            link_back: spread(2e10),
            link_pageable: spread(7e9),
            operations: spread(5e13),
            crossing_s: 8e-6,
            launch_s: 3e-6,
            context: Bytes(400 << 20),
        };
        for (crossing_s, believed) in [(8e-6, true), (0.0, false)] {
            let mut rates = Rates::new(&seen("A"), spread(4e10), spread(1e11), processor());
            rates.cards.insert("00ff".into(), CardRates { crossing_s, ..card.clone() });
            rates.save(folder.path(), &seen("A")).expect("saved");
            assert_eq!(Rates::load(folder.path(), &seen("A")), believed.then_some(rates));
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        let error = Rates::new(&seen("A"), spread(1.0), spread(1.0), processor())
            .save(&file, &seen("A"))
            .expect_err("no folder");
        assert!(error.to_string().contains("machine-"), "{error}");
    }
}
