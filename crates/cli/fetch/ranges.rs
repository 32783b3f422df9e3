//! Files on the hub read by ranges of bytes, as far as somebody asks.
//!
//! Owns how much is asked for at once. Must never keep a file.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gguf::GgufError;
use plan::Bytes;

use super::FetchError;

/// A file on the hub.
#[derive(Clone, Debug)]
pub(super) struct RangedFile {
    /// Its name for messages: `hf:OWNER/REPO/FILE`.
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    pub(super) url: String,
    pub(super) token: Option<String>,
}

/// Bytes of the first range of a model; each further range of one file is twice as long.
const FIRST: u64 = 256 << 10;
/// Bytes of the first range of a set's further parts, which have no vocabulary: tensors of some twenty layers take so many.
const FURTHER: u64 = 32 << 10;
/// Bytes of the longest range: the header of a model of 671B has 6 to 10 MiB.
const LONGEST: u64 = 4 << 20;
/// How often a range is asked for before the network is given up.
const TRIES: u32 = 3;

/// The header of a model whose files are these, in the order of the split.
pub(super) fn header(files: Vec<RangedFile>) -> anyhow::Result<gguf::Model> {
    let first = files.first().map(|file| file.path.clone()).unwrap_or_default();
    let failure = Cell::new(None);
    let model = gguf::open_among(&Ranged { files, failure: &failure }, &first);
    // What the network did is the cause of what the header then lacks.
    match (model, failure.take()) {
        (Err(_), Some(failure)) => Err(failure.into()),
        (model, _) => Ok(model?),
    }
}

/// Files by name, and the last failure of the network among them.
struct Ranged<'a> {
    files: Vec<RangedFile>,
    failure: &'a Cell<Option<FetchError>>,
}

impl<'a> gguf::Files for Ranged<'a> {
    type Reader = RangeReader<'a>;

    fn open(&self, path: &Path) -> Result<(RangeReader<'a>, Bytes), GgufError> {
        let missing = || GgufError::Io { path: path.to_owned(), source: io::ErrorKind::NotFound.into() };
        let file = self.files.iter().find(|file| file.path == path).ok_or_else(missing)?;
        let first = self.files.first().is_some_and(|first| first.path == path);
        let agent = ureq::Agent::new_with_defaults();
        let reader = RangeReader {
            file: file.clone(),
            agent,
            asked: 0,
            next: if first { FIRST } else { FURTHER },
            here: io::Cursor::default(),
            failure: self.failure,
        };
        Ok((reader, file.bytes))
    }

    fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.path == path)
    }
}

/// Reads a file forwards.
struct RangeReader<'a> {
    file: RangedFile,
    agent: ureq::Agent,
    /// Bytes asked for so far.
    asked: u64,
    /// Bytes of the next range.
    next: u64,
    here: io::Cursor<Vec<u8>>,
    failure: &'a Cell<Option<FetchError>>,
}

impl Read for RangeReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.here.position() == self.here.get_ref().len() as u64 && self.asked < self.file.bytes.0 {
            let end = self.file.bytes.0.min(self.asked + self.next);
            self.here = io::Cursor::new(self.fetch(self.asked, end)?);
            (self.asked, self.next) = (end, LONGEST.min(2 * self.next));
        }
        self.here.read(into)
    }
}

