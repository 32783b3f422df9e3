//! One file's header: version, metadata, and where each tensor's bytes lie.
//!
//! Owns the order and numbers of the format (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>):
//! `GGUF`, version, tensor count, entry count, entries, tensor infos, padding, data.
//! Must never know what a key means, save `general.alignment`.

use std::collections::HashSet;
use std::io::Read;
use std::ops::Range;

use plan::{Bytes, QuantType, Tensor};

use crate::error::Lookalike;
use crate::reader::{ARRAY_ELEMENTS_MAX, Reader, STRING_BYTES_MAX, What};
use crate::{GgufError, Metadata, Value};

/// Most metadata entries; real models have some 30.
const ENTRIES_MAX: u64 = 64 << 10;
/// Most tensors; the largest models have some thousands.
pub(crate) const TENSORS_MAX: u64 = 1 << 20;
/// Longest metadata key, the specification's cap.
const KEY_BYTES_MAX: u64 = (64 << 10) - 1;
/// Longest tensor name; ggml itself keeps 63 bytes.
const TENSOR_NAME_BYTES_MAX: u64 = 256;
/// Largest alignment of tensor data; files use 32.
const ALIGNMENT_MAX: u64 = 1 << 20;
/// The one key that the layout of a file depends on.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment where the file does not say.
const ALIGNMENT: u64 = 32;
/// Fewest bytes of an entry: the key's length, one byte of key, the type, one byte of value.
const ENTRY_BYTES_MIN: u64 = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor info: the name's length, one byte of name, dimension count, a dimension, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// What a [`Tensor`] takes in memory beside its name.
const TENSOR_MEMORY: u64 = size_of::<Tensor>() as u64 + 4 * 8;

const ARRAY: u32 = 9;

/// One file's header, each claim checked.
pub(crate) struct Header {
    /// 2 or 3.
    pub(crate) version: u32,
    /// Everything the file says about the model.
    pub(crate) metadata: Metadata,
    /// In file order; offsets count from the start of the file. `file` is 0 until the set is known.
    pub(crate) tensors: Vec<Tensor>,
    /// Where in the file the entries of the metadata are, in order.
    pub(crate) entries: Vec<Range<u64>>,
}

/// Reads and checks a header.
pub(crate) fn read<R: Read>(reader: &mut Reader<R>) -> Result<Header, GgufError> {
    let version = version(reader)?;
    let tensor_count = reader.u64(What::Counts)?;
    let entry_count = reader.u64(What::Counts)?;
    limit("metadata entries", entry_count, ENTRIES_MAX)?;
    limit("tensors", tensor_count, TENSORS_MAX)?;
    let least = entry_count * ENTRY_BYTES_MIN + tensor_count * TENSOR_BYTES_MIN;
    reader.have_all(1, least, What::Counts)?;

    let (metadata, entries) = entries(reader, entry_count)?;
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::new();
    for index in 0..tensor_count {
        let tensor = tensor(reader, index)?;
        reader.spend(TENSOR_MEMORY)?;
        tensors.push(tensor);
    }
    // Both are far below 2^63: the header was read, and the alignment is capped.
    let data_start = reader.position().next_multiple_of(alignment);
    crate::layout::place(&mut tensors, data_start, alignment, reader.length())?;
    tensors.shrink_to_fit();
    Ok(Header { version, metadata, tensors, entries })
}

fn limit(what: &str, found: u64, limit: u64) -> Result<(), GgufError> {
    if found <= limit { Ok(()) } else { Err(GgufError::Limit { what: what.to_owned(), found, limit }) }
}

/// Reads magic and version, and says what a file is that has neither.
fn version<R: Read>(reader: &mut Reader<R>) -> Result<u32, GgufError> {
    let available = reader.length().min(512) as usize;
    let start = reader.peek(available)?;
    let magic = &start[..start.len().min(4)];
    if magic != &b"GGUF"[..magic.len()] {
        return Err(GgufError::NotGguf { looks: lookalike(start) });
    }
    reader.bytes::<4>(What::Version)?;
    let version = reader.u32(What::Version)?;
    match version {
        2 | 3 => Ok(version),
        _ if (1..=255).contains(&version.swap_bytes()) => Err(GgufError::BigEndian { version: version.swap_bytes() }),
        _ => Err(GgufError::Version { version }),
    }
}

