//! Measured rates, kept between runs: one small JSON file per machine.
//!
//! Owns the fingerprint and the file. A file that is missing or foreign means "not measured"; a damaged one does too, and is told.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use plan::processor::Processor;
use plan::{Bytes, Calibration};
use serde::{Deserialize, Serialize};

use crate::look::Seen;
use crate::{CardRates, DriveRates, ProbeError, Spread};

/// Raised when a rate changes its meaning, or the kernels behind it their speed.
const VERSION: u32 = 8;

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
    /// What was measured of each drive.
    pub(crate) drives: BTreeMap<String, DriveRates>,
    /// How many times longer work took in recorded runs than these rates say.
    #[serde(default)]
    pub(crate) calibration: Calibration,
    /// What was measured of GPUs, by their identity.
    #[serde(default)]
    pub(crate) cards: BTreeMap<String, CardRates>,
}

/// The one key that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What is read of a file here: a thousand times what one holds.
const TEXT_MAX: u64 = 64 << 20;

/// A file's text, where there is a file. A pipe or a device in its place would never end.
pub(crate) fn text(path: &Path) -> io::Result<Option<String>> {
    let length = match fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        found => found.and_then(|meta| {
            if meta.is_file() { Ok(meta.len()) } else { Err(io::Error::other("it is not a regular file")) }
        })?,
    };
    if length > TEXT_MAX {
        return Err(io::Error::other(format!("{} are too much", Bytes(length))));
    }
    fs::read_to_string(path).map(Some)
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
        Self::read(folder, seen).ok().flatten()
    }

    /// The same, with what is wrong with a file that is there and of no use.
    pub(crate) fn read(folder: &Path, seen: &Seen) -> Result<Option<Self>, ProbeError> {
        let path = path(folder, seen);
        let damaged = |why: String| ProbeError::Damaged { path: path.clone(), why };
        let Some(text) = text(&path).map_err(|error| damaged(error.to_string()))? else { return Ok(None) };
        let no_json = |error: serde_json::Error| damaged(format!("it holds no rates: {error}"));
        // A file of another version is none of ours, whatever it holds.
        let Versioned { version } = serde_json::from_str(&text).map_err(no_json)?;
        if version != VERSION {
            return Ok(None);
        }
        let rates: Self = serde_json::from_str(&text).map_err(no_json)?;
        match rates.impossible() {
            Some(what) => Err(damaged(format!("its {what} are none that a machine has"))),
            None => Ok((rates.machine == describe(seen)).then_some(rates)),
        }
    }

    /// Which figures no machine has.
    fn impossible(&self) -> Option<&'static str> {
        let rates = [&self.ram_read, &self.cpu_ops].into_iter().all(Spread::is_sane);
        let checks = [
            (rates && self.processor.is_sane(), "rates of RAM and processor"),
            (self.drives.values().all(DriveRates::is_sane), "rates of drives"),
            (self.cards.values().all(CardRates::is_sane), "rates of GPUs"),
            (self.calibration.is_sane(), "corrections"),
        ];
        checks.into_iter().find(|(sane, _)| !sane).map(|(_, what)| what)
    }

    /// Refuses a folder that rates cannot be kept in, before they are measured.
    pub(crate) fn check(folder: &Path, seen: &Seen) -> Result<(), ProbeError> {
        let path = temporary(&path(folder, seen));
        let tried =
            fs::create_dir_all(folder).and_then(|()| fs::File::create(&path)).and_then(|_| fs::remove_file(&path));
        tried.map_err(|source| ProbeError::Cache { path, source })
    }

    /// Writes the file whole or not at all.
    pub(crate) fn save(&self, folder: &Path, seen: &Seen) -> Result<PathBuf, ProbeError> {
        let path = path(folder, seen);
        let fail = |source| ProbeError::Cache { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(fail)?;
        let temporary = temporary(&path);
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

/// Where a file is written before it gets its name.
fn temporary(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.tmp", std::process::id()))
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
    use plan::Reads;
    use plan::card::CardKernels;
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
        rates.drives.insert("259:3".into(), DriveRates { read: spread(3e9), reads: Reads::USUAL, beside: 0.9 });
        let path = rates.save(folder.path(), &seen("A")).expect("saved");
        assert_eq!(Rates::load(folder.path(), &seen("A")), Some(rates));
        assert_eq!(Rates::load(folder.path(), &seen("B")), None);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no temporary file stays");

        fs::write(&path, "{\"version\":1").expect("a file");
        assert_eq!(Rates::load(folder.path(), &seen("A")), None, "a damaged file is no file");
    }

    #[test]
    fn damage_is_told_apart_from_what_was_never_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = || Rates::read(folder.path(), &seen("A"));
        assert!(matches!(read(), Ok(None)));
        let sound = Rates::new(&seen("A"), spread(4e10), spread(1e11), processor());
        let path = sound.save(folder.path(), &seen("A")).expect("saved");
        let whole = fs::read_to_string(&path).expect("a file");
        for (from, to, said) in [
            ("", "", ""),
            ("\"version\": 8", "\"version\": 7", ""),
            ("\"version\": 8", "\"version\": \"8\"", "it holds no rates: "),
            ("{", "{{", "it holds no rates: "),
            ("\"decode\": 1.0", "\"decode\": -1.0", "its corrections"),
            ("\"decode\": 1.0", "\"decode\": 1e9", "its corrections"),
            ("\"decode\": 1.0", "\"decoding\": 1.0", "it holds no rates: unknown field"),
            ("40000000000.0", "-40000000000.0", "its rates of RAM and processor"),
            ("36000000000.0", "1e300", "its rates of RAM and processor"),
            ("36000000000.0", "1e999", "it holds no rates: "),
            ("\"step_s\": 0.0", "\"step_s\": 1e99", "its rates of RAM and processor"),
            // No thread at all once ended in a panic.
            ("2,\n        40000000000.0", "0,\n        40000000000.0", "its rates of RAM and processor"),
        ] {
            assert!(whole.contains(from), "{from} in {whole}");
            fs::write(&path, whole.replacen(from, to, 1)).expect("a file");
            match (read(), said) {
                (Ok(found), "") => assert_eq!(found.is_some(), from == to, "{from} → {to}"),
                (Err(error), said) if !said.is_empty() => assert!(error.to_string().contains(said), "{to}: {error}"),
                (other, _) => panic!("{from} → {to}: {other:?}"),
            }
        }
        fs::write(&path, [0xff, 0xfe, 0x00]).expect("a file");
        assert!(read().is_err(), "no text");
        fs::remove_file(&path).expect("a file");
        fs::create_dir(&path).expect("a folder");
        let error = read().expect_err("a folder").to_string();
        assert!(
            error.contains("machine-") && error.contains("not a regular file") && error.contains("\n\nhint: "),
            "{error}"
        );
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
            kernels: CardKernels::default(),
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
        let rates = Rates::new(&seen("A"), spread(1.0), spread(1.0), processor());
        let error = rates.save(&file, &seen("A")).expect_err("no folder").to_string();
        assert!(error.contains("machine-") && error.contains("\n\nhint: set XDG_CACHE_HOME"), "{error}");
        // It is known before twenty seconds are spent on measuring, and a folder that will do is left as it was.
        assert!(Rates::check(&file, &seen("A")).is_err());
        let good = folder.path().join("cache");
        Rates::check(&good, &seen("A")).expect("writable");
        assert_eq!(fs::read_dir(&good).expect("a folder").count(), 0);
    }
}
