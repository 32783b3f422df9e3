//! A file read by positioned reads, past the page cache or so that its pages do not linger there.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::{ByteSource, ReadError};

/// A regular file. Reads are positioned (no shared cursor), so that any number of threads may read at once.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    direct: Result<File, io::Error>,
    bytes: u64,
    written: Option<SystemTime>,
    drive: u64,
}

impl FileSource {
    /// Opens a file to read at random places, past the page cache where the system does that.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_as(path, direct::open)
    }

    /// The same through the page cache.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_buffered(path: &Path) -> io::Result<Self> {
        Self::open_as(path, |_| Err(io::Error::other("direct reads were not asked for")))
    }

    fn open_as(path: &Path, direct: impl Fn(&Path) -> io::Result<File>) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        advice::reads_are_scattered(&file);
        let direct = direct(path).and_then(|direct| same(&file, &direct).map(|()| direct));
        Ok(Self { file, direct, bytes: metadata.len(), written: metadata.modified().ok(), drive: drive_of(&metadata) })
    }
}

/// The number of a file's file system; one for all where systems have none.
fn drive_of(metadata: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::dev(metadata);
    #[cfg(not(unix))]
    return {
        let _ = metadata;
        0
    };
}

/// Refuses a second file that took the first one's name in between.
fn same(first: &File, second: &File) -> io::Result<()> {
    let (first, second) = (first.metadata()?, second.metadata()?);
    if (first.len(), first.modified().ok()) == (second.len(), second.modified().ok()) {
        return Ok(());
    }
    Err(io::Error::other("the file was replaced while it was opened"))
}

impl ByteSource for FileSource {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        positioned_read(&self.file, offset, buf)
    }

    fn direct(&self) -> Option<&File> {
        self.direct.as_ref().ok()
    }

    fn why_not_direct(&self) -> Option<String> {
        self.direct.as_ref().err().map(ToString::to_string)
    }

    fn drive(&self) -> u64 {
        self.drive
    }

    fn verify(&self) -> Result<(), ReadError> {
        let now = self.file.metadata();
        let same = now.is_ok_and(|now| (now.len(), now.modified().ok()) == (self.bytes, self.written));
        if same { Ok(()) } else { Err(ReadError::Rewritten) }
    }

    fn forget(&self, offset: u64, len: u64) {
        advice::not_again(&self.file, offset, len);
    }
}

/// Reads once from an offset, whatever the file's cursor.
pub(super) fn positioned_read(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, buf, offset);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, buf, offset);
}

/// Reads past the page cache.
#[cfg(target_os = "linux")]
mod direct {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use rustix::fs::{Mode, OFlags, open as system_open};

    use super::super::{Buffer, PAGE};
    use super::positioned_read;

    /// Opens a file for such reads, and tries one: some file systems refuse only then.
    pub(super) fn open(path: &Path) -> io::Result<File> {
        let file = File::from(system_open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?);
        let mut page = Buffer::try_new(PAGE).map_err(io::Error::other)?;
        positioned_read(&file, 0, &mut page)?;
        Ok(file)
    }
}

/// No such reads elsewhere yet.
#[cfg(not(target_os = "linux"))]
mod direct {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    pub(super) fn open(_: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
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
        assert!(FileSource::open_buffered(&path).unwrap().direct().is_none());
        assert!(FileSource::open(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn a_file_that_was_written_to_is_not_what_was_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let open = || {
            std::fs::write(&path, [1; 5000]).unwrap();
            FileSource::open(&path).unwrap()
        };
        let mut buf = [0; 100];
        let source = open();
        read_exact_at(&source, 0, &mut buf).unwrap();
        // Another file under its name is another file.
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        let other = open();
        read_exact_at(&source, 0, &mut buf).unwrap();
        // The clock of file systems ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, [2; 5000]).unwrap();
        assert!(matches!(read_exact_at(&other, 0, &mut buf), Err(ReadError::Rewritten)));
        std::fs::remove_file(folder.path().join("old")).unwrap();
        read_exact_at(&source, 0, &mut buf).unwrap();
    }
}
