//! Memory of the host that is registered where it lies: a card reads it as fast as pinned memory, and it costs a tenth of the time to make.
//!
//! Must never know what is in it, nor whether somebody writes there while a copy is under way: its owner keeps the order.

use std::ops::{Range, RangeBounds};
use std::sync::Arc;

use cudarc::driver::sys;
use plan::Bytes;

use super::device::Context;
use super::driver::name_of;
use super::memory::bounds;
use super::{CudaError, Gpu, PinnedSlice};
use crate::memory::{Buffer, Mapping, PAGE};

/// A buffer of RAM that a card may read where it lies: the bytes that the processor computes with are the ones that are copied.
#[derive(Debug)]
pub struct Registered {
    buffer: Arc<Buffer>,
    context: Arc<Context>,
    /// Bytes that are registered at once, whole pages.
    step: usize,
    /// Bytes from the buffer's start that are registered.
    end: usize,
}

impl Registered {
    /// Registers all of `buffer`, in 9 ms for 256 MiB (measured; it touches every page).
    ///
    /// # Errors
    /// [`CudaError::NotPinned`] where the system refuses.
    pub fn new(gpu: &Gpu, buffer: Arc<Buffer>) -> Result<Self, CudaError> {
        let step = buffer.len();
        let (registered, refusal) = Self::in_parts(gpu, buffer, step)?;
        refusal.map_or(Ok(registered), Err)
    }

    /// Registers `buffer` from its start on, `step` bytes at a time (rounded up to pages), to its end or the first part that the system
    /// refuses: systems limit what may be pinned at once, or in all.
    ///
    /// # Errors
    /// Where the card is lost. A refusal of the system is no error: it comes with what was registered before.
    pub fn in_parts(gpu: &Gpu, buffer: Arc<Buffer>, step: usize) -> Result<(Self, Option<CudaError>), CudaError> {
        let context = Arc::clone(gpu.context());
        context.bind()?;
        let step = step.max(1).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX / PAGE * PAGE);
        let mut registered = Self { buffer, context, step, end: 0 };
        while registered.end < registered.buffer.len() {
            let bytes = step.min(registered.buffer.len() - registered.end);
            let start = registered.buffer[registered.end..].as_ptr();
            // SAFETY: a buffer's pages are its own mapping, of whole pages, which lives until `drop` has unregistered them.
            if let Err(refusal) = unsafe { register(&registered.context, start, bytes) } {
                return Ok((registered, Some(refusal)));
            }
            registered.end += bytes;
        }
        Ok((registered, None))
    }

    /// The buffer.
    #[must_use]
    pub const fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }

    /// Bytes from the buffer's start that are registered: all of them, unless the system refused some.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end
    }

    /// Whether nothing is registered.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Part of what is registered at once, to copy to a card.
    ///
    /// # Panics
    /// Where the range is not within it.
    #[must_use]
    pub fn part(&self, range: impl RangeBounds<usize>) -> PinnedSlice<'_, u8> {
        let (first, count) = bounds(&range, self.end);
        assert!(count == 0 || first / self.step == (first + count - 1) / self.step, "one part");
        PinnedSlice(&self.buffer[first..first + count])
    }

    /// Part of what is registered, to copy to a card, cut where parts were registered apart: a copy lies in one of them.
    ///
    /// # Panics
    /// Where the range is not within it.
    pub fn parts(&self, range: impl RangeBounds<usize>) -> impl Iterator<Item = PinnedSlice<'_, u8>> {
        let (first, count) = bounds(&range, self.end);
        let (end, mut start) = (first + count, first);
        std::iter::from_fn(move || {
            let next = end.min((start / self.step + 1).saturating_mul(self.step));
            (start < end).then(|| PinnedSlice(&self.buffer[std::mem::replace(&mut start, next)..next]))
        })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        for start in (0..self.end).step_by(self.step) {
            // SAFETY: registered in `in_parts` from this address on, and no copy is on its way any more.
            let _ = unsafe { sys::cuMemHostUnregister(self.buffer[start..].as_ptr().cast_mut().cast()) };
        }
    }
}

/// Buffers side by side ([`Buffer::try_parts`]) that a card may read where they lie, whoever has them meanwhile.
#[derive(Debug)]
pub struct RegisteredParts {
    mapping: Arc<Mapping>,
    context: Arc<Context>,
}

impl RegisteredParts {
    /// Registers the memory that `one` of the buffers lies in, and with it that of all others.
    ///
    /// # Errors
    /// [`CudaError::NotPinned`] where the system refuses.
    pub fn new(gpu: &Gpu, one: &Buffer) -> Result<Self, CudaError> {
        let (mapping, context) = (Arc::clone(one.mapping()), Arc::clone(gpu.context()));
        context.bind()?;
        let (start, bytes) = mapping.pages();
        // SAFETY: the pages of a mapping, which is kept here until `drop` has unregistered them.
        unsafe { register(&context, start.as_ptr(), bytes)? };
        Ok(Self { mapping, context })
    }

    /// Part of one of the buffers, to copy to a card; none where it is another buffer.
    ///
    /// # Panics
    /// Where the range is not within it.
    #[must_use]
    pub fn part<'a>(&'a self, buffer: &'a Buffer, range: Range<usize>) -> Option<PinnedSlice<'a, u8>> {
        Arc::ptr_eq(&self.mapping, buffer.mapping()).then(|| PinnedSlice(&buffer[range]))
    }
}

impl Drop for RegisteredParts {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: registered in `new` from this address on, and no copy is on its way any more.
        let _ = unsafe { sys::cuMemHostUnregister(self.mapping.pages().0.as_ptr().cast()) };
    }
}

/// Lets cards read so many bytes from `start` on, by whole pages.
///
/// # Safety
/// The pages are a mapping's, which outlives their being unregistered.
unsafe fn register(context: &Context, start: *const u8, bytes: usize) -> Result<(), CudaError> {
    let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
    // SAFETY: by contract; a context is current, or the driver says that there is none.
    let result = unsafe { sys::cuMemHostRegister_v2(start.cast_mut().cast(), bytes.next_multiple_of(PAGE), flags) };
    let (ordinal, asked) = (context.info.ordinal, Bytes(bytes as u64));
    result.result().map_err(|_| CudaError::NotPinned { ordinal, asked, reason: name_of(result) })
}