/// What the first bytes of some other file are the first bytes of.
fn lookalike(start: &[u8]) -> Lookalike {
    let text = start.trim_ascii_start();
    let has = |needle: &[u8]| text.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle));
    match start {
        // A safetensors file is a 64-bit length, then JSON.
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => Lookalike::Safetensors,
        // A pickle says its protocol first; a PyTorch checkpoint is a zip archive.
        [0x80, 2..=5, ..] | [b'P', b'K', 3, 4, ..] => Lookalike::Pickle,
        [b'l', b'm', b'g', b'g', ..] | [b'f' | b't' | b'a', b'm' | b'j', b'g', b'g', ..] => Lookalike::LegacyGgml,
        [0x1f, 0x8b, ..] | [b'7', b'z', 0xbc, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Lookalike::Archive,
        [0, ..] if start.iter().all(|byte| *byte == 0) => Lookalike::Zeros,
        _ if has(b"version https://git-lfs") => Lookalike::LfsPointer,
        _ if text.starts_with(b"<") && (has(b"<html") || has(b"<!doctype") || has(b"<?xml")) => Lookalike::WebPage,
        _ if !start.is_empty() && start.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => {
            Lookalike::Text
        }
        _ => Lookalike::Unknown,
    }
}

fn entries<R: Read>(reader: &mut Reader<R>, count: u64) -> Result<(Metadata, Vec<Range<u64>>), GgufError> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut places = Vec::new();
    for index in 0..count {
        let start = reader.position();
        let key = reader.string(KEY_BYTES_MAX, What::Key(index))?;
        let key = match std::str::from_utf8(key) {
            Err(_) => return Err(GgufError::BadKey { index, problem: "not UTF-8" }),
            Ok("") => return Err(GgufError::BadKey { index, problem: "empty" }),
            Ok(key) => key.to_owned(),
        };
        reader.spend(size_of::<(String, Value)>() as u64)?;
        let kind = reader.u32(What::Value(&key))?;
        let value = if kind == ARRAY { array(reader, &key)? } else { scalar(reader, &key, kind)? };
        entries.push((key, value));
        places.push(start..reader.position());
    }
    let mut seen = HashSet::with_capacity(entries.len());
    if let Some((key, _)) = entries.iter().find(|(key, _)| !seen.insert(key.as_str())) {
        return Err(GgufError::DuplicateKey { key: key.clone() });
    }
    Ok((Metadata::new(entries), places))
}

/// A value of the type with this number.
fn scalar<R: Read>(reader: &mut Reader<R>, key: &str, kind: u32) -> Result<Value, GgufError> {
    let what = What::Value(key);
    Ok(match kind {
        0 => Value::Unsigned(u8::from_le_bytes(reader.bytes(what)?).into()),
        1 => Value::Signed(i8::from_le_bytes(reader.bytes(what)?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(reader.bytes(what)?).into()),
        3 => Value::Signed(i16::from_le_bytes(reader.bytes(what)?).into()),
        4 => Value::Unsigned(reader.u32(what)?.into()),
        5 => Value::Signed(i32::from_le_bytes(reader.bytes(what)?).into()),
        6 => Value::Float(f32::from_le_bytes(reader.bytes(what)?).into()),
        7 => match reader.bytes(what)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return Err(GgufError::wrong_value(key, "a boolean, 0 or 1".into(), other.to_string())),
        },
        8 => match std::str::from_utf8(reader.string(STRING_BYTES_MAX, what)?) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => return Err(GgufError::NotText { key: key.to_owned() }),
        },
        10 => Value::Unsigned(reader.u64(what)?),
        11 => Value::Signed(i64::from_le_bytes(reader.bytes(what)?)),
        12 => Value::Float(f64::from_le_bytes(reader.bytes(what)?)),
        found => return Err(GgufError::ValueType { key: key.to_owned(), found }),
    })
}

