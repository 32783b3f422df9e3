//! A drive that fails, stutters or loses its file in the middle of a run: right tokens or an error, never other tokens.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use engine::{Engine, EngineError, Isa};
use kernels::memory::{ByteSource, Fault, FaultySource, FileSource, ReadError};
use plan::{Bytes, Staging, Tier};

use crate::support::{ALL_IN_RAM, machine, own_fixture};

/// Dense, and a mixture of which only chosen experts are read.
const MODELS: [&str; 2] = ["qwen3-kq/model-q4_k_m.gguf", "gpt_oss/model-mxfp4.gguf"];
const PROMPT: [u32; 5] = [509, 3, 17, 250, 99];

/// A model of which every third unit is loaded and the others stay on disk.
fn open(path: &Path, source: Arc<dyn ByteSource>) -> Result<Engine, EngineError> {
    let model = gguf::open(path).unwrap();
    let profile = plan::profile::parse(ALL_IN_RAM, "test.yaml").unwrap();
    let mut plan = plan::plan(&profile, &model.inventory, &machine()).unwrap();
    for (index, placement) in plan.placements.iter_mut().enumerate() {
        placement.home = if index % 3 == 0 { Tier::Ram } else { Tier::Disk };
    }
    let longest = model.inventory.tensors.iter().map(plan::Tensor::row_bytes).max().unwrap();
    plan.staging = Staging { slot: longest.max(Bytes(1 << 16)), slots: 3 };
    Engine::open(&model, plan, Isa::best(), vec![source], &mut |_, _| {})
}

/// The bits of the logits after a prompt and each of `count` tokens.
fn run(engine: &mut Engine, count: u32) -> Result<Vec<u32>, EngineError> {
    let mut session = engine.session()?;
    let mut bits: Vec<u32> = engine.prefill(&mut session, &PROMPT)?.iter().map(|x| x.to_bits()).collect();
    for token in 0..count {
        bits.extend(engine.decode(&mut session, 11 * token + 5)?.iter().map(|x| x.to_bits()));
    }
    Ok(bits)
}

fn right(path: &Path, count: u32) -> Vec<u32> {
    run(&mut open(path, Arc::new(FileSource::open(path).unwrap())).unwrap(), count).unwrap()
}

/// A file whose reads fail from one of them on, three times or for ever.
struct Failing {
    file: FileSource,
    reads: AtomicI64,
    from: i64,
    times: i64,
}

impl Failing {
    fn new(path: &Path, from: i64, times: i64) -> Self {
        Self { file: FileSource::open(path).unwrap(), reads: AtomicI64::new(0), from, times }
    }

    fn fails(&self) -> bool {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        read >= self.from && read - self.from < self.times
    }
}

const EIO: i32 = 5;

impl ByteSource for Failing {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.fails() { Err(io::Error::from_raw_os_error(EIO)) } else { self.file.read_at(offset, buf) }
    }

    fn direct(&self) -> Option<&File> {
        self.file.direct()
    }

    fn outcome(&self, _: u64, outcome: io::Result<usize>) -> io::Result<usize> {
        if self.fails() { Err(io::Error::from_raw_os_error(EIO)) } else { outcome }
    }

    fn verify(&self) -> Result<(), ReadError> {
        self.file.verify()
    }
}

#[test]
fn whichever_read_fails_tokens_are_right_or_there_is_an_error() {
    for model in MODELS {
        let path = own_fixture(model);
        let count = 32;
        let expected = right(&path, count);
        let all = {
            let source = Arc::new(Failing::new(&path, i64::MAX, 0));
            let found = run(&mut open(&path, Arc::clone(&source) as Arc<dyn ByteSource>).unwrap(), count).unwrap();
            assert!(found == expected);
            source.reads.load(Ordering::Relaxed)
        };
        assert!(all > 500, "{all} reads");
        let (mut failed, mut survived) = (0, 0);
        // Each read of loading and of the first pass, and then now and then; all of them take three minutes.
        let often = if std::env::var_os("PLIMSOLL_THOROUGH").is_some() { 1 } else { all as usize / 40 };
        let reads = (0..40).chain((40..all).step_by(often));
        for (from, times) in reads.flat_map(|read| [(read, 3), (read, i64::MAX)]) {
            let source = Arc::new(Failing::new(&path, from, times));
            match open(&path, source).and_then(|mut engine| run(&mut engine, count)) {
                Ok(found) => {
                    assert!(found == expected, "{model}: other tokens after {times} failures from read {from}");
                    survived += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("hint: check the drive"), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed >= 70 && survived > 5, "{model}: {failed} runs failed, {survived} went on");
    }
}

#[test]
fn short_and_interrupted_reads_change_no_bit() {
    for model in MODELS {
        let path = own_fixture(model);
        let expected = right(&path, 8);
        for fault in [Fault::Short(1), Fault::Short(5000), Fault::Interrupted] {
            for open_file in [FileSource::open, FileSource::open_buffered] {
                let mut faults = [Fault::None; 10];
                faults[7] = fault;
                let source = Arc::new(FaultySource::scheduled(open_file(&path).unwrap(), &faults));
                let mut engine = open(&path, Arc::clone(&source) as Arc<dyn ByteSource>).unwrap();
                assert!(run(&mut engine, 8).unwrap() == expected, "{model} {fault:?}");
                assert!(source.reads() > 100);
            }
        }
    }
}

#[test]
fn a_file_cut_written_to_or_deleted_in_use_ends_in_an_error_or_right_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let other = folder.path().join("other.gguf");
    let change = |how: &str| {
        let file = || OpenOptions::new().write(true).open(&path).unwrap();
        match how {
            "cut" => file().set_len(9000).unwrap(),
            "written to" => file().write_all_at(&[0x55; 64], 200_000).unwrap(),
            "replaced" => std::fs::rename(&other, &path).unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
    };
    for (how, survives) in [("cut", false), ("written to", false), ("replaced", true), ("deleted", true)] {
        std::fs::copy(own_fixture(MODELS[0]), &path).unwrap();
        std::fs::write(&other, "another file").unwrap();
        let expected = right(&path, 4);
        let mut engine = open(&path, Arc::new(FileSource::open(&path).unwrap())).unwrap();
        assert!(run(&mut engine, 4).unwrap() == expected);
        // The clock of file systems ticks every few milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        change(how);
        let changed = Instant::now();
        // What was read ahead before the change is what was asked for, so more than one pass may be right.
        let mut outcome = Ok(());
        for _ in 0..3 {
            outcome = outcome.and_then(|()| run(&mut engine, 4)).map(|found| assert!(found == expected, "{how}"));
        }
        assert!(changed.elapsed() < Duration::from_secs(2));
        assert_eq!(outcome.is_ok(), survives, "{how}: {outcome:?}");
        if let Err(error) = outcome {
            assert!(error.to_string().contains("while in use"), "{error}");
        }
    }
}
