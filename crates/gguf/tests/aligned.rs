//! Prepared copies are the models that they are copies of.

use std::path::Path;

use gguf::testing::{Draft, Field, dense, mixture, split};
use gguf::{Model, aligned};

/// Writes what [`aligned`] says, with each tensor's bytes from the old file.
fn copy(from: &Path, to: &Path, alignment: u32) {
    let old = std::fs::read(from).unwrap();
    let new = aligned(from, alignment).unwrap();
    let mut bytes = new.header.clone();
    for tensor in &new.tensors {
        assert_eq!(bytes.len() as u64, tensor.to);
        bytes.extend(&old[tensor.from as usize..][..tensor.bytes as usize]);
        bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
    }
    assert_eq!(bytes.len() as u64, new.bytes);
    std::fs::write(to, bytes).unwrap();
}

/// The bytes of each tensor, by name.
fn tensors(model: &Model) -> Vec<(String, Vec<u64>, Vec<u8>)> {
    let files: Vec<_> = model.inventory.files.iter().map(|file| std::fs::read(&file.path).unwrap()).collect();
    let mut tensors: Vec<_> = model.inventory.tensors.iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let bytes = |tensor: &&plan::Tensor| {
        files[tensor.file as usize][tensor.offset as usize..][..tensor.bytes.0 as usize].to_vec()
    };
    tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dims.clone(), bytes(tensor))).collect()
}

fn metadata(model: &Model) -> Vec<(String, gguf::Value)> {
    let entries = model.metadata.iter().filter(|(key, _)| *key != "general.alignment");
    entries.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

fn check(draft: &Draft, alignment: u32) {
    let folder = tempfile::tempdir().unwrap();
    let [from, to, again] = ["old.gguf", "new.gguf", "again.gguf"].map(|name| folder.path().join(name));
    let mut bytes = draft.bytes();
    std::fs::write(&from, &bytes).unwrap();
    // Weights that tell where they are.
    let start = gguf::open(&from).unwrap().inventory.tensors.iter().map(|tensor| tensor.offset).min().unwrap();
    bytes[start as usize..].iter_mut().enumerate().for_each(|(i, byte)| *byte = ((i * 7) >> 3) as u8);
    std::fs::write(&from, bytes).unwrap();
    copy(&from, &to, alignment);
    let [old, new] = [&from, &to].map(|path| gguf::open(path).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(tensors(&old), tensors(&new));
    assert_eq!(metadata(&old), metadata(&new));
    assert!(new.inventory.tensors.iter().all(|tensor| tensor.offset % u64::from(alignment) == 0));
    // A copy of a copy is that copy.
    copy(&to, &again, alignment);
    assert!(std::fs::read(&to).unwrap() == std::fs::read(&again).unwrap());
}

#[test]
fn a_copy_holds_the_same_tensors_and_metadata() {
    for alignment in [32, 4096, 1 << 20] {
        for draft in [dense(), mixture()] {
            check(&draft, alignment);
            let mut own = draft.clone();
            own.set("general.alignment", Field::u32(64));
            own.alignment = 64;
            check(&own, alignment);
        }
    }
}

#[test]
fn tensors_come_in_the_order_of_their_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut draft = mixture();
    draft.tensors.reverse();
    std::fs::write(&path, draft.bytes()).unwrap();
    copy(&path, &folder.path().join("new.gguf"), 4096);
    let model = gguf::open(&folder.path().join("new.gguf")).unwrap();
    let names: Vec<&str> = model.inventory.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names.first(), Some(&"token_embd.weight"));
    let first_expert = names.iter().position(|name| name.contains("_exps")).unwrap();
    let last_other = names.iter().rposition(|name| name.starts_with("blk.0.") && !name.contains("_exps")).unwrap();
    assert!(last_other < first_expert, "{names:?}");
}

#[test]
fn parts_of_a_set_stay_parts() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
    for folder in [&old, &new] {
        std::fs::create_dir(folder).unwrap();
    }
    let mut first = None;
    for (name, draft) in split(&dense(), "tiny", 2) {
        std::fs::write(old.join(&name), draft.bytes()).unwrap();
        copy(&old.join(&name), &new.join(&name), 4096);
        first.get_or_insert(name);
    }
    let [old, new] = [old, new].map(|folder| gguf::open(&folder.join(first.as_ref().unwrap())).unwrap());
    assert_eq!((tensors(&old), metadata(&old)), (tensors(&new), metadata(&new)));
}
