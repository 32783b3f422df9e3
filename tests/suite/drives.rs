//! A model in two files on two drives: the tokens of one file, and both drives at work.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use engine::{Engine, Isa, Stats};
use kernels::memory::{ByteSource, FileSource, ReadError};
use plan::{Bytes, Reads, Staging, Tier};

use crate::support::{ALL_IN_RAM, machine, own_fixture};

/// Dense, and a mixture of which only chosen experts are read.
const MODELS: [&str; 2] = ["qwen3-kq/model-q4_k_m.gguf", "gpt_oss/model-mxfp4.gguf"];
const PROMPT: [u32; 5] = [509, 3, 17, 250, 99];

/// A file that says it lies on another drive than it does.
struct On(FileSource, u64);

impl ByteSource for On {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn direct(&self) -> Option<&File> {
        self.0.direct()
    }

    fn drive(&self) -> u64 {
        self.1
    }

    fn verify(&self) -> Result<(), ReadError> {
        self.0.verify()
    }
}

/// The bits of logits, and what the run did. With two sources every other tensor is the second one's: the files are copies of each other, so that all
/// tensors lie at their places in both. Of three units two are on disk.
fn run(path: &Path, sources: Vec<Arc<dyn ByteSource>>) -> (Vec<u32>, Stats) {
    run_by(path, sources, Reads::USUAL)
}

/// The same, read in that way.
fn run_by(path: &Path, sources: Vec<Arc<dyn ByteSource>>, reads: Reads) -> (Vec<u32>, Stats) {
    let mut model = gguf::open(path).unwrap();
    let inventory = &mut model.inventory;
    while inventory.files.len() < sources.len() {
        inventory.files.push(inventory.files[0].clone());
    }
    let files = sources.len() as u32;
    inventory.tensors.iter_mut().zip(0..).for_each(|(tensor, number)| tensor.file = number % files);
    let profile = plan::profile::parse(ALL_IN_RAM, "test.yaml").unwrap();
    let mut plan = plan::plan(&profile, inventory, &machine()).unwrap();
    for (index, placement) in plan.placements.iter_mut().enumerate() {
        placement.home = if index % 3 == 0 { Tier::Ram } else { Tier::Disk };
    }
    let longest = inventory.tensors.iter().map(plan::Tensor::row_bytes).max().unwrap();
    plan.staging = Staging { slot: longest.max(Bytes(1 << 16)), slots: 5 };
    plan.disk_reads = reads;
    let mut engine = Engine::open(&model, plan, Isa::best(), sources, &mut |_, _| {}).unwrap();
    let mut session = engine.session().unwrap();
    let mut bits: Vec<u32> = engine.prefill(&mut session, &PROMPT).unwrap().iter().map(|x| x.to_bits()).collect();
    for token in 0..6 {
        bits.extend(engine.decode(&mut session, 11 * token + 5).unwrap().iter().map(|x| x.to_bits()));
    }
    (bits, engine.stats(Bytes::ZERO))
}

fn file(path: &Path) -> FileSource {
    FileSource::open(path).unwrap()
}

#[test]
fn parts_on_two_drives_give_the_same_tokens_and_both_are_read() {
    for model in MODELS {
        let path = own_fixture(model);
        let (right, one) = run(&path, vec![Arc::new(file(&path))]);
        assert_eq!(one.disk.drives.len(), 1, "{:?}", one.disk);

        // Two folders of one drive are one queue, unless they are said to be two drives.
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [first, second] = [&here, &there].map(|folder| folder.path().join("part.gguf"));
        for part in [&first, &second] {
            fs::copy(&path, part).unwrap();
        }
        let (bits, stats) = run(&path, vec![Arc::new(file(&first)), Arc::new(file(&second))]);
        assert!(bits == right && stats.disk.drives.len() == 1, "{:?}", stats.disk);
        check(&right, &run(&path, vec![Arc::new(On(file(&first), 1)), Arc::new(On(file(&second), 2))]));

        // Another file system, where this machine has one that is memory: it may be read through the page cache only.
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else { continue };
        let second = memory.path().join("part.gguf");
        fs::copy(&path, &second).unwrap();
        if file(&first).drive() != file(&second).drive() {
            check(&right, &run(&path, vec![Arc::new(file(&first)), Arc::new(file(&second))]));
        }
    }
}

#[test]
fn as_many_reads_are_under_way_as_the_plan_says_and_tokens_are_the_same() {
    let path = own_fixture(MODELS[0]);
    let (right, _) = run(&path, vec![Arc::new(file(&path))]);
    for (at_once, kib) in [(1, 4), (3, 64), (40, 4), (2, 1024)] {
        let reads = Reads { at_once, bytes: Bytes(kib << 10) };
        let (bits, stats) = run_by(&path, vec![Arc::new(file(&path))], reads);
        let deepest = stats.disk.reads_at_once;
        assert!(bits == right && (1..=u64::from(at_once)).contains(&deepest), "{deepest} of {reads:?}");
    }
}

fn check(right: &[u32], (bits, stats): &(Vec<u32>, Stats)) {
    assert!(bits == right, "other bits: {:?}", stats.disk);
    let drives = &stats.disk.drives;
    assert_eq!(drives.len(), 2, "{drives:?}");
    assert!(
        drives.iter().all(|drive| drive.bytes > 0 && drive.reads_at_once > 0 && drive.files.len() == 1),
        "{drives:?}"
    );
}
