//! Opens a model: one file, or a set of parts through any one of them.
//!
//! Parts are named `NAME-00001-of-00005.gguf`, counted from 1, and say `split.no`, counted from 0, `split.count` and
//! `split.tensors.count`, which is the sum over all parts. Metadata of the model lives in the first part.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use plan::{Bytes, Inventory, ModelFile, Tensor};

use crate::header::{self, Header, TENSORS_MAX};
use crate::reader::Reader;
use crate::{GgufError, Metadata};

/// Most parts of a set.
const PARTS_MAX: u64 = 4096;

/// A model's header, read and checked.
#[derive(Debug)]
pub struct Model {
    /// What the model holds.
    pub inventory: Inventory,
    /// Its metadata.
    pub metadata: Metadata,
    /// The version of the format: 2 or 3.
    pub version: u32,
}

/// Where files of models are: on this machine, or elsewhere.
pub trait Files {
    /// What reads one file from its start.
    type Reader: Read;

    /// Opens a file, and tells its length.
    ///
    /// # Errors
    /// [`GgufError::Io`] or [`GgufError::NotAFile`].
    fn open(&self, path: &Path) -> Result<(Self::Reader, Bytes), GgufError>;

    /// Whether there is a file of this name.
    fn has(&self, path: &Path) -> bool;
}

/// Files of this machine.
pub(crate) struct Local;

impl Files for Local {
    type Reader = File;

    fn open(&self, path: &Path) -> Result<(File, Bytes), GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        // Looked at before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(GgufError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        Ok((file, Bytes(bytes)))
    }

    fn has(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// Reads and checks the header of a model file, or of all files of a split set when given any of them.
///
/// Reads headers only, and takes memory in proportion to them; never maps the file.
///
/// # Errors
/// The first thing that is wrong, with its file: see [`GgufError`].
pub fn open(path: &Path) -> Result<Model, GgufError> {
    open_among(&Local, path)
}

/// The same of files that may be elsewhere: no more of each is read than its header and what a reader reads ahead.
///
/// # Errors
/// As [`open`].
pub fn open_among<F: Files>(among: &F, path: &Path) -> Result<Model, GgufError> {
    let read = |path: &Path| read(among, path);
    let (header, file) = read(path)?;
    let part = Part::of(&header.metadata).map_err(|error| error.in_file(path))?;
    let Some(part) = part else {
        let model = model(vec![file], header);
        return model.map_err(|error| error.in_file(path));
    };
    let paths = paths(among, path, &part)?;
    let mut files = Vec::new();
    let mut whole: Option<(Header, Part)> = None;
    let mut given = Some((header, file));
    for (number, path) in paths.iter().enumerate() {
        let (header, mut file) =
            if number as u64 == part.number { given.take().map_or_else(|| read(path), Ok)? } else { read(path)? };
        file.path = text(path)?;
        files.push(file);
        whole = Some(match whole {
            None => first(header, &part).map_err(|error| error.in_file(path))?,
            Some(whole) => join(whole, header, number as u64).map_err(|error| error.in_file(path))?,
        });
    }
    // A set has two parts or more, so that `whole` is there.
    let Some((header, set)) = whole else { return Err(GgufError::missing_key("split.count").in_file(path)) };
    if let Some(twice) = crate::layout::repeated(&header.tensors) {
        let error = GgufError::DuplicateTensor { tensor: twice.name.clone() };
        return Err(error.in_file(&paths[twice.file as usize]));
    }
    if header.tensors.len() as u64 != set.tensors {
        let expected = format!("{}, as all parts hold", header.tensors.len());
        let error = GgufError::wrong_value("split.tensors.count", expected, set.tensors.to_string());
        return Err(error.in_file(&paths[0]));
    }
    model(files, header).map_err(|error| error.in_file(&paths[0]))
}

fn model(files: Vec<ModelFile>, header: Header) -> Result<Model, GgufError> {
    let Header { version, metadata, tensors, .. } = header;
    let inventory = crate::inventory::inventory(files, &metadata, tensors)?;
    Ok(Model { inventory, metadata, version })
}

/// Reads one file's header.
fn read<F: Files>(files: &F, path: &Path) -> Result<(Header, ModelFile), GgufError> {
    let (file, bytes) = files.open(path)?;
    let mut reader = Reader::new(file, path.to_owned(), bytes.0);
    let header = header::read(&mut reader).map_err(|error| error.in_file(path))?;
    Ok((header, ModelFile { path: text(path)?, bytes }))
}

fn text(path: &Path) -> Result<String, GgufError> {
    path.to_str().map(str::to_owned).ok_or_else(|| GgufError::PathNotText { path: path.to_owned() })
}

/// What a file says about its place in a set.
struct Part {
    /// Counted from 0.
    number: u64,
    count: u64,
    /// Tensors of the whole set.
    tensors: u64,
}

impl Part {
    /// Nothing where the file is a whole model.
    fn of(metadata: &Metadata) -> Result<Option<Self>, GgufError> {
        let count = metadata.unsigned("split.count")?.unwrap_or(0);
        if count <= 1 {
            return Ok(None);
        }
        if count > PARTS_MAX {
            return Err(GgufError::Limit { what: "parts of a split set".into(), found: count, limit: PARTS_MAX });
        }
        let number = metadata.require_unsigned("split.no")?;
        if number >= count {
            return Err(GgufError::wrong_value("split.no", format!("a number below {count}"), number.to_string()));
        }
        let tensors = metadata.require_unsigned("split.tensors.count")?;
        if tensors > TENSORS_MAX {
            let what = "tensors of a split set".to_owned();
            return Err(GgufError::Limit { what, found: tensors, limit: TENSORS_MAX });
        }
        Ok(Some(Self { number, count, tensors }))
    }
}

/// The paths of all parts, in order; names those that are not there.
fn paths<F: Files>(files: &F, path: &Path, part: &Part) -> Result<Vec<PathBuf>, GgufError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((stem, number, count)) = split_name(&name) else {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let wanted = PathBuf::from(part_name(&stem, part.number, part.count));
        let error = GgufError::SplitName { number: part.number + 1, count: part.count, wanted };
        return Err(error.in_file(path));
    };
    let foreign = |what: &str, expected: u64, found: u64| {
        let (what, expected, found) = (what.to_owned(), expected.to_string(), found.to_string());
        GgufError::ForeignShard { what, expected, found }.in_file(path)
    };
    if count != part.count {
        return Err(foreign("split.count", count, part.count));
    }
    if number != part.number + 1 {
        return Err(foreign("split.no (from 0)", number.wrapping_sub(1), part.number));
    }
    let names: Vec<String> = (0..count).map(|number| part_name(stem, number, count)).collect();
    let missing: Vec<String> = names.iter().filter(|name| !files.has(&path.with_file_name(name))).cloned().collect();
    if !missing.is_empty() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Err(GgufError::MissingShards { folder: folder.to_owned(), missing, count }.in_file(path));
    }
    Ok(names.iter().map(|name| path.with_file_name(name)).collect())
}

