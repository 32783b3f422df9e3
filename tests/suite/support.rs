//! Where fixtures and models are, and a model opened under a profile as the binary would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use engine::{Engine, Isa};
use kernels::memory::{ByteSource, FileSource};
use plan::{Bytes, BytesPerSecond, Calibration, Gpu, Machine, Rate, Source};
use serde_json::Value;

/// A fixture of the repository.
pub(crate) fn own_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The folder of all fixtures, or a word that the test is skipped.
pub(crate) fn all_fixtures(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PLIMSOLL_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: {test}, since PLIMSOLL_FIXTURES is not set");
    }
    folder
}

/// A small real model, or a word that the test is skipped.
pub(crate) fn real_model(file: &str, test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PLIMSOLL_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/models"), PathBuf::from);
    let path = folder.join(file);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {test}, since {} is missing (scripts/get-model.sh)", path.display());
    None
}

pub(crate) const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
pub(crate) const GEMMA3: &str = "gemma-3-270m.Q4_K_M.gguf";

/// JSON from a file.
pub(crate) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A JSON array of numbers.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// A JSON array of token ids.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// A machine that no test depends on.
pub(crate) fn machine() -> Machine {
    let rate = |gb: f64| Rate { rate: BytesPerSecond(gb * 1e9), source: Source::Estimated };
    Machine {
        cpu: "test".into(),
        cores: 2,
        ram_total: Bytes(16 << 30),
        ram_available: Bytes(12 << 30),
        ram_read: rate(10.0),
        cpu_ops_per_second: 1e11,
        disk_read: rate(2.0),
        disk_reads: plan::Reads::USUAL,
        disk_beside: 1.0,
        gpus: Vec::new(),
        processor: None,
        calibration: Calibration::NONE,
    }
}

/// The test's machine with a card of no particular kind.
pub(crate) fn with_gpu() -> Machine {
    let rate = |gb: f64| Rate { rate: BytesPerSecond(gb * 1e9), source: Source::Estimated };
    let gpu = Gpu {
        name: "test".into(),
        memory_total: Bytes(12 << 30),
        memory_free: Bytes(12 << 30),
        capability: (8, 6),
        read: rate(200.0),
        link: rate(10.0),
        ops_per_second: 1e13,
        link_back: None,
        crossing_s: 0.0,
        launch_s: 0.0,
        kernels: plan::card::CardKernels::default(),
        context: Bytes::ZERO,
    };
    Machine { gpus: vec![gpu], ..machine() }
}

/// A profile by which a GPU gets all that it can be given.
pub(crate) fn profile(kv_type: &str, micro_batch: usize) -> String {
    format!(
        "version: 1\ntiers:\n  gpu:0: {{ memory: 6GiB }}\n  ram: {{ memory: 8GiB, threads: 2 }}\n\
         context: {{ tokens: 256, kv_type: {kv_type}, kv_home: gpu:0 }}\nprefill: {{ micro_batch: {micro_batch} }}\n"
    )
}

/// A model's plan for such a machine.
pub(crate) fn planned(model: &gguf::Model, profile: &str) -> plan::Plan {
    let profile = plan::profile::parse(profile, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
    plan::plan(&profile, &model.inventory, &with_gpu()).unwrap_or_else(|e| panic!("{e}"))
}

/// A model under a profile.
pub(crate) fn open(path: &Path, profile: &str) -> Engine {
    let model = gguf::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let profile = plan::profile::parse(profile, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
    let plan = plan::plan(&profile, &model.inventory, &machine()).unwrap_or_else(|e| panic!("{e}"));
    open_plan(&model, plan)
}

/// A model under a plan.
pub(crate) fn open_plan(model: &gguf::Model, plan: plan::Plan) -> Engine {
    let files = model.inventory.files.iter();
    let sources =
        files.map(|file| -> Arc<dyn ByteSource> { Arc::new(FileSource::open(Path::new(&file.path)).unwrap()) });
    Engine::open(model, plan, Isa::best(), sources.collect(), &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

/// Everything in RAM, a cache in f32.
pub(crate) const ALL_IN_RAM: &str = "version: 1\ntiers:\n  ram: { memory: 8GiB, threads: 2 }\n\
                              context: { tokens: 256, kv_type: f32 }\nprefill: { micro_batch: 64 }\n";

/// The binary under test, with variables of the environment.
pub(crate) fn plimsoll_with(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.envs(variables.iter().copied()).args(arguments).output().expect("the binary starts")
}

/// The binary under test.
pub(crate) fn plimsoll(arguments: &[&str]) -> Output {
    plimsoll_with(&[], arguments)
}
