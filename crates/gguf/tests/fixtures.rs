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
        // Writers pad behind the last tensor up to the alignment, and add nothing else.
        let end = inventory.tensors.iter().map(|tensor| tensor.offset + tensor.bytes.0).max().unwrap_or(length.0);
        assert!((end..end + 32).contains(&length.0), "{}: data end at {end} of {length:?}", path.display());
        let shape = &inventory.shape;
        if !inventory.tensors.is_empty() {
            assert_eq!(shape.kv_per_token.len(), shape.layers as usize, "{}", path.display());
            // DeepSeek-V3.2 chooses the positions that it attends to, with a key of its own.
            let indexed = shape.architecture == "deepseek32";
            assert_eq!(shape.indexer_per_token.len(), if indexed { shape.layers as usize } else { 0 });
            assert!(shape.heads > 0 && shape.vocabulary > 0 && shape.context_train > 0, "{}", path.display());
            let experts = inventory.units.iter().filter_map(|unit| unit.expert).max();
            assert_eq!(experts.map_or(0, |last| last + 1), shape.experts, "{}", path.display());
        }
    }
}
