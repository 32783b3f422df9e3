//! The seam through which bytes of files come, and the one loop that reads all of a range.

use std::fs::File;
use std::io;
use std::thread;

use super::progress::Progress;

/// Bytes at offsets: a file, or a faulty one for tests.
pub trait ByteSource: Send + Sync {
    /// How many bytes there are, as of the opening.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads into `buf` from `offset`, like `pread`: it may read less than asked; 0 is the end.
    ///
    /// # Errors
    /// What the system says; `Interrupted` may be tried again.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The file that the bytes are in, opened to be read past the page cache: at offsets, lengths and addresses that are multiples of
    /// [`PAGE`](super::PAGE). None where there is no such file.
    fn direct(&self) -> Option<&File> {
        None
    }

    /// Why there is none, where the system refused it.
    fn why_not_direct(&self) -> Option<String> {
        None
    }

    /// The drive that the bytes come from, by the system's number of its file system: sources with different ones are read side by side.
    fn drive(&self) -> u64 {
        0
    }

    /// What came of a read of [`Self::direct`] at `offset`, as its reader is told. Sources that fail on purpose change it.
    ///
    /// # Errors
    /// What the read came to.
    fn outcome(&self, offset: u64, outcome: io::Result<usize>) -> io::Result<usize> {
        let _ = offset;
        outcome
    }

    /// Says whether the bytes are still those of the opening, after they were read.
    ///
    /// # Errors
    /// [`ReadError::Rewritten`] where something wrote to them.
    fn verify(&self) -> Result<(), ReadError> {
        Ok(())
    }

    /// Says that this range need not stay in the page cache. It is advice: nothing may happen.
    fn forget(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// Why a range could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file ended inside the range: it is not the file that was opened.
    #[error(
        "the file ended after {got} of {wanted} bytes at offset {offset}: it was cut or replaced while in use\n\nhint: \
         check that its download is complete and that nothing writes to it"
    )]
    Changed {
        /// Where the range starts.
        offset: u64,
        /// Bytes asked for.
        wanted: usize,
        /// Bytes read before the end.
        got: usize,
    },
    /// Something wrote to the file since it was opened.
    #[error(
        "the file was written to while in use\n\nhint: run again when nothing writes to it; a newer version belongs into a file of its \
         own, renamed when it is complete"
    )]
    Rewritten,
    /// The system failed the read, for `EIO` three times.
    #[error(
        "reading {wanted} bytes at offset {offset} failed: {cause}\n\nhint: check the drive (dmesg, smartctl) and the file"
    )]
    Io {
        /// Where the range starts.
        offset: u64,
        /// Bytes asked for.
        wanted: usize,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
}

/// Fills `buf` from `offset`.
///
/// Short reads go on where they stopped, interrupted ones are tried again, and one that the device failed is tried
/// three times with a short pause.
///
/// # Errors
/// [`ReadError::Changed`] where the source ends first, [`ReadError::Rewritten`] where it is not what was opened,
/// [`ReadError::Io`] for what the system refuses.
pub fn read_exact_at(source: &dyn ByteSource, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
    let mut progress = Progress::new(offset, buf.len(), 1);
    while let Some(from) = progress.next() {
        if let Some(pause) = progress.heard(source.read_at(offset + from as u64, &mut buf[from..]))? {
            thread::sleep(pause);
        }
    }
    source.verify()
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, FaultySource};
    use super::*;

    struct Bytes(Vec<u8>);

    impl ByteSource for Bytes {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            let rest = &self.0[usize::try_from(offset).unwrap().min(self.0.len())..];
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }
    }

    fn hundred() -> Bytes {
        Bytes((0..100).collect())
    }

    #[test]
    fn short_reads_interrupts_and_two_device_errors_do_not_show() {
        let faults = [Fault::Short(3), Fault::Interrupted, Fault::Device, Fault::Device, Fault::Short(1), Fault::None];
        let source = FaultySource::scheduled(hundred(), &faults);
        let mut buf = [0; 40];
        read_exact_at(&source, 20, &mut buf).unwrap();
        assert!(buf.iter().copied().eq(20..60));
        for seed in 0..200 {
            let source = FaultySource::seeded(hundred(), seed);
            let mut buf = [0; 100];
            read_exact_at(&source, 0, &mut buf).unwrap();
            assert!(buf.iter().copied().eq(0..100), "seed {seed}");
        }
    }

    #[test]
    fn a_third_device_error_in_a_row_is_said() {
        let source = FaultySource::scheduled(hundred(), &[Fault::Device]);
        let error = read_exact_at(&source, 0, &mut [0; 8]).unwrap_err();
        assert!(matches!(error, ReadError::Io { offset: 0, wanted: 8, .. }), "{error}");
    }

    #[test]
    fn an_early_end_is_a_changed_file() {
        let source = FaultySource::truncated(hundred(), 50);
        assert_eq!(source.len(), 100);
        let error = read_exact_at(&source, 40, &mut [0; 20]).unwrap_err();
        assert!(matches!(error, ReadError::Changed { offset: 40, wanted: 20, got: 10 }), "{error}");
        read_exact_at(&source, 90, &mut []).unwrap();
    }
}
