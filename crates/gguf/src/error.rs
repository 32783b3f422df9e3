//! What can be wrong with a model file.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use plan::Bytes;

/// What a file that is no GGUF seems to be instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookalike {
    /// Hugging Face's tensor format.
    Safetensors,
    /// A checkpoint of torch: a zip archive with a pickle inside, or a bare pickle.
    Pickle,
    /// A web page, such as a login or error page that was saved under the model's name.
    WebPage,
    /// The small text that git keeps in place of a large file.
    LfsPointer,
    /// The formats before GGUF: ggml, ggmf, ggjt.
    LegacyGgml,
    /// A compressed archive.
    Archive,
    /// Text or JSON.
    Text,
    /// Zeros: space that a download set aside and has not filled.
    Zeros,
    /// Nothing known.
    Unknown,
}

impl Lookalike {
    /// What to do about it.
    const fn hint(self) -> &'static str {
        match self {
            Self::Safetensors | Self::Pickle => {
                "get the model's GGUF release, or convert it with llama.cpp's convert_hf_to_gguf.py"
            }
            Self::WebPage => "the download got a page instead of the file; check the address and the access rights",
            Self::LfsPointer => "run `git lfs pull` in that checkout, or get the file itself with `plimsoll pull`",
            Self::LegacyGgml => "formats before GGUF are not read; get a GGUF release of the model",
            Self::Archive => "unpack it first",
            Self::Zeros => "the download has not finished; resume it with the program that started it",
            Self::Text | Self::Unknown => "give the path of a file whose name ends in .gguf",
        }
    }
}

impl fmt::Display for Lookalike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "it looks like a safetensors file",
            Self::Pickle => "it looks like a PyTorch checkpoint",
            Self::WebPage => "it looks like a web page",
            Self::LfsPointer => "it is a git-LFS pointer, not the file it points to",
            Self::LegacyGgml => "it is in a ggml format older than GGUF",
            Self::Archive => "it looks like a compressed archive",
            Self::Text => "it looks like text",
            Self::Zeros => "it starts with zeros",
            Self::Unknown => "its first bytes are of no format known here",
        })
    }
}

