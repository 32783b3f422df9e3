//! Malformed files end in one typed error each: never a panic, nor memory for a claim that no byte backs.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gguf::GgufError;
use gguf::testing::{bad_sets, dense, malformed, mixture};
use proptest::prelude::*;

/// Writes a file. One that is there is written over, not cut to nothing first: file systems flush those, slowly.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    let mut file = File::options().write(true).create(true).truncate(false).open(&path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    path
}

/// The peak of this process's memory in KiB since it was last reset, where the system tells.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn reset_peak() {
    // Only a figure that is printed depends on it.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Opens and expects an error; returns it with the time it took.
fn refusal(path: &Path, name: &str) -> (GgufError, Duration) {
    let start = Instant::now();
    match gguf::open(path) {
        Ok(_) => panic!("{name}: opened"),
        Err(error) => (error, start.elapsed()),
    }
}

#[test]
fn every_malformed_file_has_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let cases = malformed();
    assert!(cases.len() >= 150, "{} cases", cases.len());
    let names: HashSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");

    let mut slowest = (Duration::ZERO, "");
    let mut largest = (0, "");
    let mut wrong = Vec::new();
    for case in &cases {
        let path = write(folder.path(), "case.gguf", &case.bytes);
        reset_peak();
        let before = peak_kib();
        let (error, time) = refusal(&path, case.name);
        let grown = peak_kib().zip(before).map_or(0, |(after, before)| after.saturating_sub(before));
        slowest = slowest.max((time, case.name));
        largest = largest.max((grown, case.name));
        let text = error.to_string();
        let named = text.starts_with(path.to_str().unwrap());
        if error.name() != case.error || !text.contains(case.says) || !text.contains("\n\nhint: ") || !named {
            wrong.push(format!(
                "{}: expected {} with {:?}, got {}: {text}",
                case.name,
                case.error,
                case.says,
                error.name()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    println!(
        "{} cases; slowest {:?} ({}); most memory {} KiB ({})",
        cases.len(),
        slowest.0,
        slowest.1,
        largest.0,
        largest.1
    );
}

#[test]
fn every_bad_set_has_its_error() {
    for set in bad_sets() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &set.files {
            write(folder.path(), name, bytes);
        }
        let (error, _) = refusal(&folder.path().join(&set.open), set.name);
        let text = error.to_string();
        assert_eq!(error.name(), set.error, "{}: {text}", set.name);
        assert!(text.contains(set.says), "{}: {text}", set.name);
        assert!(text.contains("\n\nhint: "), "{}: {text}", set.name);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, draft) in [("dense", dense()), ("mixture", mixture())] {
        let (header, bytes) = (draft.header().len(), draft.bytes());
        let path = write(folder.path(), name, &bytes);
        gguf::open(&path).unwrap();
        // Each byte of the header, and a sample of the data with both its ends; from the end, so as to cut one file.
        let data = (header..bytes.len()).step_by(97).chain([bytes.len() - 1]);
        let mut cuts: Vec<usize> = (0..header).chain(data).collect();
        cuts.sort_unstable();
        let file = File::options().write(true).open(&path).unwrap();
        for cut in cuts.into_iter().rev() {
            file.set_len(cut as u64).unwrap();
            let (error, _) = refusal(&path, name);
            let expected = if cut < header { "HeaderCut" } else { "DataCut" };
            assert_eq!(error.name(), expected, "{name} cut at {cut} of {header}: {error}");
        }
    }
}

#[test]
fn paths_that_are_no_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(refusal(folder.path(), "a folder").0.name(), "NotAFile");
    assert_eq!(refusal(&folder.path().join("nothing.gguf"), "nothing").0.name(), "Io");
    if cfg!(target_os = "linux") {
        assert_eq!(refusal(Path::new("/dev/zero"), "a device").0.name(), "NotAFile");
    }
}

proptest! {
    // `PROPTEST_CASES` runs more of them.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes changed anywhere in the header: an error or a model, never a panic.
    #[test]
    fn changed_bytes_never_panic(
        experts in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let draft = if experts { mixture() } else { dense() };
        let (mut bytes, header) = (draft.bytes(), draft.header().len());
        for (place, value) in changes {
            bytes[place.index(header)] = value;
        }
        let path = write(Path::new(env!("CARGO_TARGET_TMPDIR")), "bytes.gguf", &bytes);
        if let Ok(model) = gguf::open(&path) {
            let ends = model.inventory.units.iter().map(|unit| unit.offset + unit.bytes.0);
            prop_assert!(ends.max().unwrap_or(0) <= bytes.len() as u64);
        }
    }

    /// Numbers of all sizes over any eight bytes: lengths, counts, dimensions and offsets among them.
    #[test]
    fn changed_numbers_never_panic(
        place in any::<prop::sample::Index>(),
        bits in 0u32..64,
        less in 0u64..3,
    ) {
        let draft = mixture();
        let (mut bytes, header) = (draft.bytes(), draft.header().len());
        let start = place.index(header - 8);
        bytes[start..start + 8].copy_from_slice(&(1u64 << bits).wrapping_sub(less).to_le_bytes());
        let path = write(Path::new(env!("CARGO_TARGET_TMPDIR")), "numbers.gguf", &bytes);
        if let Ok(model) = gguf::open(&path) {
            let ends = model.inventory.units.iter().map(|unit| unit.offset + unit.bytes.0);
            prop_assert!(ends.max().unwrap_or(0) <= bytes.len() as u64);
        }
    }
}