/// The name of a part, its number counted from 0.
fn part_name(stem: &str, number: u64, count: u64) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", number + 1)
}

/// Splits `NAME-00002-of-00005.gguf` into its stem, 2 and 5.
fn split_name(name: &str) -> Option<(&str, u64, u64)> {
    let digits = |text: &str| {
        let all = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| text.parse().ok()).flatten()
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    Some((stem, digits(number)?, digits(count)?))
}

/// Checks the set's first part against the part that was opened.
fn first(header: Header, opened: &Part) -> Result<(Header, Part), GgufError> {
    let part = same_set(&header.metadata, opened, 0)?;
    Ok((header, part))
}

/// Checks that a file is this part of that set.
fn same_set(metadata: &Metadata, set: &Part, number: u64) -> Result<Part, GgufError> {
    let foreign = |what: &str, expected: String, found: String| {
        Err(GgufError::ForeignShard { what: what.to_owned(), expected, found })
    };
    let Some(part) = Part::of(metadata)? else {
        return foreign("split.count", set.count.to_string(), "1: a whole model".into());
    };
    for (what, expected, found) in [
        ("split.count", set.count, part.count),
        ("split.no (from 0)", number, part.number),
        ("split.tensors.count", set.tensors, part.tensors),
    ] {
        if expected != found {
            return foreign(what, expected.to_string(), found.to_string());
        }
    }
    Ok(part)
}

/// Adds a further part's tensors to the whole.
fn join(whole: (Header, Part), part: Header, number: u64) -> Result<(Header, Part), GgufError> {
    let (mut header, set) = whole;
    same_set(&part.metadata, &set, number)?;
    // Further parts usually say nothing of the model; where they do, it must be the same one.
    for key in ["general.architecture", "general.name"] {
        if let (Some(expected), Some(found)) = (header.metadata.text(key)?, part.metadata.text(key)?)
            && expected != found
        {
            let (what, expected, found) = (key.to_owned(), expected.to_owned(), found.to_owned());
            return Err(GgufError::ForeignShard { what, expected, found });
        }
    }
    if header.version != part.version {
        let (expected, found) = (header.version.to_string(), part.version.to_string());
        return Err(GgufError::ForeignShard { what: "GGUF version".into(), expected, found });
    }
    let joined = header.tensors.len() + part.tensors.len();
    if joined as u64 > set.tensors {
        let expected = format!("{joined} or more, as the parts hold");
        return Err(GgufError::wrong_value("split.tensors.count", expected, set.tensors.to_string()));
    }
    header.tensors.extend(part.tensors.into_iter().map(|tensor| Tensor { file: number as u32, ..tensor }));
    Ok((header, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_read_as_they_are_written() {
        assert_eq!(split_name(&part_name("R1-IQ1_S", 1, 5)), Some(("R1-IQ1_S", 2, 5)));
        assert_eq!(split_name("a-of-b-00001-of-00002.gguf"), Some(("a-of-b", 1, 2)));
        for name in ["model.gguf", "m-1-of-2.gguf", "m-00001-of-00002.bin", "m-0000x-of-00002.gguf", "-of-.gguf"] {
            assert_eq!(split_name(name), None, "{name}");
        }
    }
}
