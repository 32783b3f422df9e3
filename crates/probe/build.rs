//! Tells the crate the fingerprint of the processor's kernels, by which measured rates know what they were measured with.

use std::path::{Path, PathBuf};
use std::{fs, io};

const KERNELS: &str = "../kernels/src/cpu";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={KERNELS}");
    println!("cargo::rustc-env=PLIMSOLL_KERNELS={:016x}", fingerprint(Path::new(KERNELS))?);
    Ok(())
}

/// FNV-1a, 64 bits, of all files in a folder, in the order of their names.
fn fingerprint(folder: &Path) -> io::Result<u64> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in paths {
        let bytes = if path.is_dir() { fingerprint(&path)?.to_le_bytes().to_vec() } else { fs::read(&path)? };
        hash = bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }
    Ok(hash)
}
