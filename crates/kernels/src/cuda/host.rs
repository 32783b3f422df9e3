//! Memory of the host that a card reads and writes by itself: pinned buffers, and copies back to them.

use std::fmt;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::Arc;

use cudarc::driver::sys;
use plan::Bytes;

use super::device::Context;
use super::driver::name_of;
use super::memory::{Plain, bounds};
use super::{CudaError, Event, Gpu, Slice, Stream};

/// `count` numbers in RAM that the system does not move, zero at first; not write-combined, so that the processor reads them at its usual
/// speed. Registered memory is copied as fast and costs a tenth of the time to make: prefer [`Registered`](super::Registered) where there are many bytes.
pub struct Pinned<T: Plain> {
    start: NonNull<T>,
    count: usize,
    context: Arc<Context>,
}

// SAFETY: it owns its numbers alone, as a `Vec` does.
unsafe impl<T: Plain + Send> Send for Pinned<T> {}
// SAFETY: shared access reads only; every write needs `&mut`.
unsafe impl<T: Plain + Sync> Sync for Pinned<T> {}

impl<T: Plain> Pinned<T> {
    /// Room for `count` numbers.
    ///
    /// # Errors
    /// [`CudaError::NotPinned`] where the system refuses.
    pub fn new(gpu: &Gpu, count: usize) -> Result<Self, CudaError> {
        let context = Arc::clone(gpu.context());
        context.bind()?;
        let ordinal = context.info.ordinal;
        let bytes = count.max(1).saturating_mul(size_of::<T>());
        let mut start = null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: a context is current and `start` is writable.
        let result = unsafe { sys::cuMemHostAlloc(&raw mut start, bytes, flags) };
        let refused = || CudaError::NotPinned { ordinal, asked: Bytes(bytes as u64), reason: name_of(result) };
        let start = NonNull::new(start.cast::<T>()).filter(|_| result.result().is_ok()).ok_or_else(refused)?;
        // SAFETY: `bytes` bytes from `start` are ours, aligned to a page; zeros are a `T`.
        unsafe { start.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { start, count, context })
    }

    /// Part of it, to copy to a card.
    ///
    /// # Panics
    /// Where the range is not within it.
    #[must_use]
    pub fn part(&self, range: impl RangeBounds<usize>) -> PinnedSlice<'_, T> {
        let (first, count) = bounds(&range, self.count);
        PinnedSlice(&self[first..first + count])
    }

    /// The address at which the card sees it: addresses are the same on both sides.
    pub(crate) fn as_raw(&self) -> *mut T {
        self.start.as_ptr()
    }
}

impl<T: Plain> Deref for Pinned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` owns `count` initialized numbers. The card writes them only while they are in a `Download` or a crossing, which
        // lend nothing.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl<T: Plain> DerefMut for Pinned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only access of the host's.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }
}

impl<T: Plain> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.context.count_given_back();
        // Copies may be on their way. A card that is lost makes none any more.
        let _ = self.context.synchronize();
        // SAFETY: made by `cuMemHostAlloc`, and neither side uses it any more.
        let _ = unsafe { sys::cuMemFreeHost(self.start.as_ptr().cast()) };
    }
}

impl<T: Plain> fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} numbers)", self.count)
    }
}

/// Numbers in pinned memory, to read: what a card copies by itself.
#[derive(Clone, Copy, Debug)]
pub struct PinnedSlice<'a, T>(pub(super) &'a [T]);

impl<'a, T: Plain> PinnedSlice<'a, T> {
    /// The numbers.
    #[must_use]
    pub const fn as_slice(self) -> &'a [T] {
        self.0
    }
}

impl<T: Plain> Deref for PinnedSlice<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0
    }
}

/// A copy on its way from a card to pinned memory, which it holds until the copy has arrived.
#[derive(Debug)]
pub struct Download<T: Plain> {
    to: Pinned<T>,
    arrived: Event,
}

impl<T: Plain> Download<T> {
    /// Starts to copy `from` to the front of `to`, in the stream's time.
    ///
    /// # Errors
    /// Where the driver refuses.
    ///
    /// # Panics
    /// Where `to` is too short.
    pub fn start(stream: &Stream, from: Slice<'_, T>, to: Pinned<T>) -> Result<Self, CudaError> {
        assert!(from.len() <= to.len(), "{} numbers do not fit {}", from.len(), to.len());
        // SAFETY: `to` is long enough, pinned, and held here, unread, until `wait`; its `drop` waits for the device.
        unsafe { stream.start_download(from, to.as_raw().cast())? };
        Self::behind(stream, to)
    }

    /// What holds `to` until the copies that `stream` was asked for have arrived.
    pub(super) fn behind(stream: &Stream, to: Pinned<T>) -> Result<Self, CudaError> {
        let arrived = Event::of(stream)?;
        arrived.record(stream)?;
        Ok(Self { to, arrived })
    }

    /// Waits for the copy, and hands the memory back.
    ///
    /// # Errors
    /// [`CudaError::Lost`] where work before the copy failed.
    pub fn wait(self) -> Result<Pinned<T>, CudaError> {
        self.arrived.synchronize()?;
        Ok(self.to)
    }
}