/// An array: the number of its element type, its length, its elements.
fn array<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Value, GgufError> {
    let what = What::Value(key);
    let kind = reader.u32(what)?;
    let count = reader.u64(what)?;
    if count > ARRAY_ELEMENTS_MAX {
        let what = format!("elements of the array in metadata key {key}");
        return Err(GgufError::Limit { what, found: count, limit: ARRAY_ELEMENTS_MAX });
    }
    Ok(match kind {
        0 => Value::Integers(reader.numbers(count, what, |b| u8::from_le_bytes(b).into())?),
        1 => Value::Integers(reader.numbers(count, what, |b| i8::from_le_bytes(b).into())?),
        2 => Value::Integers(reader.numbers(count, what, |b| u16::from_le_bytes(b).into())?),
        3 => Value::Integers(reader.numbers(count, what, |b| i16::from_le_bytes(b).into())?),
        4 => Value::Integers(reader.numbers(count, what, |b| u32::from_le_bytes(b).into())?),
        5 => Value::Integers(reader.numbers(count, what, |b| i32::from_le_bytes(b).into())?),
        6 => Value::Floats(reader.numbers(count, what, f32::from_le_bytes)?),
        7 => {
            let bytes = reader.numbers(count, what, |[byte]: [u8; 1]| byte)?;
            if let Some(bad) = bytes.iter().find(|byte| **byte > 1) {
                return Err(GgufError::wrong_value(key, "booleans, each 0 or 1".into(), bad.to_string()));
            }
            Value::Bools(bytes.into_iter().map(|byte| byte == 1).collect())
        }
        8 => Value::Strings(reader.strings(count, what)?),
        ARRAY => return Err(GgufError::NestedArray { key: key.to_owned() }),
        10 => {
            let unsigned = reader.numbers(count, what, u64::from_le_bytes)?;
            if let Some(big) = unsigned.iter().find(|n| i64::try_from(**n).is_err()) {
                return Err(GgufError::wrong_value(key, "numbers below 2^63".into(), big.to_string()));
            }
            Value::Integers(unsigned.into_iter().map(u64::cast_signed).collect())
        }
        11 => Value::Integers(reader.numbers(count, what, i64::from_le_bytes)?),
        12 => Value::Floats(reader.numbers(count, what, |b| f64::from_le_bytes(b) as f32)?),
        found => return Err(GgufError::ValueType { key: key.to_owned(), found }),
    })
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    const KEY: &str = ALIGNMENT_KEY;
    let found = match metadata.get(KEY) {
        None => return Ok(ALIGNMENT),
        Some(Value::Unsigned(found)) => *found,
        Some(other) => return Err(GgufError::wrong_type(KEY, "an unsigned integer", other.kind())),
    };
    if found.is_power_of_two() && found <= ALIGNMENT_MAX {
        return Ok(found);
    }
    Err(GgufError::wrong_value(KEY, format!("a power of two up to {ALIGNMENT_MAX}"), found.to_string()))
}

/// A tensor info. Its offset still counts from the start of the data.
fn tensor<R: Read>(reader: &mut Reader<R>, index: u64) -> Result<Tensor, GgufError> {
    let name = match std::str::from_utf8(reader.string(TENSOR_NAME_BYTES_MAX, What::TensorName(index))?) {
        Err(_) => return Err(GgufError::BadTensorName { index, problem: "not UTF-8" }),
        Ok("") => return Err(GgufError::BadTensorName { index, problem: "empty" }),
        Ok(name) => name.to_owned(),
    };
    let what = What::Tensor(&name);
    let shape = |problem: String| GgufError::TensorShape { tensor: name.clone(), problem };
    let dim_count = reader.u32(what)?;
    if !(1..=4).contains(&dim_count) {
        return Err(shape(format!("{dim_count} dimensions, and 1 to 4 are possible")));
    }
    let mut dims = Vec::with_capacity(dim_count as usize);
    for _ in 0..dim_count {
        dims.push(reader.u64(what)?);
    }
    let found = reader.u32(what)?;
    let offset = reader.u64(what)?;
    let quant = QuantType::from_id(found).ok_or_else(|| GgufError::TensorType { tensor: name.clone(), found })?;
    if dims.contains(&0) {
        return Err(shape(format!("a dimension of zero in {dims:?}")));
    }
    let elements = dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    // Engines count elements with signed numbers.
    let elements = elements.filter(|n| i64::try_from(*n).is_ok());
    let elements = elements.ok_or_else(|| shape(format!("dimensions {dims:?} have more than 2^63 elements")))?;
    if !dims[0].is_multiple_of(quant.block_elements() as u64) {
        let block = quant.block_elements();
        return Err(shape(format!("rows of {} are no whole blocks of {quant}, which are of {block}", dims[0])));
    }
    let bytes = quant.bytes(elements).ok_or_else(|| shape(format!("dimensions {dims:?} are too many bytes")))?;
    Ok(Tensor { name, quant, dims, file: 0, offset, bytes: Bytes(bytes.0) })
}
