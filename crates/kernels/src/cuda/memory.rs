//! Memory of a card, taken once in arenas and handed out as typed buffers and slices.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use plan::Bytes;

use super::device::Context;
use super::launch::Address;
use super::{CudaError, Gpu};

/// What the driver takes for an allocation is a multiple of this.
const GRANULE: u64 = 2 << 20;
/// Buffers start at multiples of this: a kernel may read whole 16-byte words around any part of one, and tensor cores' copies want 128.
const ALIGN: u64 = 256;

/// Numbers that a card and the host hold alike, whatever their bits.
///
/// # Safety
/// Every bit pattern is a value, without padding and without pointers.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: a plain number.
unsafe impl Plain for u8 {}
// SAFETY: a plain number.
unsafe impl Plain for i8 {}
// SAFETY: a plain number.
unsafe impl Plain for u16 {}
// SAFETY: a plain number.
unsafe impl Plain for u32 {}
// SAFETY: a plain number.
unsafe impl Plain for i32 {}
// SAFETY: a plain number.
unsafe impl Plain for u64 {}
// SAFETY: a plain number.
unsafe impl Plain for f32 {}

/// A run of a card's memory, counted against its ceiling, that buffers are cut from in turn. It is given back when the last of them
/// is dropped.
#[derive(Debug)]
pub struct Arena {
    block: Arc<Block>,
    /// Bytes cut off so far.
    taken: u64,
}

/// One allocation of the driver's.
pub(super) struct Block {
    context: Arc<Context>,
    start: u64,
    bytes: Bytes,
}

impl Arena {
    /// Takes `bytes` bytes for `what` (words for a refusal) and 256 to spare, since kernels may read a word behind the last, rounded up to the
    /// driver's granule of 2 MiB.
    ///
    /// # Errors
    /// [`CudaError::OverCeiling`], [`CudaError::OutOfMemory`], [`CudaError::Lost`].
    pub fn new(gpu: &Gpu, what: &str, bytes: Bytes) -> Result<Self, CudaError> {
        let bytes = Bytes(bytes.0.saturating_add(ALIGN).checked_next_multiple_of(GRANULE).unwrap_or(u64::MAX));
        let context = Arc::clone(gpu.context());
        let start = context.allocate(bytes, what)?;
        Ok(Self { block: Arc::new(Block { context, start, bytes }), taken: 0 })
    }

    /// What a buffer of `count` numbers takes of an arena.
    #[must_use]
    pub const fn bytes_of<T: Plain>(count: usize) -> Bytes {
        Bytes((count as u64).saturating_mul(size_of::<T>() as u64).div_ceil(ALIGN).saturating_mul(ALIGN))
    }

    /// Cuts a buffer of `count` numbers off, with whatever its bytes hold.
    ///
    /// # Errors
    /// [`CudaError::OverCeiling`] with the arena's own bytes as the ceiling, where too few are left.
    pub fn take<T: Plain>(&mut self, count: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let bytes = Self::bytes_of::<T>(count);
        if bytes > self.left() {
            return Err(CudaError::OverCeiling {
                ordinal: self.block.context.info.ordinal,
                what: "a buffer of an arena".into(),
                asked: bytes,
                used: Bytes(self.taken),
                ceiling: self.block.bytes,
            });
        }
        let start = self.block.start + self.taken;
        self.taken += bytes.0;
        Ok(DeviceBuffer { block: Arc::clone(&self.block), start, count, of: PhantomData })
    }

    /// Bytes that are not cut off yet.
    #[must_use]
    pub fn left(&self) -> Bytes {
        Bytes(self.block.bytes.0 - ALIGN - self.taken)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `start` came from `allocate(bytes)`. Slices borrow buffers, and buffers keep this block, so that no later work can
        // name its memory.
        unsafe { self.context.give_back(self.start, self.bytes) }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on gpu:{}", self.bytes, self.context.info.ordinal)
    }
}

/// `count` numbers in a card's memory, owned.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    block: Arc<Block>,
    start: u64,
    count: usize,
    of: PhantomData<T>,
}

