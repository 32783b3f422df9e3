//! The table of malformed files: each one fault away from a sound model.

mod sizes;

use sizes::{MIXTURES, SIZES};

use super::{Draft, Field, Info, dense, mixture};

/// A file that is refused.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is wrong with it.
    pub name: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
    /// The variant of [`crate::GgufError`], by [`crate::GgufError::name`].
    pub error: &'static str,
    /// What the message must say.
    pub says: &'static str,
}

/// What is wrong, variant, words of the message, and how to break a sound draft.
type Row = (&'static str, &'static str, &'static str, fn(&mut Draft));

/// Every file that must be refused, sound but for one fault.
#[must_use]
pub fn malformed() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (name, error, says, bytes) in STARTS {
        cases.push(Case { name, bytes: bytes.to_vec(), error, says });
    }
    for (rows, sound) in [
        (HEADERS, dense as fn() -> Draft),
        (ENTRIES, dense),
        (SIZES, dense),
        (MIXTURES, mixture),
        (TENSORS, dense),
        (VOCABULARIES, dense),
        (PARTS, dense),
    ] {
        for (name, error, says, spoil) in rows {
            let mut draft = sound();
            spoil(&mut draft);
            cases.push(Case { name, bytes: draft.bytes(), error, says });
        }
    }
    cases
}

