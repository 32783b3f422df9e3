//! Bytes of a header to values: a bounded, buffered reader that checks every claim against what the file has left.
//!
//! Owns the byte order and the caps on lengths. Must never know what a key or tensor means.

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::PathBuf;

use crate::{GgufError, Strings};

/// Bytes of the longest string: a chat template is a few KiB, a tokenizer kept as JSON some MiB.
pub(crate) const STRING_BYTES_MAX: u64 = 16 << 20;
/// Elements of the longest array: the largest vocabularies have 256 Ki tokens, and as many merge rules or twice that.
pub(crate) const ARRAY_ELEMENTS_MAX: u64 = 64 << 20;
/// Memory that all metadata and tensor names of one file may take here.
pub(crate) const MEMORY_MAX: u64 = 512 << 20;

/// How much is read at once; also how far memory runs ahead of bytes really read.
const CHUNK: usize = 64 << 10;

/// The part of the header being read, for messages. Only an error pays for its text.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    Version,
    Counts,
    Key(u64),
    Value(&'a str),
    TensorName(u64),
    Tensor(&'a str),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("the version"),
            Self::Counts => f.write_str("the counts of tensors and metadata entries"),
            Self::Key(index) => write!(f, "metadata entry {index}"),
            Self::Value(key) => write!(f, "the value of metadata key {key}"),
            Self::TensorName(index) => write!(f, "the entry of tensor {index}"),
            Self::Tensor(name) => write!(f, "the entry of tensor {name}"),
        }
    }
}

/// Reads a header forwards. Knows how long the file is and how much memory its contents may still take.
pub(crate) struct Reader<R> {
    inner: BufReader<R>,
    path: PathBuf,
    position: u64,
    length: u64,
    memory_left: u64,
    text: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// A reader over a file of this length, from its start.
    pub(crate) fn new(inner: R, path: PathBuf, length: u64) -> Self {
        let inner = BufReader::with_capacity(CHUNK, inner);
        Self { inner, path, position: 0, length, memory_left: MEMORY_MAX, text: Vec::new() }
    }

    /// Bytes read so far.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// The file's length.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Fails unless the file has `need` bytes left.
    fn have(&self, need: u64, what: What) -> Result<(), GgufError> {
        let left = self.length.saturating_sub(self.position);
        if need <= left {
            return Ok(());
        }
        Err(GgufError::HeaderCut { what: what.to_string(), offset: self.position, need, left })
    }

    /// Fails unless `count` things of `least` bytes or more can be left in the file.
    pub(crate) fn have_all(&self, count: u64, least: u64, what: What) -> Result<(), GgufError> {
        self.have(count.saturating_mul(least), what)
    }

    /// Counts memory that what was read will take.
    pub(crate) fn spend(&mut self, memory: u64) -> Result<(), GgufError> {
        self.memory_left = self.memory_left.checked_sub(memory).ok_or_else(|| GgufError::Limit {
            what: "bytes of memory for metadata and tensor names".into(),
            found: MEMORY_MAX - self.memory_left + memory,
            limit: MEMORY_MAX,
        })?;
        Ok(())
    }

