//! How far one range has come, whoever reads it: the pages around it, and what follows a short read, an interrupted one, a failed one.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::{PAGE, ReadError};

/// How often a read that the device failed (`EIO`) is tried.
const DEVICE_TRIES: u32 = 3;
/// The pause before the second try; it doubles after that.
const DEVICE_PAUSE: Duration = Duration::from_millis(5);

/// The whole pages around a range, as direct reads have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    /// Where the first page starts in the file.
    pub(super) offset: u64,
    /// Where the range starts in the first page.
    pub(super) skew: usize,
    /// Bytes from the first page's start to the range's end.
    pub(super) needed: usize,
}

impl Pages {
    pub(super) fn around(offset: u64, length: usize) -> Self {
        let skew = (offset % PAGE as u64) as usize;
        Self { offset: offset - skew as u64, skew, needed: if length == 0 { 0 } else { skew + length } }
    }
}

/// A range on its way.
#[derive(Debug)]
pub(super) struct Progress {
    offset: u64,
    wanted: usize,
    got: usize,
    failures: u32,
    grain: usize,
}

impl Progress {
    /// Of `wanted` bytes from `offset`, read from multiples of `grain` on, counted from there.
    pub(super) fn new(offset: u64, wanted: usize, grain: usize) -> Self {
        Self { offset, wanted, got: 0, failures: 0, grain }
    }

    /// Where the next read starts, counted from the range's start; none where all is there.
    pub(super) fn next(&self) -> Option<usize> {
        (self.got < self.wanted).then(|| self.got / self.grain * self.grain)
    }

    /// Takes what the read from [`Self::next`] came to; gives a pause to make before the following one.
    ///
    /// Short reads go on where they stopped, interrupted ones are made again, and one that the device failed is made three times.
    pub(super) fn heard(&mut self, outcome: io::Result<usize>) -> Result<Option<Duration>, ReadError> {
        let &mut Self { offset, wanted, got, grain, .. } = self;
        match outcome {
            Ok(read) => {
                let reached = got / grain * grain + read;
                // What is there already was read again, and nothing behind it: there is nothing.
                if reached <= got {
                    return Err(ReadError::Changed { offset, wanted, got });
                }
                (self.got, self.failures) = (reached, 0);
                Ok(None)
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(cause) => {
                self.failures += 1;
                if !may_pass(&cause) || self.failures == DEVICE_TRIES {
                    return Err(ReadError::Io { offset, wanted, cause });
                }
                Ok(Some(DEVICE_PAUSE * (1 << (self.failures - 1))))
            }
        }
    }
}

/// Whether a second try may succeed: the device failed, the kernel had no room for the request, or the thread that made it has ended.
fn may_pass(error: &io::Error) -> bool {
    [Errno::IO, Errno::AGAIN, Errno::CANCELED].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_go_on_from_the_grain_below_and_an_end_is_told_from_a_short_read() {
        // Outcomes of reads from grains of 10, and where each of them starts.
        let cases: [(usize, &[usize], &[usize], bool); 6] = [
            (25, &[30], &[0], true),
            (25, &[25], &[0], true),
            (25, &[10, 10, 10], &[0, 10, 20], true),
            (25, &[13, 14, 9], &[0, 10, 20], true),
            (25, &[13, 3], &[0, 10], false),
            (25, &[0], &[0], false),
        ];
        for (wanted, reads, starts, whole) in cases {
            let mut progress = Progress::new(1000, wanted, 10);
            let mut heard = Ok(None);
            for (read, start) in reads.iter().zip(starts) {
                assert_eq!(progress.next(), Some(*start), "{reads:?}");
                heard = progress.heard(Ok(*read));
            }
            assert_eq!(heard.is_ok() && progress.next().is_none(), whole, "{reads:?}: {heard:?}");
        }
    }
}