/// Files of other formats, and files cut within their first bytes.
const STARTS: &[(&str, &str, &str, &[u8])] = &[
    ("empty file", "HeaderCut", "the version", b""),
    ("cut in the magic", "HeaderCut", "the version", b"GGU"),
    ("magic alone", "HeaderCut", "the version", b"GGUF"),
    ("cut in the version", "HeaderCut", "the version", b"GGUF\x03\0"),
    ("version alone", "HeaderCut", "the counts", b"GGUF\x03\0\0\0"),
    ("cut in the counts", "HeaderCut", "the counts", b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01"),
    ("no metadata at all", "MissingKey", "general.architecture", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ("safetensors", "NotGguf", "safetensors", b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}"),
    ("zip of PyTorch", "NotGguf", "PyTorch", b"PK\x03\x04\0\0\x08\x08archive/data.pkl"),
    ("bare pickle", "NotGguf", "PyTorch", b"\x80\x02}q\0(X\x05\0\0\0model"),
    ("web page", "NotGguf", "web page", b"<!DOCTYPE html>\n<html><body>404</body></html>"),
    ("web page after white space", "NotGguf", "web page", b"\r\n  <HTML lang=\"en\"><head>"),
    ("XML error of a store", "NotGguf", "web page", b"<?xml version=\"1.0\"?><Error>AccessDenied</Error>"),
    ("git-LFS pointer", "NotGguf", "git-LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    ("ggml", "NotGguf", "older than GGUF", b"lmgg\0\0\0\0"),
    ("ggmf", "NotGguf", "older than GGUF", b"fmgg\x01\0\0\0"),
    ("ggjt", "NotGguf", "older than GGUF", b"tjgg\x03\0\0\0"),
    ("gzip", "NotGguf", "archive", b"\x1f\x8b\x08\0\0\0\0\0"),
    ("zstd", "NotGguf", "archive", b"\x28\xb5\x2f\xfd\0\0\0\0"),
    ("7z", "NotGguf", "archive", b"7z\xbc\xaf\x27\x1c\0\x04"),
    ("zeros", "NotGguf", "zeros", &[0; 64]),
    ("text", "NotGguf", "text", b"Entry not found\n"),
    ("JSON", "NotGguf", "text", b"{\"error\":\"gated\"}"),
    ("noise", "NotGguf", "no format known", b"\xde\xad\xbe\xef\x01\x02\x03\x04"),
    ("magic in lower case", "NotGguf", "no format known", b"gguf\x03\0\0\0"),
    ("magic reversed", "NotGguf", "no format known", b"FUGG\0\0\0\x03"),
    ("big-endian version 3", "BigEndian", "version 3 in big-endian", b"GGUF\0\0\0\x03\0\0\0\0"),
    ("big-endian version 2", "BigEndian", "version 2 in big-endian", b"GGUF\0\0\0\x02\0\0\0\0"),
];

/// Versions and counts.
const HEADERS: &[Row] = &[
    ("version 0", "Version", "version 0", |d| d.version = 0),
    ("version 1", "Version", "version 1", |d| d.version = 1),
    ("version 4", "Version", "version 4", |d| d.version = 4),
    ("version of all ones", "Version", "4294967295", |d| d.version = u32::MAX),
    ("entry count of all ones", "Limit", "metadata entries", |d| d.entry_count = Some(u64::MAX)),
    ("one entry over the cap", "Limit", "at most 65536", |d| d.entry_count = Some(65_537)),
    ("more entries than can be left", "HeaderCut", "the counts", |d| d.entry_count = Some(65_536)),
    ("one entry more than there are", "ValueType", "token_embd.weight", |d| {
        d.entry_count = Some(d.entries.len() as u64 + 1);
        d.tensor("token_embd.weight").dim_count = Some(77);
    }),
    ("one entry fewer than there are", "TensorShape", "eos_token_id", |d| {
        d.set("tokenizer.ggml.eos_token_id", Field::raw(8, *b"\x02\0\0\0\0\0\0\0xx"));
        d.entry_count = Some(d.entries.len() as u64 - 1);
    }),
    ("no entry, though there are", "TensorShape", "general.architecture", |d| d.entry_count = Some(0)),
    ("tensor count of all ones", "Limit", "tensors", |d| d.tensor_count = Some(u64::MAX)),
    ("one tensor over the cap", "Limit", "at most 1048576", |d| d.tensor_count = Some((1 << 20) + 1)),
    ("more tensors than can be left", "HeaderCut", "the counts", |d| d.tensor_count = Some(1 << 20)),
    ("one tensor more than there are", "BadTensorName", "tensor 11", |d| d.tensor_count = Some(12)),
];

/// Keys, types and values of metadata; and the alignment.
const ENTRIES: &[Row] = &[
    ("empty key", "BadKey", "empty", |d| d.add("", Field::u32(1))),
    ("key that is no UTF-8", "BadKey", "not UTF-8", |d| d.add(b"a\xff", Field::u32(1))),
    ("key over the cap", "Limit", "at most 65535", |d| d.add(vec![b'k'; 65_536], Field::u32(1))),
    ("key twice", "DuplicateKey", "general.name", |d| d.add("general.name", Field::text("Again"))),
    ("key twice with another type", "DuplicateKey", "block_count", |d| d.add("llama.block_count", Field::f32(1.0))),
    ("value type 13", "ValueType", "number 13", |d| d.add("x", Field::raw(13, [0; 8]))),
    ("value type of all ones", "ValueType", "4294967295", |d| d.add("x", Field::raw(u32::MAX, [0; 8]))),
    ("element type 13", "ValueType", "number 13", |d| d.add("x", Field::array(13, 1, &[0; 8]))),
    ("element type of all ones", "ValueType", "4294967295", |d| d.add("x", Field::array(u32::MAX, 1, &[0; 8]))),
    ("array of arrays", "NestedArray", "x", |d| d.add("x", Field::array(9, 1, &Field::i32s(&[1]).bytes))),
    ("empty array of arrays", "NestedArray", "x", |d| d.add("x", Field::array(9, 0, &[]))),
    ("array count of all ones", "Limit", "elements of the array", |d| d.add("x", Field::array(0, u64::MAX, &[]))),
    ("array count that overflows bytes", "Limit", "elements", |d| d.add("x", Field::array(10, 1 << 61, &[]))),
    ("one element over the cap", "Limit", "at most 67108864", |d| d.add("x", Field::array(0, (64 << 20) + 1, &[]))),
    ("bytes array beyond the file", "HeaderCut", "key x", |d| d.add("x", Field::array(0, 64 << 20, &[]))),
    ("short array beyond the file", "HeaderCut", "key x", |d| d.add("x", Field::array(3, 64 << 20, &[]))),
    ("numbers array beyond the file", "HeaderCut", "key x", |d| d.add("x", Field::array(5, 1 << 20, &[]))),
    ("floats array beyond the file", "HeaderCut", "key x", |d| d.add("x", Field::array(12, 1 << 20, &[]))),
    ("booleans array beyond the file", "HeaderCut", "key x", |d| d.add("x", Field::array(7, 1 << 20, &[]))),
    ("strings array beyond the file", "HeaderCut", "key x", |d| d.add("x", Field::array(8, 1 << 20, &[]))),
    ("string length of all ones", "Limit", "bytes of a string", |d| d.add("x", Field::raw(8, [0xff; 8]))),
    ("one byte over the longest string", "Limit", "at most 16777216", |d| {
        d.add("x", Field::raw(8, ((16u64 << 20) + 1).to_le_bytes()));
    }),
    ("string beyond the file", "HeaderCut", "key x", |d| d.add("x", Field::raw(8, (16u64 << 20).to_le_bytes()))),
    ("string that is no UTF-8", "NotText", "key x", |d| d.add("x", Field::text(b"\xf0\x28"))),
    ("name that is no UTF-8", "NotText", "general.name", |d| d.set("general.name", Field::text(b"\x80"))),
    ("element string over the cap", "Limit", "key x", |d| d.add("x", Field::array(8, 1, &[0xff; 8]))),
    ("element string beyond the file", "HeaderCut", "key x", |d| {
        d.add("x", Field::array(8, 1, &(1u64 << 24).to_le_bytes()));
    }),
    ("boolean of 2", "WrongValue", "found 2", |d| d.add("x", Field::raw(7, [2]))),
    ("boolean of 255 in an array", "WrongValue", "found 255", |d| d.add("x", Field::array(7, 2, &[1, 255]))),
    ("array number of 2^63", "WrongValue", "below 2^63", |d| {
        d.add("x", Field::array(10, 1, &(1u64 << 63).to_le_bytes()));
    }),
    ("alignment 0", "WrongValue", "power of two", |d| d.add("general.alignment", Field::u32(0))),
    ("alignment 13", "WrongValue", "found 13", |d| d.add("general.alignment", Field::u32(13))),
    ("alignment 2^31", "WrongValue", "2147483648", |d| d.add("general.alignment", Field::u32(1 << 31))),
    ("alignment over the cap", "WrongValue", "1048576", |d| d.add("general.alignment", Field::u32(2 << 20))),
    ("negative alignment", "WrongValue", "a signed integer", |d| d.add("general.alignment", Field::i32(-32))),
    ("alignment as text", "WrongValue", "a string", |d| d.add("general.alignment", Field::text("32"))),
    ("alignment as float", "WrongValue", "a float", |d| d.add("general.alignment", Field::f32(32.0))),
    ("alignment as array", "WrongValue", "an array", |d| d.add("general.alignment", Field::i32s(&[32]))),
];

const Q: &str = "blk.0.attn_q.weight";

/// Entries and places of tensors.
const TENSORS: &[Row] = &[
    ("empty tensor name", "BadTensorName", "empty", |d| d.tensors[2].name.clear()),
    ("tensor name that is no UTF-8", "BadTensorName", "tensor 2", |d| d.tensors[2].name = b"blk.\xc3".to_vec()),
    ("tensor name over the cap", "Limit", "at most 256", |d| d.tensors[2].name = vec![b'n'; 257]),
    ("tensor twice", "DuplicateTensor", Q, |d| d.tensors.push(Info::f32(Q, &[32, 32]))),
    ("no dimensions", "TensorShape", "0 dimensions", |d| d.tensor(Q).dims.clear()),
    ("five dimensions", "TensorShape", "5 dimensions", |d| d.tensor(Q).dims = vec![32, 32, 1, 1, 1]),
    ("dimension count of all ones", "TensorShape", "4294967295", |d| d.tensor(Q).dim_count = Some(u32::MAX)),
    ("row length 0", "TensorShape", "a dimension of zero", |d| d.tensor(Q).dims = vec![0, 32]),
    ("no rows", "TensorShape", "a dimension of zero", |d| d.tensor(Q).dims = vec![32, 0]),
    ("dimensions that overflow", "TensorShape", "2^63", |d| d.tensor(Q).dims = vec![1 << 32, 1 << 32]),
    ("dimensions that overflow to 0", "TensorShape", "2^63", |d| d.tensor(Q).dims = vec![1 << 16; 4]),
    ("dimensions of all ones", "TensorShape", "2^63", |d| d.tensor(Q).dims = vec![u64::MAX; 4]),
    ("2^63 elements", "TensorShape", "2^63", |d| d.tensor(Q).dims = vec![1 << 63]),
    ("elements that overflow bytes", "TensorShape", "too many bytes", |d| d.tensor(Q).dims = vec![1 << 62]),
    ("rows of no whole Q4_K blocks", "TensorShape", "Q4_K", |d| d.tensor(Q).kind = 12),
    ("rows of no whole Q8_0 blocks", "TensorShape", "Q8_0", |d| {
        d.tensor(Q).kind = 8;
        d.tensor(Q).dims = vec![33, 32];
    }),
    ("rows of no whole MXFP4 blocks", "TensorShape", "MXFP4", |d| {
        d.tensor(Q).kind = 39;
        d.tensor(Q).dims = vec![16, 64];
    }),
    ("removed type 4", "TensorType", "number 4", |d| d.tensor(Q).kind = 4),
    ("removed type 5", "TensorType", "number 5", |d| d.tensor(Q).kind = 5),
    ("removed type 31", "TensorType", "number 31", |d| d.tensor(Q).kind = 31),
    ("removed type 36", "TensorType", "number 36", |d| d.tensor(Q).kind = 36),
    ("unknown type 99", "TensorType", "number 99", |d| d.tensor(Q).kind = 99),
    ("type of all ones", "TensorType", "4294967295", |d| d.tensor(Q).kind = u32::MAX),
    ("offset off by one", "TensorOffset", "multiple of the alignment 32", |d| d.tensor(Q).offset = Some(1281)),
    ("offset off by 16", "TensorOffset", "multiple of the alignment 32", |d| d.tensor(Q).offset = Some(1296)),
    ("offset of all ones", "TensorOffset", "multiple of", |d| d.tensor(Q).offset = Some(u64::MAX)),
    ("offset that overflows", "TensorOffset", "beyond any file", |d| d.tensor(Q).offset = Some(u64::MAX - 31)),
    ("offset whose end overflows", "TensorOffset", "beyond any file", |d| d.tensor(Q).offset = Some((1 << 63) - 4096)),
    ("offset far behind the file", "TensorOffset", "hole", |d| d.tensor(Q).offset = Some(1 << 40)),
    ("a hole of one alignment", "TensorOffset", "hole", |d| {
        let after = d.tensors.len() - 1;
        d.tensors[after].offset = Some(21_888 + 32);
    }),
    ("nothing at the start of the data", "TensorOffset", "hole", |d| d.tensors[0].offset = Some(1 << 16)),
    ("two tensors in one place", "Overlap", Q, |d| d.tensor("blk.0.attn_k.weight").offset = Some(1280)),
    ("a tensor that starts in another", "Overlap", "overlap", |d| {
        d.tensor("blk.0.attn_k.weight").offset = Some(1280 + 32);
    }),
    ("all tensors at 0", "Overlap", "token_embd.weight", |d| {
        d.tensors.iter_mut().for_each(|info| info.offset = Some(0));
    }),
    ("no data", "DataCut", "token_embd.weight", |d| d.data_max = 0),
    ("half of the data", "DataCut", "the file is cut", |d| d.data_max = 8000),
    ("a byte of data missing", "DataCut", "blk.0.ffn_down.weight", |d| d.data_max = 25_983),
    ("a tensor of a petabyte", "DataCut", "GB", |d| {
        d.tensors.push(Info::f32("rope_freqs.weight", &[1 << 48]));
    }),
    ("offsets of another alignment", "TensorOffset", "alignment 64", |d| {
        d.add("general.alignment", Field::u32(64));
        d.tensors.insert(0, Info::f32("rope_freqs.weight", &[8]));
    }),
    ("a layer beyond the count", "TensorMismatch", "layer 1", |d| {
        d.tensors.push(Info::f32("blk.1.attn_norm.weight", &[32]));
    }),
    ("a layer of the largest number", "TensorMismatch", "layer 4294967295", |d| {
        d.tensors.push(Info::f32("blk.4294967295.attn_norm.weight", &[32]));
    }),
    ("embedding table transposed", "TensorMismatch", "token_embd", |d| d.tensors[0].dims = vec![8, 32]),
    ("embedding table as a vector", "TensorMismatch", "token_embd", |d| d.tensors[0].dims = vec![256]),
    ("embedding table of three dimensions", "TensorMismatch", "[32, 4, 2]", |d| d.tensors[0].dims = vec![32, 4, 2]),
    ("output matrix of fewer tokens", "TensorMismatch", "output.weight", |d| {
        d.tensors.push(Info::f32("output.weight", &[32, 7]));
    }),
    ("output matrix of another width", "TensorMismatch", "output.weight", |d| {
        d.tensors.push(Info::f32("output.weight", &[64, 8]));
    }),
];

/// The vocabulary.
const VOCABULARIES: &[Row] = &[
    ("tokens as numbers", "WrongValue", "tokens", |d| d.set("tokenizer.ggml.tokens", Field::i32s(&[0; 8]))),
    ("tokens as one text", "WrongValue", "tokens", |d| d.set("tokenizer.ggml.tokens", Field::text("abc"))),
    ("no tokens", "TensorMismatch", "0 rows", |d| d.set("tokenizer.ggml.tokens", Field::texts::<&str>(&[]))),
    ("no tokens in a vocabulary alone", "WrongValue", "a token or more", |d| {
        d.tensors.clear();
        d.set("tokenizer.ggml.tokens", Field::texts::<&str>(&[]));
    }),
    ("fewer tokens than rows", "TensorMismatch", "7 rows", |d| {
        d.set("tokenizer.ggml.tokens", Field::texts(&["a"; 7]));
    }),
    ("more tokens than rows", "TensorMismatch", "9 rows", |d| {
        d.set("tokenizer.ggml.tokens", Field::texts(&["a"; 9]));
    }),
    ("fewer token types than tokens", "WrongValue", "8 tokens", |d| {
        d.set("tokenizer.ggml.token_type", Field::i32s(&[1; 7]));
    }),
    ("more token types than tokens", "WrongValue", "8 tokens", |d| {
        d.set("tokenizer.ggml.token_type", Field::i32s(&[1; 9]));
    }),
    ("token types as floats", "WrongValue", "token_type", |d| {
        d.set("tokenizer.ggml.token_type", Field::f32s(&[1.0; 8]));
    }),
    ("fewer scores than tokens", "WrongValue", "scores", |d| d.set("tokenizer.ggml.scores", Field::f32s(&[0.0; 7]))),
    ("scores as numbers", "WrongValue", "scores", |d| d.set("tokenizer.ggml.scores", Field::i32s(&[0; 8]))),
    ("a score that is not a number", "WrongValue", "NaN", |d| {
        d.set("tokenizer.ggml.scores", Field::f32s(&[f32::NAN; 8]));
    }),
    ("byte token <0x-1>", "WrongValue", "<0x-1>", |d| {
        let tokens = ["<unk>", "<s>", "</s>", "<0x-1>", "a", "b", "c", "d"];
        d.set("tokenizer.ggml.tokens", Field::texts(&tokens));
    }),
    ("byte token <0x1FF>", "WrongValue", "<0x1FF>", |d| {
        let tokens = ["<unk>", "<s>", "</s>", "<0x1FF>", "a", "b", "c", "d"];
        d.set("tokenizer.ggml.tokens", Field::texts(&tokens));
    }),
    ("byte token without text", "WrongValue", "byte tokens", |d| {
        let tokens = ["<unk>", "<s>", "</s>", "", "a", "b", "c", "d"];
        d.set("tokenizer.ggml.tokens", Field::texts(&tokens));
    }),
    ("first token beyond the vocabulary", "WrongValue", "an id below 8", |d| {
        d.set("tokenizer.ggml.bos_token_id", Field::u32(8));
    }),
    ("first token of all ones", "WrongValue", "bos_token_id", |d| {
        d.set("tokenizer.ggml.bos_token_id", Field::u32(u32::MAX));
    }),
    ("last token beyond the vocabulary", "WrongValue", "eos_token_id", |d| {
        d.set("tokenizer.ggml.eos_token_id", Field::u32(128_001));
    }),
    ("last token of 64 ones", "WrongValue", "eos_token_id", |d| {
        d.set("tokenizer.ggml.eos_token_id", Field::u64(u64::MAX));
    }),
    ("negative last token", "WrongValue", "eos_token_id", |d| d.set("tokenizer.ggml.eos_token_id", Field::i32(-2))),
    ("first token as text", "WrongValue", "bos_token_id", |d| d.set("tokenizer.ggml.bos_token_id", Field::text("1"))),
    ("end of turn beyond the vocabulary", "WrongValue", "eot_token_id", |d| {
        d.add("tokenizer.ggml.eot_token_id", Field::u32(8));
    }),
    ("a list of last tokens beyond", "WrongValue", "eos_token_ids", |d| {
        d.add("tokenizer.ggml.eos_token_ids", Field::i32s(&[2, 8]));
    }),
    ("a negative id in a list", "WrongValue", "eos_token_ids", |d| {
        d.add("tokenizer.ggml.eos_token_ids", Field::i32s(&[-1]));
    }),
    ("no merge rules for byte-level BPE", "MissingKey", "merges", |d| {
        d.set("tokenizer.ggml.model", Field::text("gpt2"));
    }),
    ("merge rules as numbers", "WrongValue", "merges", |d| d.add("tokenizer.ggml.merges", Field::i32s(&[1]))),
    ("merge rule of one part", "WrongValue", "rule 1", |d| {
        d.add("tokenizer.ggml.merges", Field::texts(&["a b", "ab"]));
    }),
    ("empty merge rule", "WrongValue", "rule 0", |d| d.add("tokenizer.ggml.merges", Field::texts(&[""]))),
    ("merge rule without its second part", "WrongValue", "rule 0", |d| {
        d.add("tokenizer.ggml.merges", Field::texts(&["a "]));
    }),
    ("merge rule without its first part", "WrongValue", "rule 0", |d| {
        d.add("tokenizer.ggml.merges", Field::texts(&[" b"]));
    }),
    ("tokenizer model as number", "WrongValue", "tokenizer.ggml.model", |d| {
        d.set("tokenizer.ggml.model", Field::u32(1));
    }),
];

/// A part of a split set, alone.
const PARTS: &[Row] = &[
    ("part without a part's name", "SplitName", "part 1 of a split set of 2", |d| in_set(d, 0, 2)),
    ("part number beyond the set", "WrongValue", "split.no", |d| in_set(d, 2, 2)),
    ("part number of all ones", "WrongValue", "split.no", |d| in_set(d, u32::MAX, 2)),
    ("too many parts", "Limit", "parts of a split set", |d| in_set(d, 0, 65_535)),
    ("part count as text", "WrongValue", "split.count", |d| d.add("split.count", Field::text("2"))),
    ("negative part count", "WrongValue", "split.count", |d| d.add("split.count", Field::i32(-2))),
    ("part without its number", "MissingKey", "split.no", |d| d.add("split.count", Field::u32(2))),
    ("part without the tensor total", "MissingKey", "split.tensors.count", |d| {
        in_set(d, 0, 2);
        d.remove("split.tensors.count");
    }),
];

fn in_set(draft: &mut Draft, number: u32, count: u32) {
    draft.set("split.no", Field::u32(number));
    draft.set("split.count", Field::u32(count));
    draft.set("split.tensors.count", Field::i32(11));
}
