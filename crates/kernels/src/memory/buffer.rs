//! An owned, zeroed, page-aligned run of bytes that goes back to the system when it is dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// The alignment of every [`Buffer`]: a page, which is what direct reads ask for too.
pub const PAGE: usize = 4096;

/// Memory that the system did not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system gave no memory for a buffer of {bytes} bytes\n\nhint: lower the ceiling of `ram` or the context, or \
     raise the memory limit of this process (ulimit -v, cgroup)"
)]
pub struct AllocError {
    /// Bytes asked for.
    pub bytes: usize,
}

/// Owned bytes, zero at first, aligned to [`PAGE`].
///
/// Each buffer is its own mapping, so that dropping it gives the memory back to the system at once: a ceiling can be
/// kept across phases. Pages that nothing has touched cost nothing yet.
pub struct Buffer {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a `Buffer` owns its bytes alone, as a `Vec<u8>` does; the pointer is no thread's.
unsafe impl Send for Buffer {}
// SAFETY: shared access reads only; every write needs `&mut`.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A zeroed buffer of `bytes` bytes.
    ///
    /// # Errors
    /// [`AllocError`] where the system refuses.
    pub fn try_new(bytes: usize) -> Result<Self, AllocError> {
        if bytes == 0 {
            return Ok(Self { start: NonNull::<Page>::dangling().cast(), bytes });
        }
        // Slices may not be longer than `isize::MAX`; no system would give so much either.
        if isize::try_from(bytes).is_err() {
            return Err(AllocError { bytes });
        }
        let start = pages::take(bytes).ok_or(AllocError { bytes })?;
        Ok(Self { start, bytes })
    }

    /// The bytes as `f32`, as many as fit.
    #[must_use]
    pub fn as_f32(&self) -> &[f32] {
        // SAFETY: `start` is page-aligned and owns `bytes` initialized bytes; every bit pattern is an `f32`.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 4) }
    }

    /// The bytes as `f32`, as many as fit, to write.
    #[must_use]
    pub fn as_f32_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_f32`, and `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes / 4) }
    }

    /// The bytes as `u16`, as many as fit.
    #[must_use]
    pub fn as_u16(&self) -> &[u16] {
        // SAFETY: `start` is page-aligned and owns `bytes` initialized bytes; every bit pattern is a `u16`.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 2) }
    }

    /// The bytes as `u16`, as many as fit, to write.
    #[must_use]
    pub fn as_u16_mut(&mut self) -> &mut [u16] {
        // SAFETY: as in `as_u16`, and `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes / 2) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` owns `bytes` bytes, zeroed by the system when they were taken.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: `start` came from `pages::take(self.bytes)`, and nothing borrows it any more.
            unsafe { pages::give_back(self.start, self.bytes) }
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

/// Only its alignment is used.
#[repr(align(4096))]
struct Page;

/// Pages from the system, by anonymous mappings.
#[cfg(target_os = "linux")]
mod pages {
    use std::ffi::c_void;
    use std::ptr::{NonNull, null_mut};

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    /// From here on huge pages spare the processor misses of its page tables.
    const HUGE_FROM: usize = 8 << 20;

    /// `bytes` (not 0) zeroed, page-aligned bytes.
    pub(super) fn take(bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that exists.
        let start = unsafe { mmap_anonymous(null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let start: *mut c_void = start.ok()?;
        if bytes >= HUGE_FROM {
            // SAFETY: the range is the mapping just made; the advice changes no content. A kernel without huge pages
            // refuses, and nothing is lost.
            let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
        }
        NonNull::new(start.cast())
    }

    /// # Safety
    /// `start` came from `take(bytes)` and is used no more.
    pub(super) unsafe fn give_back(start: NonNull<u8>, bytes: usize) {
        // SAFETY: by contract exactly one mapping of ours.
        let _ = unsafe { munmap(start.as_ptr().cast(), bytes) };
    }
}

/// Pages from the global allocator, where there is no `mmap`.
#[cfg(not(target_os = "linux"))]
mod pages {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    /// `bytes` (not 0) zeroed, page-aligned bytes.
    pub(super) fn take(bytes: usize) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(bytes, super::PAGE).ok()?;
        // SAFETY: the layout's size is not 0.
        NonNull::new(unsafe { alloc_zeroed(layout) })
    }

    /// # Safety
    /// `start` came from `take(bytes)` and is used no more.
    pub(super) unsafe fn give_back(start: NonNull<u8>, bytes: usize) {
        // SAFETY: `take` made this very layout.
        unsafe { dealloc(start.as_ptr(), Layout::from_size_align_unchecked(bytes, super::PAGE)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_aligned_and_writable() {
        for bytes in [0, 1, 4, 4095, 4096, 70_001, 16 << 20] {
            let mut buffer = Buffer::try_new(bytes).unwrap();
            assert_eq!(buffer.len(), bytes);
            assert_eq!(buffer.as_ptr().align_offset(PAGE), 0);
            assert!(buffer.iter().all(|b| *b == 0));
            assert_eq!(buffer.as_f32().len(), bytes / 4);
            if let Some(last) = buffer.last_mut() {
                *last = 7;
                assert_eq!(buffer[bytes - 1], 7);
            }
        }
    }

    #[test]
    fn what_no_system_has_is_refused_not_aborted() {
        for bytes in [usize::MAX, isize::MAX as usize, 1 << 60] {
            assert_eq!(Buffer::try_new(bytes).unwrap_err(), AllocError { bytes });
        }
    }
}
