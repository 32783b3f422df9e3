//! Outputs that several threads write: each its own part ([`Scattered`]), or wherever a caller says ([`Cells`]).

use std::marker::PhantomData;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

/// A slice whose parts several threads write, each its own.
pub(super) struct Scattered<'a, T = f32> {
    start: *mut T,
    length: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, whose parts may go to other threads where `T` may; its unsafe methods leave it to
// the caller that no two threads share a number.
unsafe impl<T: Send> Sync for Scattered<'_, T> {}

impl<'a, T> Scattered<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), life: PhantomData }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// `length` numbers from `from`.
    ///
    /// # Safety
    /// Nobody else has any of them meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn slice(&self, from: usize, length: usize) -> &mut [T] {
        assert!(from <= self.length && length <= self.length - from);
        // SAFETY: they lie within the slice, and by contract they are the caller's alone.
        unsafe { slice::from_raw_parts_mut(self.start.add(from), length) }
    }
}

/// Numbers that threads read and write one at a time, each access atomic and unordered: plain moves for the processor,
/// and no data race where a caller's lists of places turn out to overlap, only a number that nobody promised.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a>(&'a [AtomicU32]);

impl<'a> Cells<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        const { assert!(align_of::<AtomicU32>() == align_of::<f32>()) };
        // SAFETY: an `AtomicU32` has the size and, as was just asserted, the alignment of an `f32`, every bit pattern is
        // a value of both, and the borrow is unique for as long as the cells live.
        Self(unsafe { slice::from_raw_parts(slice.as_mut_ptr().cast(), slice.len()) })
    }

    #[inline(always)]
    pub(super) fn get(self, index: usize) -> f32 {
        f32::from_bits(self.0[index].load(Ordering::Relaxed))
    }

    #[inline(always)]
    pub(super) fn set(self, index: usize, number: f32) {
        self.0[index].store(number.to_bits(), Ordering::Relaxed);
    }

    /// Copies numbers from `from` on.
    #[inline(always)]
    pub(super) fn read(self, from: usize, numbers: &mut [f32]) {
        for (number, cell) in numbers.iter_mut().zip(&self.0[from..]) {
            *number = f32::from_bits(cell.load(Ordering::Relaxed));
        }
    }

    /// Sets the numbers from `from` on.
    #[inline(always)]
    pub(super) fn write(self, from: usize, numbers: &[f32]) {
        for (number, cell) in numbers.iter().zip(&self.0[from..]) {
            cell.store(number.to_bits(), Ordering::Relaxed);
        }
    }
}