impl<T: Plain> DeviceBuffer<T> {
    /// A buffer in an arena of its own: for tests and the few buffers that are large.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn new(gpu: &Gpu, what: &str, count: usize) -> Result<Self, CudaError> {
        Arena::new(gpu, what, Arena::bytes_of::<T>(count))?.take(count)
    }

    /// The allocation that it is part of.
    pub(super) const fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// How many numbers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All numbers, to read.
    #[must_use]
    pub const fn slice(&self) -> Slice<'_, T> {
        Slice { start: self.start, count: self.count, of: PhantomData }
    }

    /// All numbers, to write.
    #[must_use]
    pub const fn slice_mut(&mut self) -> SliceMut<'_, T> {
        SliceMut { start: self.start, count: self.count, of: PhantomData }
    }
}

/// Part of a [`DeviceBuffer`], to read.
#[derive(Debug)]
pub struct Slice<'a, T> {
    start: u64,
    count: usize,
    of: PhantomData<&'a T>,
}

/// Part of a [`DeviceBuffer`], to write: nobody else has it.
#[derive(Debug)]
pub struct SliceMut<'a, T> {
    start: u64,
    count: usize,
    of: PhantomData<&'a mut T>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

impl<'a, T: Plain> From<SliceMut<'a, T>> for Slice<'a, T> {
    fn from(written: SliceMut<'a, T>) -> Self {
        Self { start: written.start, count: written.count, of: PhantomData }
    }
}

impl<'a, T: Plain> Slice<'a, T> {
    /// How many numbers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Part of it.
    ///
    /// # Panics
    /// Where the range is not within it.
    #[must_use]
    pub fn range(self, range: impl RangeBounds<usize>) -> Self {
        let (first, count) = bounds(&range, self.count);
        Slice { start: self.start + (first * size_of::<T>()) as u64, count, of: PhantomData }
    }

    /// The same bytes as numbers of another type, as many as fit.
    ///
    /// # Panics
    /// Where it does not start at a multiple of the other type's size.
    #[must_use]
    pub fn cast<U: Plain>(self) -> Slice<'a, U> {
        assert!(self.start.is_multiple_of(size_of::<U>() as u64), "a slice at the alignment of its numbers");
        Slice { start: self.start, count: self.count * size_of::<T>() / size_of::<U>(), of: PhantomData }
    }

    pub(crate) const fn address(&self) -> Address {
        Address(self.start)
    }
}

impl<'a, T: Plain> SliceMut<'a, T> {
    /// How many numbers.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The same numbers, to read.
    #[must_use]
    pub const fn as_slice(&self) -> Slice<'_, T> {
        Slice { start: self.start, count: self.count, of: PhantomData }
    }

    /// Part of it, for as long as this is borrowed.
    ///
    /// # Panics
    /// Where the range is not within it.
    #[must_use]
    pub fn range(&mut self, range: impl RangeBounds<usize>) -> SliceMut<'_, T> {
        let (first, count) = bounds(&range, self.count);
        SliceMut { start: self.start + (first * size_of::<T>()) as u64, count, of: PhantomData }
    }

    /// The same bytes as numbers of another type, as many as fit.
    ///
    /// # Panics
    /// Where it does not start at a multiple of the other type's size.
    #[must_use]
    pub fn cast<U: Plain>(self) -> SliceMut<'a, U> {
        let Slice { start, count, .. } = Slice::from(self).cast::<U>();
        SliceMut { start, count, of: PhantomData }
    }

    /// The first `first` numbers and the others.
    ///
    /// # Panics
    /// Where there are fewer.
    #[must_use]
    pub fn split_at(self, first: usize) -> (SliceMut<'a, T>, SliceMut<'a, T>) {
        let (_, count) = bounds(&(first..), self.count);
        let rest = self.start + (first * size_of::<T>()) as u64;
        (
            SliceMut { start: self.start, count: first, of: PhantomData },
            SliceMut { start: rest, count, of: PhantomData },
        )
    }

    pub(crate) const fn address(&self) -> Address {
        Address(self.start)
    }
}

/// First and count of a range within `count` numbers.
pub(super) fn bounds(range: &impl RangeBounds<usize>, count: usize) -> (usize, usize) {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => *before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => *last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => count,
    };
    assert!(first <= end && end <= count, "{first}..{end} is not within {count} numbers");
    (first, end - first)
}
