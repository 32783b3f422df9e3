//! With the feature `cuda`: compiles each `cuda/*.cu` to a fatbin, and writes the list of them that `cuda::module` embeds.
//!
//! A fatbin holds machine code for `sm_80`, `sm_86` (cards of the same major number and a higher minor run it) and `sm_90`, and PTX, from which the
//! driver makes code for all newer ones: half a minute where a program first runs. All come from one pass of the compiler's front end, since nothing
//! here uses what newer cards have and `sm_80` lacks. Files are compiled side by side, as many as cargo allows.
//!
//! - `PLIMSOLL_NVCC`: the compiler, before all other places.
//! - `PLIMSOLL_CUDA_SM`: other machine codes than `80,86,90`; a newer card's, so that nothing is compiled when a program starts.
//!
//! Where clippy asks, the fatbins are empty and no compiler is needed: lints read what is written in Rust and nothing of it runs. Cargo keeps
//! what clippy makes apart from what is built.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

// The grids of the I-quants, which the kernels share with the CPU's code.
#[allow(dead_code)]
#[path = "src/tables/mod.rs"]
mod tables;

const HELP: &str = "the feature `cuda` needs nvcc (CUDA 12.8 or newer), and there is none\n\n\
    hint: scripts/cuda-toolkit.sh puts it into target/cuda (105 MB from the Python package index), or name one by PLIMSOLL_NVCC or CUDA_HOME";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for name in ["PLIMSOLL_NVCC", "PLIMSOLL_CUDA_SM", "CUDA_HOME", "NVCC_CCBIN"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // The whole folder, headers too: each file is compiled anew where any has changed.
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-changed=src/tables");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut sources: Vec<PathBuf> =
        fs::read_dir("cuda")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    sources.retain(|path| path.extension() == Some(OsStr::new("cu")));
    sources.sort();
    if is_for_lints() {
        sources.iter().try_for_each(|source| fs::write(fatbin_of(source, &out), []))?;
    } else {
        fs::write(out.join("grid_tables.cuh"), grid_tables()?)?;
        compile_all(&find_nvcc().ok_or(HELP)?, &sources, &out)?;
    }

    let mut list = String::from("[\n");
    for source in &sources {
        let fatbin = fatbin_of(source, &out).to_string_lossy().into_owned();
        writeln!(list, "    ({:?}, &Aligned(*include_bytes!({fatbin:?}))),", stem(source))?;
    }
    list.push_str("]\n");
    fs::write(out.join("modules.rs"), list)?;
    Ok(())
}

/// Whether clippy runs instead of the compiler: cargo says what it calls for the workspace's own crates.
fn is_for_lints() -> bool {
    let wrapper = env::var_os("RUSTC_WORKSPACE_WRAPPER").map(PathBuf::from);
    wrapper.is_some_and(|wrapper| wrapper.file_stem() == Some(OsStr::new("clippy-driver")))
}

/// The grids as arrays of words, in the forms that `cuda/blocks/grids.cuh` reads: a byte a magnitude, four a word; for `IQ1` a nibble a code,
/// the first four of eight in the lower halves of bytes.
fn grid_tables() -> Result<String, std::fmt::Error> {
    use tables::{IQ2_MAGNITUDES, IQ3_S_MAGNITUDES, IQ3_XXS_MAGNITUDES, grids};
    let fours = |entry: &u16, magnitudes: &[u8]| {
        (0..4).map(|i| u32::from(magnitudes[usize::from(entry >> (4 * i) & 7)]) << (8 * i)).sum::<u32>()
    };
    let eights = |entry: &u16| {
        let magnitude = |i: u16| u32::from(IQ2_MAGNITUDES[usize::from(entry >> (2 * i) & 3)]);
        [0, 4].map(|first| (0..4).map(|i| magnitude(first + i) << (8 * i)).sum::<u32>())
    };
    let nibbles =
        |entry: &u16| (0..8).map(|i| u32::from(entry >> (2 * i) & 3) << (8 * (i % 4) + 4 * (i / 4))).sum::<u32>();
    let all: [(&str, Vec<u32>); 6] = [
        ("IQ1", grids::IQ1.iter().map(nibbles).collect()),
        ("IQ2_XXS", grids::IQ2_XXS.iter().flat_map(eights).collect()),
        ("IQ2_XS", grids::IQ2_XS.iter().flat_map(eights).collect()),
        ("IQ2_S", grids::IQ2_S.iter().flat_map(eights).collect()),
        ("IQ3_XXS", grids::IQ3_XXS.iter().map(|entry| fours(entry, &IQ3_XXS_MAGNITUDES)).collect()),
        ("IQ3_S", grids::IQ3_S.iter().map(|entry| fours(entry, &IQ3_S_MAGNITUDES)).collect()),
    ];
    let mut text = String::from("#pragma once\n");
    for (name, words) in all {
        let words: Vec<String> = words.iter().map(|word| format!("{word:#x}u")).collect();
        writeln!(text, "static __device__ const unsigned int GRID_{name}[] = {{{}}};", words.join(","))?;
    }
    Ok(text)
}

/// The first compiler of: `PLIMSOLL_NVCC`, `CUDA_HOME`, `target/cuda` above this crate, the path, the usual folder.
fn find_nvcc() -> Option<PathBuf> {
    if let Some(named) = env::var_os("PLIMSOLL_NVCC") {
        return Some(named.into());
    }
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin"));
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cuda/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = home.into_iter().chain([ours]).chain(env::split_paths(&path)).chain(["/usr/local/cuda/bin".into()]);
    folders.map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())
}

/// Compiles the files by `NUM_JOBS` threads and reports the first that fails with all that the compiler said.
fn compile_all(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Result<(), Box<dyn Error>> {
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_usize);
    let waiting = Mutex::new(sources.iter());
    let failed = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let Some(source) = waiting.lock().ok().and_then(|mut all| all.next()) else { return };
                    if let (Err(error), Ok(mut first)) = (compile(nvcc, source, out), failed.lock()) {
                        first.get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner()? {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn compile(nvcc: &Path, source: &Path, out: &Path) -> Result<(), String> {
    let machine = env::var("PLIMSOLL_CUDA_SM").unwrap_or_else(|_| "80,86,90".into());
    let codes: Vec<String> = machine.split(',').map(|sm| format!("sm_{}", sm.trim())).collect();
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3", "-Werror", "all-warnings", "-Icuda"]);
    command.arg("-I").arg(out);
    command.arg(format!("-gencode=arch=compute_80,code=[compute_80,{}]", codes.join(",")));
    command.arg("-o").arg(fatbin_of(source, out)).arg(source);
    let output = command.output().map_err(|error| format!("{}: {error}\n\n{HELP}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("nvcc did not compile {}:\n{}", source.display(), String::from_utf8_lossy(&said)))
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn fatbin_of(source: &Path, out: &Path) -> PathBuf {
    out.join(stem(source)).with_extension("fatbin")
}