impl RangeReader<'_> {
    /// The bytes from `start` to before `end`.
    fn fetch(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.fetch_once(start, end) {
                Err(FetchError::Transfer { .. }) if tries < TRIES => {}
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    let text = error.to_string();
                    self.failure.set(Some(error));
                    return Err(io::Error::other(text));
                }
            }
        }
    }

    fn fetch_once(&self, start: u64, end: u64) -> Result<Vec<u8>, FetchError> {
        let what = || format!("the header of {}", self.file.path.display());
        let failed = |error: &ureq::Error| FetchError::Transfer { what: what(), why: error.to_string() };
        let mut request = self.agent.get(&self.file.url).header("range", format!("bytes={start}-{}", end - 1));
        if let Some(token) = &self.file.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = request.call().map_err(|error| failed(&error))?;
        let wrong = |what: String| Err(FetchError::Answer { what, url: self.file.url.clone() });
        // A whole file in place of a part is not waited for.
        if response.status() != 206 {
            return wrong(format!("status {} where a part of the file was asked for", response.status()));
        }
        let wanted = end - start;
        let bytes =
            response.body_mut().with_config().limit(wanted + 1).read_to_vec().map_err(|error| failed(&error))?;
        if bytes.len() as u64 == wanted { Ok(bytes) } else { wrong(format!("{} of {wanted} bytes", bytes.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::HubName;
    use super::super::hub::Hub;
    use super::super::tiny::{TinyHub, parts_of_a_set};
    use super::*;
    use crate::failure::{Exit, exit};

    /// A small model with zeros behind it, so that its file is longer than one range.
    fn fixture() -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-rope3-tied/model-bf16.gguf");
        let mut bytes = std::fs::read(path).expect("a fixture");
        bytes.resize(bytes.len().max(3 << 20), 0);
        bytes
    }

    fn read(tiny: &TinyHub, name: &str) -> anyhow::Result<gguf::Model> {
        let cache = tempfile::tempdir().expect("a folder");
        let name: HubName = name.parse().expect("a name");
        header(Hub::new(Some(&tiny.address), None, cache.path()).expect("a hub").look(&name)?)
    }

    #[test]
    fn a_header_comes_without_the_weights() {
        let bytes = fixture();
        let tiny = TinyHub::new(vec![("m-Q4_0.gguf".to_owned(), bytes.clone())], "abc");
        let model = read(&tiny, "hf:o/r:Q4_0").expect("a header");
        assert_eq!(model.inventory.files[0].path, "hf:o/r/m-Q4_0.gguf");
        assert_eq!(model.inventory.files[0].bytes, Bytes(bytes.len() as u64));
        let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-rope3-tied/model-bf16.gguf");
        assert_eq!(model.inventory.tensors, gguf::open(&local).expect("a model").inventory.tensors);
        assert_eq!(tiny.asked(), ["0-0", "0-262143"], "its length, and one range");
    }

    #[test]
    fn headers_of_all_parts_come_without_the_weights() {
        let parts = parts_of_a_set("UD-Q4_0/m-UD-Q4_0", 3);
        let tiny = TinyHub::new(parts.clone(), "abc");
        let model = read(&tiny, "hf:o/r:UD-Q4_0").expect("a header");
        let files = model.inventory.files.iter().map(|file| (file.path.as_str(), file.bytes));
        let expected: Vec<_> =
            parts.iter().map(|(path, bytes)| (format!("hf:o/r/{path}"), Bytes(bytes.len() as u64))).collect();
        assert!(files.eq(expected.iter().map(|(path, bytes)| (path.as_str(), *bytes))), "{:?}", model.inventory.files);
        assert_eq!(tiny.asked(), ["0-0", "0-0", "0-0", "0-262143", "0-32767", "0-32767"]);

        // Half a set on the hub, and a part that is not of this set.
        let half = TinyHub::new(parts[..2].to_vec(), "abc");
        let error = read(&half, "hf:o/r:UD-Q4_0").expect_err("a part is missing");
        assert!(error.to_string().contains("2 of 3 files") && error.to_string().contains("\n\nhint: "), "{error}");
        let mut swapped = parts;
        swapped[2].1 = swapped[1].1.clone();
        let error = read(&TinyHub::new(swapped, "abc"), "hf:o/r:UD-Q4_0").expect_err("one part twice");
        assert!(error.to_string().contains("split.no") && error.to_string().contains("00003-of-00003"), "{error}");
        assert_eq!(exit(&error), Exit::Model);
    }

    #[test]
    fn what_the_hub_does_wrong_is_named() {
        let whole = TinyHub::without_ranges(vec![("m-Q4_0.gguf".to_owned(), fixture())]);
        let error = read(&whole, "hf:o/r:Q4_0").expect_err("no range");
        assert!(error.to_string().contains("status 200 OK where a part"), "{error}");
        assert_eq!(exit(&error), Exit::Io);

        let page = TinyHub::new(vec![("m-Q4_0.gguf".to_owned(), b"<html>not a model</html>".repeat(100))], "abc");
        let error = read(&page, "hf:o/r:Q4_0").expect_err("no model");
        assert!(
            error.to_string().starts_with("hf:o/r/m-Q4_0.gguf: not a GGUF file: it looks like a web page"),
            "{error}"
        );
        assert_eq!(exit(&error), Exit::Model);

        let error = read(&page, "hf:o/r:Q8_0").expect_err("no such file");
        assert!(error.to_string().contains("o/r has no Q8_0 GGUF"), "{error}");
    }
}
