//! Every fixture's GGUF opens, and its inventory adds up.

use std::path::{Path, PathBuf};

/// Every GGUF under this folder.
fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            models(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "gguf") {
            found.push(path);
        }
    }
}

#[test]
fn every_fixture_opens() {
    let Some(folder) = std::env::var_os("PLIMSOLL_FIXTURES") else {
        println!("skipped: PLIMSOLL_FIXTURES is not set");
        return;
    };
    let mut paths = Vec::new();
    models(Path::new(&folder), &mut paths);
    assert!(paths.len() >= 40, "{} fixtures only", paths.len());
    for path in paths {
        let model = gguf::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let inventory = &model.inventory;
        let length = inventory.files[0].bytes;
        let tensors: u64 = inventory.tensors.iter().map(|tensor| tensor.bytes.0).sum();
        assert_eq!(inventory.bytes().0, tensors, "{}: units cover every tensor once", path.display());
        let start = inventory.tensors.iter().map(|tensor| tensor.offset).min().unwrap_or(0);
        assert!(start + tensors <= length.0, "{}", path.display());
        println!("{} {:?}", path.display(), inventory.shape);
    }
}
