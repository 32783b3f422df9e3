//! A file read by positioned reads, whose pages do not linger in the page cache.

use std::fs::File;
use std::io;
use std::path::Path;

use super::ByteSource;

/// A regular file. Reads are positioned (no shared cursor), so that any number of threads may read at once.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    bytes: u64,
}

impl FileSource {
    /// Opens a file to read at random places.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        advice::reads_are_scattered(&file);
        Ok(Self { file, bytes })
    }
}

impl ByteSource for FileSource {
    fn len(&self) -> u64 {
        self.bytes
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.file, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.file, buf, offset)
    }

    fn forget(&self, offset: u64, len: u64) {
        advice::not_again(&self.file, offset, len);
    }
}

/// Advice to the page cache.
#[cfg(target_os = "linux")]
mod advice {
    use std::fs::File;
    use std::num::NonZeroU64;

    use rustix::fs::{Advice, fadvise};

    /// The system's read-ahead would fill the page cache beyond what we ask for: our own reads are large.
    pub(super) fn reads_are_scattered(file: &File) {
        let _ = fadvise(file, 0, None, Advice::Random);
    }

    pub(super) fn not_again(file: &File, offset: u64, len: u64) {
        if let Some(len) = NonZeroU64::new(len) {
            let _ = fadvise(file, offset, Some(len), Advice::DontNeed);
        }
    }
}

/// No advice where the system takes none.
#[cfg(not(target_os = "linux"))]
mod advice {
    use std::fs::File;

    pub(super) fn reads_are_scattered(_: &File) {}

    pub(super) fn not_again(_: &File, _: u64, _: u64) {}
}

#[cfg(test)]
mod tests {
    use super::super::read_exact_at;
    use super::*;

    #[test]
    fn a_file_reads_at_any_offset_and_forgets_harmlessly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let content: Vec<u8> = (0..10_000_u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let source = FileSource::open(&path).unwrap();
        assert_eq!(source.len(), 10_000);
        let mut buf = vec![0; 5_001];
        for offset in [0, 1, 4_999] {
            read_exact_at(&source, offset, &mut buf).unwrap();
            assert_eq!(buf, content[offset as usize..][..5_001]);
            source.forget(offset, 5_001);
        }
        assert!(read_exact_at(&source, 5_000, &mut buf).is_err());
        assert!(FileSource::open(&folder.path().join("absent")).is_err());
    }
}