/// One thing that is wrong with a model file, with where, why and a way out.
///
/// What [`crate::open`] returns names its file: [`Self::InFile`] around the cause, or a variant with a path.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be read.
    #[error("{path}: {source}\n\nhint: {hint}", path = path.display(), hint = io_hint(source.kind()))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The path leads to a folder, a pipe or a device.
    #[error("{path}: not a regular file\n\nhint: give the path of the .gguf file itself", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The path cannot be written down in plans and messages.
    #[error("{path}: the path is not UTF-8\n\nhint: rename the file or its folder", path = path.display())]
    PathNotText {
        /// The path.
        path: PathBuf,
    },
    /// Something is wrong inside this file.
    #[error("{path}: {cause}", path = path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong there.
        cause: Box<GgufError>,
    },

    /// The file does not start with `GGUF`.
    #[error("not a GGUF file: {looks}\n\nhint: {hint}", hint = looks.hint())]
    NotGguf {
        /// What it seems to be.
        looks: Lookalike,
    },
    /// The file is for machines with the other byte order.
    #[error(
        "GGUF version {version} in big-endian byte order; only little-endian files are read\n\n\
         hint: get the usual little-endian release, or convert with gguf-py's gguf-convert-endian"
    )]
    BigEndian {
        /// The version once its bytes are swapped.
        version: u32,
    },
    /// The file's version is older or newer than what is read here.
    #[error("GGUF version {version}; versions 2 and 3 are read\n\nhint: {hint}", hint = version_hint(*version))]
    Version {
        /// The version found.
        version: u32,
    },
    /// The header claims more than the file has left.
    #[error(
        "the file ends inside {what}: at byte {offset} it needs {need} bytes or more, and {left} are left\n\n\
         hint: the download was cut or the file is damaged; resume it with `plimsoll pull` or get it again"
    )]
    HeaderCut {
        /// The part of the header that is cut.
        what: String,
        /// Where that part goes on.
        offset: u64,
        /// The fewest bytes that it needs from there.
        need: u64,
        /// Bytes left in the file from there.
        left: u64,
    },
    /// The header is whole and the tensors behind it are not.
    #[error(
        "the file is cut: it is {sizes}; tensor {tensor} is the first that is not whole\n\n\
         hint: resume the download with `plimsoll pull` or the program that started it",
        sizes = of_sizes(*have, *need)
    )]
    DataCut {
        /// The first tensor, by offset, that reaches beyond the file.
        tensor: String,
        /// The file's length.
        have: Bytes,
        /// The length it must have.
        need: Bytes,
    },
    /// A count or length is beyond what any sound model has.
    #[error("{what}: {found}, and at most {limit} are read\n\nhint: the file is damaged or made to harm; get it again")]
    Limit {
        /// What is counted.
        what: String,
        /// The count found.
        found: u64,
        /// The cap.
        limit: u64,
    },

    /// A metadata key is empty or no UTF-8.
    #[error("metadata entry {index}: its key is {problem}\n\nhint: the file is damaged; get it again")]
    BadKey {
        /// The entry, counted from 0.
        index: u64,
        /// What is wrong with the key.
        problem: &'static str,
    },
    /// A metadata key comes twice.
    #[error("metadata key {key} comes twice\n\nhint: the file was edited wrongly; get it again")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata value has a type number that GGUF does not have.
    #[error(
        "metadata key {key}: no value type has the number {found}\n\nhint: the file is damaged or newer than this program"
    )]
    ValueType {
        /// The key.
        key: String,
        /// The number found.
        found: u32,
    },
    /// An array of arrays.
    #[error(
        "metadata key {key}: arrays inside arrays are not read\n\nhint: no known model needs them; get the file again"
    )]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A string value is no UTF-8.
    #[error("metadata key {key}: its text is not UTF-8\n\nhint: the file is damaged; get it again")]
    NotText {
        /// The key.
        key: String,
    },
    /// A metadata key that must be there is not.
    #[error("metadata key {key} is missing\n\nhint: the file was cut or converted wrongly; get it again")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value has the wrong type or an impossible value.
    #[error(
        "metadata key {key}: expected {expected}, found {found}\n\nhint: the file was converted or edited wrongly; get it again"
    )]
    WrongValue {
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The file is a GGUF, and holds something else than a model.
    #[error("this file holds {found}, not a language model\n\nhint: give the model's own file")]
    NotAModel {
        /// What it holds.
        found: String,
    },

    /// A tensor's name is empty or no UTF-8.
    #[error("tensor {index}: its name is {problem}\n\nhint: the file is damaged; get it again")]
    BadTensorName {
        /// The tensor, counted from 0.
        index: u64,
        /// What is wrong with the name.
        problem: &'static str,
    },
    /// A tensor's name comes twice.
    #[error("tensor {tensor} comes twice\n\nhint: the file was merged or edited wrongly; get it again")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has a type number that GGUF does not have, or no longer has.
    #[error(
        "tensor {tensor}: no tensor type has the number {found}\n\n\
         hint: the file is damaged, or made for a fork of llama.cpp or with a type that was removed; get another quantization"
    )]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The number found.
        found: u32,
    },
    /// A tensor's dimensions are impossible.
    #[error("tensor {tensor}: {problem}\n\nhint: the file is damaged; get it again")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// What is wrong with its dimensions.
        problem: String,
    },
    /// A tensor's offset is impossible.
    #[error("tensor {tensor}: offset {offset} is {problem}\n\nhint: the file is damaged; get it again")]
    TensorOffset {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the tensor data, as the file gives it.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Two tensors share bytes.
    #[error("tensors {first} and {second} overlap\n\nhint: the file is damaged; get it again")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts inside it.
        second: String,
    },
    /// A tensor contradicts the metadata.
    #[error(
        "tensor {tensor}: expected {expected}, found {found}\n\nhint: the file was converted or edited wrongly; get it again"
    )]
    TensorMismatch {
        /// The tensor.
        tensor: String,
        /// What the metadata makes of it.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A part of a split set is not named as one.
    #[error(
        "it is part {number} of a split set of {count}, but is not named so\n\n\
         hint: name it {wanted}, beside the other parts; parts joined with `cat` cannot be read, \
         `llama-gguf-split --merge` joins them",
        wanted = wanted.display()
    )]
    SplitName {
        /// Which part it is, from 1.
        number: u64,
        /// Parts in the set.
        count: u64,
        /// A name that would do.
        wanted: PathBuf,
    },
    /// Parts of a split set are not there.
    #[error(
        "{n} of {count} parts of the model are missing in {folder}: {names}\n\n\
         hint: `plimsoll pull` gets every part; all of them belong in one folder",
        n = missing.len(), folder = folder.display(), names = listed(missing)
    )]
    MissingShards {
        /// The folder looked at.
        folder: PathBuf,
        /// Their file names.
        missing: Vec<String>,
        /// Parts in the set.
        count: u64,
    },
    /// A part that does not belong to the set that it lies in.
    #[error(
        "this part does not belong to the set: {what} is {found}, expected {expected}\n\n\
         hint: parts of different releases or quantizations were mixed or renamed; get this part again"
    )]
    ForeignShard {
        /// What gives it away.
        what: String,
        /// What the rest of the set says.
        expected: String,
        /// What this part says.
        found: String,
    },
}

