//! What runs took on this machine beside what was forecast, kept between runs, and the corrections made of them.
//!
//! Owns the file beside the rates: a line of JSON for each phase of a run, the newest last. It is of the machine and the kernels of the
//! rates; runs that were forecast by others say nothing about these.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use plan::{Calibration, Observation};

use crate::ProbeError;
use crate::cache::{Rates, path, text};
use crate::look::Seen;

/// Observations that are kept, the newest; the file is shortened when it holds twice as many.
const KEPT: usize = 200;

/// Keeps what a run took. Without measured rates nothing is kept: there is nothing to correct.
///
/// # Errors
/// [`ProbeError::Cache`] where the file cannot be written.
pub fn record(cache: &Path, observations: &[Observation]) -> Result<(), ProbeError> {
    let seen = Seen::look();
    if Rates::load(cache, &seen).is_none() || observations.is_empty() {
        return Ok(());
    }
    let file = file(cache, &seen);
    let fail = |source| ProbeError::Cache { path: file.clone(), source };
    let mut lines = String::new();
    for observation in observations {
        lines.push_str(&serde_json::to_string(observation).map_err(|error| fail(error.into()))?);
        lines.push('\n');
    }
    // Looked at before it is opened: opening a pipe would wait for a reader. Damaged lines are passed over by those who read them.
    text(&file).map_err(fail)?;
    let mut opened = OpenOptions::new().create(true).append(true).open(&file).map_err(fail)?;
    // One write, so that lines of two runs do not mix.
    opened.write_all(lines.as_bytes()).map_err(fail)?;
    let all = fs::read_to_string(&file).map_err(fail)?;
    let lines: Vec<&str> = all.lines().collect();
    if lines.len() > 2 * KEPT {
        let newest = lines[lines.len() - KEPT..].join("\n") + "\n";
        fs::write(&file, newest).map_err(fail)?;
    }
    Ok(())
}

/// What was kept of runs on this machine, the oldest first. Lines that cannot be read, or tell of what no run takes, are left out.
///
/// # Errors
/// [`ProbeError::Cache`] where the file is there and cannot be read.
pub fn runs(cache: &Path) -> Result<Vec<Observation>, ProbeError> {
    let file = file(cache, &Seen::look());
    let text = text(&file).map_err(|source| ProbeError::Cache { path: file, source })?.unwrap_or_default();
    let readable = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let runs: Vec<Observation> = readable.filter(Observation::is_sane).collect();
    Ok(runs[runs.len().saturating_sub(KEPT)..].to_vec())
}

/// Has forecasts on this machine corrected so. Returns the file of the rates, or nothing where rates were never measured.
///
/// # Errors
/// [`ProbeError::Cache`] where it cannot be written, [`ProbeError::Damaged`] where it cannot be read.
pub fn calibrate(cache: &Path, calibration: Calibration) -> Result<Option<PathBuf>, ProbeError> {
    let seen = Seen::look();
    let Some(mut rates) = Rates::read(cache, &seen)? else { return Ok(None) };
    rates.calibration = calibration;
    rates.save(cache, &seen).map(Some)
}

/// Forgets runs: rates were measured anew, and what was forecast by the old ones says nothing about them.
pub(crate) fn forget(cache: &Path, seen: &Seen) {
    // A file that was not there is gone too.
    let _ = fs::remove_file(file(cache, seen));
}

fn file(cache: &Path, seen: &Seen) -> PathBuf {
    path(cache, seen).with_extension("runs.jsonl")
}

#[cfg(test)]
mod tests {
    use plan::processor::{AttentionRates, Processor};
    use plan::{Parts, Phase};

    use super::*;
    use crate::Spread;

    fn observation(tokens: u64) -> Observation {
        let parts = Parts { seconds: 1.0, cpu_s: 1.0, ..Parts::default() };
        Observation { model: "m\n".into(), phase: Phase::Decode, tokens, forecast: parts, measured: parts }
    }

    #[test]
    fn runs_are_kept_beside_rates_and_correct_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = folder.path();
        record(cache, &[observation(1)]).expect("nothing to do");
        let runs = |cache| runs(cache).expect("readable");
        assert_eq!((runs(cache), calibrate(cache, Calibration::NONE).expect("nothing")), (Vec::new(), None));
        let spread = Spread { best: 1.0, median: 1.0, worst: 1.0, runs: 1 };
        let attention = AttentionRates { operations_per_s: 1.0, ..AttentionRates::default() };
        let processor = Processor { reads: vec![(1, 1.0)], attention, ..Processor::default() };
        let seen = Seen::look();
        Rates::new(&seen, spread, spread, processor).save(cache, &seen).expect("saved");
        record(cache, &[observation(1), observation(2)]).expect("kept");
        for tokens in 3..=2 * KEPT as u64 + 1 {
            record(cache, &[observation(tokens)]).expect("kept");
        }
        let kept = runs(cache);
        assert_eq!((kept.len(), kept[KEPT - 1].tokens), (KEPT, 2 * KEPT as u64 + 1));

        // What is no line of ours, or tells of impossible times, is passed over.
        let wrong = Observation { measured: Parts { seconds: -1.0, ..Parts::default() }, ..observation(7) };
        let more = format!("{{\n{}\n", serde_json::to_string(&wrong).expect("JSON"));
        let mut opened = OpenOptions::new().append(true).open(file(cache, &seen)).expect("a file");
        opened.write_all(more.as_bytes()).expect("written");
        assert_eq!(runs(cache), kept);

        let calibration = Calibration { decode: 1.5, ..Calibration::NONE };
        assert!(calibrate(cache, calibration).expect("saved").is_some());
        assert_eq!(crate::machine(Path::new("/"), Some(cache)).calibration, calibration);
        forget(cache, &seen);
        assert_eq!(runs(cache), Vec::new());
        fs::write(file(cache, &seen), [0xff]).expect("a file");
        assert!(super::runs(cache).is_err() && record(cache, &[observation(1)]).is_err(), "no text");
    }
}
