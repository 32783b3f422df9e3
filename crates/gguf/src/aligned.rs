//! The header of a prepared copy: the same model, its tensors in the order of their use, each on a page of the drive.
//!
//! Owns where bytes go. Must never copy them. The copy is a GGUF file as any other: `general.alignment` says what its offsets are multiples
//! of, and all other metadata are the old file's bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use plan::{Role, Tensor};

use crate::GgufError;
use crate::header::{self, ALIGNMENT_KEY, Header};
use crate::reader::Reader;
use crate::roles::place;
use crate::split::{Files, Local};

/// How one file is laid out anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aligned {
    /// Everything before the first tensor, padding included.
    pub header: Vec<u8>,
    /// The tensors in their new order. After each come zeros up to the next multiple of the alignment.
    pub tensors: Vec<Moved>,
    /// Length of the new file.
    pub bytes: u64,
}

/// Where a tensor's bytes are, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its first byte in the old file.
    pub from: u64,
    /// Its first byte in the new one.
    pub to: u64,
    /// How many there are.
    pub bytes: u64,
}

/// Lays a file out anew, a whole model or one part of a set, with tensors at multiples of `alignment`.
///
/// # Errors
/// As [`open`](crate::open), of this one file.
///
/// # Panics
/// Where `alignment` is no power of two.
pub fn aligned(path: &Path, alignment: u32) -> Result<Aligned, GgufError> {
    assert!(alignment.is_power_of_two(), "an alignment that files may have");
    let (mut file, length) = Local.open(path)?;
    let mut reader = Reader::new(&mut file, path.to_owned(), length.0);
    let Header { version, metadata, mut tensors, entries } =
        header::read(&mut reader).map_err(|error| error.in_file(path))?;
    tensors.sort_by_key(|tensor| (turn(&tensor.name), tensor.offset));

    let kept: Vec<Range<u64>> =
        metadata.iter().zip(entries).filter(|((key, _), _)| *key != ALIGNMENT_KEY).map(|(_, range)| range).collect();
    let mut header = b"GGUF".to_vec();
    header.extend(version.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((kept.len() as u64 + 1).to_le_bytes());
    for range in kept {
        append(&mut file, range, &mut header).map_err(|source| GgufError::Io { path: path.to_owned(), source })?;
    }
    put_text(&mut header, ALIGNMENT_KEY);
    header.extend(UNSIGNED_32.to_le_bytes());
    header.extend(alignment.to_le_bytes());
    Ok(placed(header, &tensors, u64::from(alignment)))
}

/// The number of the type of `general.alignment`.
const UNSIGNED_32: u32 = 4;

/// When a tensor's turn comes in a pass: embedding, layer by layer with chosen experts last, output.
fn turn(name: &str) -> (u32, u32) {
    let place = place(name);
    match (place.layer, place.role) {
        (None, Role::Embedding) => (0, 0),
        (None, _) => (u32::MAX, 0),
        (Some(layer), role) => (layer.saturating_add(1), u32::from(role == Role::RoutedExpert)),
    }
}

/// Adds the entries of the tensors, and says where each goes.
fn placed(mut header: Vec<u8>, tensors: &[Tensor], alignment: u64) -> Aligned {
    let mut end = 0;
    let mut moved = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        put_text(&mut header, &tensor.name);
        header.extend((tensor.dims.len() as u32).to_le_bytes());
        for dim in &tensor.dims {
            header.extend(dim.to_le_bytes());
        }
        header.extend(tensor.quant.id().to_le_bytes());
        header.extend(u64::to_le_bytes(end));
        moved.push(Moved { from: tensor.offset, to: end, bytes: tensor.bytes.0 });
        end = (end + tensor.bytes.0).next_multiple_of(alignment);
    }
    header.resize(header.len().next_multiple_of(alignment as usize), 0);
    let data = header.len() as u64;
    for tensor in &mut moved {
        tensor.to += data;
    }
    Aligned { header, tensors: moved, bytes: data + end }
}

/// A string as files hold it.
fn put_text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}

/// Adds a range of the file.
fn append(file: &mut File, range: Range<u64>, to: &mut Vec<u8>) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(range.start))?;
    let wanted = range.end - range.start;
    if file.take(wanted).read_to_end(to)? as u64 == wanted {
        Ok(())
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}
