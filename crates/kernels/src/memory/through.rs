//! A file from one end to the other at the drive's rate: ranges in order, several of them under way.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::{AllocError, Buffer, ByteSource, Depth, Landed, Method, Queue, QueueGone, ReadError, Reading};

/// Bytes of one range, at most, and how many are under way.
const STEP: u64 = 2 << 20;
const STEPS: usize = 12;

/// Why ranges were not read to their end.
#[derive(Debug, thiserror::Error)]
pub enum ThroughError<E> {
    /// There was no memory for buffers.
    #[error("{0}")]
    Memory(#[from] AllocError),
    /// Bytes could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// Reads were lost.
    #[error("{0}")]
    Gone(#[from] QueueGone),
    /// Whoever takes the bytes failed.
    #[error("{0}")]
    Taker(E),
}

/// Reads `ranges` of a source in their order and hands them to `take`, each in one part or several: the number of the range and bytes.
/// Ranges without bytes are left out.
///
/// # Errors
/// The first failure of a read or of `take`.
pub fn read_through<E>(
    source: &Arc<dyn ByteSource>,
    ranges: &[Range<u64>],
    mut take: impl FnMut(usize, &[u8]) -> Result<(), E>,
) -> Result<(), ThroughError<E>> {
    let mut queue = Queue::open(vec![Arc::clone(source)], Depth::USUAL, Method::Uring);
    let mut free = Buffer::try_parts(Queue::room(STEP as usize), STEPS)?;
    let mut steps = ranges.iter().enumerate().flat_map(|(index, range)| {
        let cut = move |start| (index, start, STEP.min(range.end - start));
        (range.start..range.end).step_by(STEP as usize).map(cut)
    });
    // Which range each step that was asked for belongs to, from the next one to be taken on.
    let mut asked = VecDeque::new();
    let (mut next, mut turn) = (0, 0);
    let (mut early, mut landed): (Vec<Landed>, Vec<Landed>) = (Vec::new(), Vec::new());
    loop {
        while let Some(buffer) = free.pop() {
            let Some((index, offset, length)) = steps.next() else { break };
            queue.add(Reading { tag: next, source: 0, offset, length: length as usize, buffer });
            asked.push_back(index);
            next += 1;
        }
        if turn == next {
            return Ok(());
        }
        queue.begin()?;
        let Some(place) = early.iter().position(|step| step.tag == turn) else {
            queue.step(&mut landed)?;
            early.append(&mut landed);
            continue;
        };
        let Landed { buffer, range, outcome, .. } = early.swap_remove(place);
        outcome?;
        if let Some(index) = asked.pop_front() {
            take(index, &buffer[range]).map_err(ThroughError::Taker)?;
        }
        free.push(buffer);
        turn += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, FaultySource, FileSource};
    use super::*;

    fn read(source: impl ByteSource + 'static, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, ThroughError<String>> {
        let mut found = vec![Vec::new(); ranges.len()];
        let source: Arc<dyn ByteSource> = Arc::new(source);
        read_through(&source, ranges, |index, bytes| {
            assert!(found[index + 1..].iter().all(Vec::is_empty), "in order");
            found[index].extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn ranges_come_whole_and_in_order_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let bytes: Vec<u8> = (0..40_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let ranges = [0..1, 1..30_000_001, 5..5, 39_999_999..40_000_000, 7..4_200_000];
        let right: Vec<&[u8]> = ranges.iter().map(|range| &bytes[range.start as usize..range.end as usize]).collect();
        for open in [FileSource::open, FileSource::open_buffered] {
            assert!(read(open(&path).unwrap(), &ranges).unwrap() == right);
            assert!(read(FaultySource::seeded(open(&path).unwrap(), 3), &ranges).unwrap() == right);
            let broken = FaultySource::scheduled(open(&path).unwrap(), &[Fault::Device]);
            assert!(matches!(read(broken, &ranges), Err(ThroughError::Read(ReadError::Io { .. }))));
        }
        let source: Arc<dyn ByteSource> = Arc::new(FileSource::open(&path).unwrap());
        let full = read_through(&source, &ranges, |index, _| if index < 1 { Ok(()) } else { Err("full") });
        assert!(matches!(full, Err(ThroughError::Taker("full"))));
    }
}