impl GgufError {
    /// [`Self::MissingKey`] for this key.
    #[must_use]
    pub fn missing_key(key: &str) -> Self {
        Self::MissingKey { key: key.to_owned() }
    }

    /// [`Self::WrongValue`] for a value of another type.
    #[must_use]
    pub fn wrong_type(key: &str, expected: &str, found: &str) -> Self {
        Self::wrong_value(key, expected.to_owned(), found.to_owned())
    }

    /// [`Self::WrongValue`] for this key.
    #[must_use]
    pub fn wrong_value(key: &str, expected: String, found: String) -> Self {
        Self::WrongValue { key: key.to_owned(), expected, found }
    }

    /// The error itself, without the file that it was found in.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::InFile { cause, .. } => cause.cause(),
            other => other,
        }
    }

    /// The name of the variant of [`Self::cause`], for tables of tests and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Io { .. } => "Io",
            Self::NotAFile { .. } => "NotAFile",
            Self::PathNotText { .. } => "PathNotText",
            Self::InFile { cause, .. } => cause.name(),
            Self::NotGguf { .. } => "NotGguf",
            Self::BigEndian { .. } => "BigEndian",
            Self::Version { .. } => "Version",
            Self::HeaderCut { .. } => "HeaderCut",
            Self::DataCut { .. } => "DataCut",
            Self::Limit { .. } => "Limit",
            Self::BadKey { .. } => "BadKey",
            Self::DuplicateKey { .. } => "DuplicateKey",
            Self::ValueType { .. } => "ValueType",
            Self::NestedArray { .. } => "NestedArray",
            Self::NotText { .. } => "NotText",
            Self::MissingKey { .. } => "MissingKey",
            Self::WrongValue { .. } => "WrongValue",
            Self::NotAModel { .. } => "NotAModel",
            Self::BadTensorName { .. } => "BadTensorName",
            Self::DuplicateTensor { .. } => "DuplicateTensor",
            Self::TensorType { .. } => "TensorType",
            Self::TensorShape { .. } => "TensorShape",
            Self::TensorOffset { .. } => "TensorOffset",
            Self::Overlap { .. } => "Overlap",
            Self::TensorMismatch { .. } => "TensorMismatch",
            Self::SplitName { .. } => "SplitName",
            Self::MissingShards { .. } => "MissingShards",
            Self::ForeignShard { .. } => "ForeignShard",
        }
    }

    /// Whether the system failed (exit code 5) rather than the model (exit code 3).
    #[must_use]
    pub const fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::NotAFile { .. })
    }

    /// This error in this file, unless it names its file already.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Io { .. } | Self::NotAFile { .. } | Self::PathNotText { .. } | Self::InFile { .. } => self,
            cause => Self::InFile { path: path.to_owned(), cause: Box::new(cause) },
        }
    }
}

const fn io_hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "check the path; `plimsoll pull` gets models from the hub",
        ErrorKind::PermissionDenied => "check who may read the file and its folders",
        _ => "the drive or the share that holds the file failed; the system's log may say more",
    }
}

const fn version_hint(version: u32) -> &'static str {
    if version < 2 { "the file is from 2023; get a newer release of the model" } else { "a newer plimsoll may read it" }
}

/// `3.1 of 4.7 GB`, in the decimal unit that download pages use.
fn of_sizes(have: Bytes, need: Bytes) -> String {
    let (unit, name) = match need.0 {
        0..1_000_000 => return format!("{} of {} bytes", have.0, need.0),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    let (short, full) = (have.as_f64() / unit, need.as_f64() / unit);
    // Two sizes that would print alike tell nothing: then bytes.
    if format!("{short:.1}") == format!("{full:.1}") {
        format!("{} of {} bytes", have.0, need.0)
    } else {
        format!("{short:.1} of {full:.1} {name}")
    }
}

/// The first names of a list, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = names.len().saturating_sub(SHOWN);
    let first = names[..names.len().min(SHOWN)].join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_a_cut_file_never_print_alike() {
        for (have, need, text) in [
            (3_100_000_000, 4_700_000_000, "3.1 of 4.7 GB"),
            (98_000_000, 98_362_432, "98.0 of 98.4 MB"),
            (98_362_431, 98_362_432, "98362431 of 98362432 bytes"),
            (12, 400, "12 of 400 bytes"),
        ] {
            assert_eq!(of_sizes(Bytes(have), Bytes(need)), text);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (1..=10).map(|n| format!("p{n}")).collect();
        assert_eq!(listed(&names), "p1, p2, p3, p4, p5, p6, p7, p8 and 2 more");
        assert_eq!(listed(&names[..2]), "p1, p2");
    }
}
