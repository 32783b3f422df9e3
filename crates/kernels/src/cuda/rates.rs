//! Reading a card's memory and nothing else: the rate that products are held against.

use super::launch::{Shape, launch};
use super::{CudaError, Slice, SliceMut, Stream};

/// Reads all of `from` by 16 bytes a load (up to 15 last bytes aside). `sink` is there so that the loads have a purpose.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where `from` does not start at a multiple of 16 or `sink` is empty.
pub fn read_through(stream: &Stream, from: Slice<'_, u8>, sink: &mut SliceMut<'_, u32>) -> Result<(), CudaError> {
    assert!(from.address().0.is_multiple_of(16) && !sink.is_empty(), "a slice at a multiple of 16, and a sink");
    let kernel = stream.kernel("read_all")?;
    let shape = Shape::line(stream.info().multiprocessors * 4, 512);
    // SAFETY: so many whole 16 bytes are in `from`; at most one word of `sink` is written.
    unsafe { launch!(stream, kernel, shape, from.address(), (from.len() / 16) as u64, sink.address()) }
}
