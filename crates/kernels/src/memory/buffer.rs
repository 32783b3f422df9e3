//! An owned, zeroed, page-aligned run of bytes that goes back to the system when it is dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

/// The alignment of every [`Buffer`]: a page, which is what direct reads ask for too.
pub const PAGE: usize = 4096;
/// A huge page of x86-64 and of aarch64 with small pages.
const HUGE: usize = 2 << 20;
/// From here on huge pages spare the processor misses of its page tables.
const HUGE_FROM: usize = 8 << 20;

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
/// kept across phases. Only those of [`Buffer::try_parts`] share one. Pages that nothing has touched cost nothing yet.
pub struct Buffer {
    start: NonNull<u8>,
    bytes: usize,
    /// What the bytes lie in.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "it is only kept, but where cards read it"))]
    mapping: Arc<Mapping>,
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
        let mapping = Mapping::take(bytes, bytes >= HUGE_FROM)?;
        Ok(Self { start: mapping.start, bytes, mapping: Arc::new(mapping) })
    }

    /// `count` zeroed buffers of `bytes` bytes each, side by side in one mapping of huge pages where the system has them:
    /// a drive writes into those at twice the rate. The memory goes back when the last of them is dropped.
    ///
    /// # Errors
    /// [`AllocError`] where the system refuses.
    pub fn try_parts(bytes: usize, count: usize) -> Result<Vec<Self>, AllocError> {
        let refused = AllocError { bytes: bytes.saturating_mul(count) };
        let step = bytes.checked_next_multiple_of(PAGE).ok_or(refused)?;
        let total = step.checked_mul(count).ok_or(refused)?;
        let mapping = Arc::new(Mapping::take(total, total >= HUGE)?);
        let part = |index: usize| {
            // SAFETY: `index < count`, so the part ends within the `count * step` bytes of the mapping.
            let start = unsafe { mapping.start.add(index * step) };
            Self { start, bytes, mapping: Arc::clone(&mapping) }
        };
        Ok((0..count).map(part).collect())
    }

    /// What the bytes lie in, with the buffers beside them.
    #[cfg(feature = "cuda")]
    pub(crate) const fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Where the bytes are, for a device that writes them: no reference to them is made.
    #[cfg(target_os = "linux")]
    pub(super) fn raw(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start, self.bytes)
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
        // SAFETY: `start` owns `bytes` bytes of a mapping that it keeps, zeroed by the system when they were taken.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only access.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

/// Pages of the system, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address and a length, which any thread may give back; the bytes are reached through buffers only.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing is reached through a shared mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Where they start, and how many bytes they are.
    #[cfg(feature = "cuda")]
    pub(crate) const fn pages(&self) -> (NonNull<u8>, usize) {
        (self.start, self.bytes)
    }

    fn take(bytes: usize, huge: bool) -> Result<Self, AllocError> {
        if bytes == 0 {
            return Ok(Self { start: NonNull::<Page>::dangling().cast(), bytes });
        }
        // Slices may not be longer than `isize::MAX`; no system would give so much either.
        if isize::try_from(bytes).is_err() {
            return Err(AllocError { bytes });
        }
        let start = pages::take(bytes, huge).ok_or(AllocError { bytes })?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: `start` came from `pages::take(self.bytes)`, and every buffer in it is gone.
            unsafe { pages::give_back(self.start, self.bytes) }
        }
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

    use super::{HUGE, PAGE};

    /// `bytes` (not 0) zeroed, page-aligned bytes; huge ones start where a huge page does.
    pub(super) fn take(bytes: usize, huge: bool) -> Option<NonNull<u8>> {
        let length = bytes.checked_next_multiple_of(PAGE)?;
        let spare = if huge { HUGE - PAGE } else { 0 };
        let mapped = length.checked_add(spare)?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory that exists.
        let start =
            unsafe { mmap_anonymous(null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let start: *mut c_void = start.ok()?;
        if !huge {
            return NonNull::new(start.cast());
        }
        let before = start.align_offset(HUGE).min(spare);
        // SAFETY: `before <= spare`, so all three runs lie in the mapping just made, which nobody else knows. The first and the
        // last are given back, and the advice changes no content; a kernel without huge pages refuses it, and nothing is lost.
        unsafe {
            let start = start.add(before);
            for (rest, bytes) in [(start.sub(before), before), (start.add(length), spare - before)] {
                if bytes > 0 {
                    let _ = munmap(rest, bytes);
                }
            }
            let _ = madvise(start, length, Advice::LinuxHugepage);
            NonNull::new(start.cast())
        }
    }

    /// # Safety
    /// `start` came from `take(bytes)` and is used no more.
    pub(super) unsafe fn give_back(start: NonNull<u8>, bytes: usize) {
        // SAFETY: by contract exactly one mapping of ours, whose last page is given back whole.
        let _ = unsafe { munmap(start.as_ptr().cast(), bytes) };
    }
}

/// Pages from the global allocator, where there is no `mmap`.
#[cfg(not(target_os = "linux"))]
mod pages {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    /// `bytes` (not 0) zeroed, page-aligned bytes.
    pub(super) fn take(bytes: usize, _: bool) -> Option<NonNull<u8>> {
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
    fn parts_are_apart_and_outlive_each_other() {
        for (bytes, count) in [(0, 3), (1, 2), (5000, 3), ((1 << 20) + 8192, 4), (3 << 20, 2), (7, 0)] {
            let mut parts = Buffer::try_parts(bytes, count).unwrap();
            assert_eq!(parts.len(), count);
            for (index, part) in parts.iter_mut().enumerate() {
                assert_eq!((part.len(), part.as_ptr().align_offset(PAGE)), (bytes, 0));
                assert!(part.iter().all(|byte| *byte == 0), "part {index} of {bytes} bytes");
                part.fill(index as u8 + 1);
            }
            while let Some(part) = parts.pop() {
                assert!(part.iter().all(|byte| *byte == parts.len() as u8 + 1));
            }
        }
        assert!(Buffer::try_parts(usize::MAX, 2).is_err());
        assert!(Buffer::try_parts(1 << 40, 1 << 40).is_err());
    }

    #[test]
    fn what_no_system_has_is_refused_not_aborted() {
        for bytes in [usize::MAX, isize::MAX as usize, 1 << 60] {
            assert_eq!(Buffer::try_new(bytes).unwrap_err(), AllocError { bytes });
        }
    }
}