    /// Fills `into`, or says that the file ends here although its length promised more (it shrank meanwhile).
    fn fill(&mut self, into: &mut [u8], what: What) -> Result<(), GgufError> {
        self.have(into.len() as u64, what)?;
        self.inner.read_exact(into).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => {
                GgufError::HeaderCut { what: what.to_string(), offset: self.position, need: into.len() as u64, left: 0 }
            }
            _ => GgufError::Io { path: self.path.clone(), source },
        })?;
        self.position += into.len() as u64;
        Ok(())
    }

    /// The first bytes that are buffered, at most `count`, without passing them.
    pub(crate) fn peek(&mut self, count: usize) -> Result<&[u8], GgufError> {
        let Self { inner, path, .. } = self;
        let buffer = inner.fill_buf().map_err(|source| GgufError::Io { path: path.clone(), source })?;
        Ok(&buffer[..buffer.len().min(count)])
    }

    /// The next `N` bytes.
    pub(crate) fn bytes<const N: usize>(&mut self, what: What) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// The next 32-bit number.
    pub(crate) fn u32(&mut self, what: What) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    /// The next 64-bit number.
    pub(crate) fn u64(&mut self, what: What) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    /// The next string, of any bytes and at most `limit` of them; valid until the next read.
    pub(crate) fn string(&mut self, limit: u64, what: What) -> Result<&[u8], GgufError> {
        let length = self.u64(what)?;
        if length > limit {
            return Err(GgufError::Limit { what: format!("bytes of a string in {what}"), found: length, limit });
        }
        self.have(length, what)?;
        self.spend(length)?;
        // The buffer is kept between strings and grows only as bytes arrive: no length is trusted with memory.
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        while (text.len() as u64) < length {
            let start = text.len();
            text.resize(start + CHUNK.min(length as usize - start), 0);
            self.fill(&mut text[start..], what)?;
        }
        self.text = text;
        Ok(&self.text)
    }

    /// `count` strings of any bytes.
    pub(crate) fn strings(&mut self, count: u64, what: What) -> Result<Strings, GgufError> {
        self.have_all(count, 8, what)?;
        self.spend(count * 4)?;
        let mut strings = Strings::default();
        for _ in 0..count {
            strings.push(self.string(STRING_BYTES_MAX, what)?);
        }
        strings.shrink();
        Ok(strings)
    }

    /// `count` numbers of `N` bytes, each made from its bytes by `make`.
    pub(crate) fn numbers<const N: usize, T>(
        &mut self,
        count: u64,
        what: What,
        make: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        self.have_all(count, N as u64, what)?;
        self.spend(count * size_of::<T>() as u64)?;
        let mut numbers = Vec::new();
        let mut chunk = [0; 4096];
        let mut left = count as usize;
        while left > 0 {
            let take = left.min(chunk.len() / N);
            self.fill(&mut chunk[..take * N], what)?;
            let (whole, _) = chunk[..take * N].as_chunks::<N>();
            numbers.extend(whole.iter().map(|bytes| make(*bytes)));
            left -= take;
        }
        numbers.shrink_to_fit();
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Error};

    use super::*;

    const WHAT: What = What::Value("k");

    fn reader<R: Read>(inner: R, length: u64) -> Reader<R> {
        Reader::new(inner, "model.gguf".into(), length)
    }

    /// Gives one byte at a time.
    struct Drip<R>(R);

    impl<R: Read> Read for Drip<R> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let one = into.len().min(1);
            self.0.read(&mut into[..one])
        }
    }

    /// Always fails.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(Error::other("the drive is gone"))
        }
    }

    #[test]
    fn short_reads_change_nothing() {
        let bytes: Vec<u8> = [2u64, 3].iter().flat_map(|n| n.to_le_bytes()).chain(*b"abc").collect();
        let mut drip = reader(Drip(Cursor::new(&bytes)), bytes.len() as u64);
        assert_eq!(drip.u64(WHAT).unwrap(), 2);
        assert_eq!(drip.string(8, WHAT).unwrap(), b"abc");
        assert_eq!(drip.position(), 19);
    }

    #[test]
    fn memory_is_refused_before_it_is_taken() {
        // Bytes that are there, of which each would take eight in memory.
        let mut endless = reader(std::io::repeat(1), u64::MAX);
        endless.spend(1).unwrap();
        let error = endless.numbers(ARRAY_ELEMENTS_MAX, WHAT, |[byte]: [u8; 1]| i64::from(byte)).unwrap_err();
        assert_eq!(error.name(), "Limit", "{error}");
        assert_eq!(endless.position(), 0);
    }

    #[test]
    fn strings_end_at_the_cap_of_memory() {
        // Every string claims 0x0101…01 bytes, beyond the longest.
        let mut endless = reader(std::io::repeat(1), u64::MAX);
        let error = endless.strings(1 << 20, WHAT).unwrap_err();
        assert_eq!(error.name(), "Limit", "{error}");
        // Empty strings: a place for the end of each, and nothing more.
        let mut empty = reader(std::io::repeat(0), u64::MAX);
        assert_eq!(empty.strings(1 << 20, WHAT).unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_file_that_shrinks_is_cut() {
        let mut shrunk = reader(Cursor::new([0; 10]), 100);
        shrunk.u64(WHAT).unwrap();
        let error = shrunk.u64(WHAT).unwrap_err();
        assert!(matches!(error, GgufError::HeaderCut { offset: 8, need: 8, left: 0, .. }), "{error}");
    }

    #[test]
    fn failures_of_the_drive_name_the_file() {
        let text = reader(Broken, 100).u32(WHAT).unwrap_err().to_string();
        assert!(text.starts_with("model.gguf: the drive is gone\n\nhint: "), "{text}");
        assert_eq!(reader(Broken, 100).peek(4).unwrap_err().name(), "Io");
    }
}
