//! Split sets, sound and not.

use super::{Draft, Field, dense};

/// Splits a model into parts as llama.cpp's `llama-gguf-split` does: metadata in the first, tensors over all.
///
/// Returns names beginning with `stem`, and drafts.
///
/// # Panics
/// Where `parts` is 0.
#[must_use]
pub fn split(model: &Draft, stem: &str, parts: usize) -> Vec<(String, Draft)> {
    let share = model.tensors.len().div_ceil(parts);
    let tensors = model.tensors.len();
    let part = |number: usize| {
        let mut draft = if number == 0 { model.clone() } else { Draft::default() };
        draft.tensors = model.tensors.iter().skip(number * share).take(share).cloned().collect();
        draft.set("split.no", Field::raw(2, (number as u16).to_le_bytes()));
        draft.set("split.count", Field::raw(2, (parts as u16).to_le_bytes()));
        draft.set("split.tensors.count", Field::raw(5, (tensors as u32).to_le_bytes()));
        (format!("{stem}-{:05}-of-{parts:05}.gguf", number + 1), draft)
    };
    (0..parts).map(part).collect()
}

/// A set of files that is refused.
#[derive(Clone, Debug)]
pub struct BadSet {
    /// What is wrong with it.
    pub name: &'static str,
    /// File names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// The name of the file to open.
    pub open: String,
    /// The variant of [`crate::GgufError`], by [`crate::GgufError::name`].
    pub error: &'static str,
    /// What the message must say.
    pub says: &'static str,
}

type Parts = Vec<(String, Draft)>;

/// What is wrong, what to open, variant, words of the message, and how to break a sound set of three.
type Row = (&'static str, &'static str, &'static str, &'static str, fn(&mut Parts));

const P1: &str = "m-00001-of-00003.gguf";
const P2: &str = "m-00002-of-00003.gguf";
const P3: &str = "m-00003-of-00003.gguf";

const ROWS: &[Row] = &[
    ("last part missing", P1, "MissingShards", P3, |p| drop(p.remove(2))),
    ("first part missing", P3, "MissingShards", P1, |p| drop(p.remove(0))),
    ("all other parts missing", P2, "MissingShards", "2 of 3 parts", |p| p.retain(|(name, _)| name == P2)),
    ("renamed out of the pattern", "joined.gguf", "SplitName", "joined-00001-of-00003.gguf", |p| {
        p[0].0 = "joined.gguf".into();
    }),
    ("later part renamed", "b.gguf", "SplitName", "part 2 of a split set of 3", |p| p[1].0 = "b.gguf".into()),
    ("parts swapped, seen from one of them", P2, "ForeignShard", "split.no", |p| {
        let second = p[1].1.clone();
        p[1].1 = std::mem::replace(&mut p[2].1, second);
    }),
    ("parts swapped, seen from the first", P1, "ForeignShard", "split.no", |p| {
        let second = p[1].1.clone();
        p[1].1 = std::mem::replace(&mut p[2].1, second);
    }),
    ("one part twice", P1, "ForeignShard", "split.no", |p| p[2].1 = p[1].1.clone()),
    ("a part of a set of four", P1, "ForeignShard", "split.count", |p| p[1].1.set("split.count", Field::u32(4))),
    ("opened part of a set of four", P2, "ForeignShard", "split.count", |p| {
        p[1].1.set("split.count", Field::u32(4));
    }),
    ("a whole model among parts", P1, "ForeignShard", "a whole model", |p| p[1].1 = dense()),
    ("a part with another tensor total", P1, "ForeignShard", "split.tensors.count", |p| {
        p[2].1.set("split.tensors.count", Field::i32(12));
    }),
    ("a part of another architecture", P1, "ForeignShard", "general.architecture", |p| {
        p[1].1.set("general.architecture", Field::text("qwen2"));
    }),
    ("a part of another model", P1, "ForeignShard", "general.name", |p| {
        p[2].1.set("general.name", Field::text("Other"));
    }),
    ("a part of another version", P1, "ForeignShard", "GGUF version", |p| p[2].1.version = 2),
    ("a tensor in two parts", P1, "DuplicateTensor", "token_embd.weight", |p| {
        let tensor = p[0].1.tensors[0].clone();
        p[1].1.tensors[0] = tensor;
    }),
    ("tensors lost from a part", P1, "WrongValue", "split.tensors.count", |p| drop(p[1].1.tensors.pop())),
    ("total wrong in all parts", P1, "WrongValue", "split.tensors.count", |p| {
        for (_, part) in p {
            part.set("split.tensors.count", Field::i32(99));
        }
    }),
    ("more tensors than the total", P1, "WrongValue", "11 or more", |p| {
        for (_, part) in p {
            part.set("split.tensors.count", Field::i32(9));
        }
    }),
    ("total over the cap", P1, "Limit", "1048577", |p| {
        p[0].1.set("split.tensors.count", Field::u32((1 << 20) + 1));
    }),
    ("negative total", P1, "WrongValue", "split.tensors.count", |p| {
        p[0].1.set("split.tensors.count", Field::i32(-1));
    }),
    ("a later part without its number", P1, "MissingKey", "split.no", |p| p[1].1.remove("split.no")),
    ("metadata in no part", P1, "MissingKey", "general.architecture", |p| {
        p[0].1.entries.retain(|(key, _)| key.starts_with(b"split."));
    }),
    ("a later part cut", P1, "DataCut", P2, |p| p[1].1.data_max = 100),
    ("a later part of version 1", P1, "Version", P3, |p| p[2].1.version = 1),
    ("a later part with an unknown type", P2, "TensorType", P3, |p| p[2].1.tensors[0].kind = 4),
];

/// Every split set that must be refused.
#[must_use]
pub fn bad_sets() -> Vec<BadSet> {
    let set = |(name, open, error, says, spoil): &Row| {
        let mut parts = split(&dense(), "m", 3);
        spoil(&mut parts);
        let files = parts.into_iter().map(|(name, draft)| (name, draft.bytes())).collect();
        BadSet { name, files, open: (*open).to_owned(), error, says }
    };
    ROWS.iter().map(set).collect()
}
