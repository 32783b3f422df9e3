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
        #[cfg(target_arch = "x86_64")]
        if let Some(lanes) = numbers.first_chunk::<16>()
            && numbers.len() == 16
        {
            return self.write_lanes(from, lanes);
        }
        for (number, cell) in numbers.iter().zip(&self.0[from..]) {
            cell.store(number.to_bits(), Ordering::Relaxed);
        }
    }

    /// Sixteen at once: a store waits for its cache line, and of single numbers the few dozens that can wait are soon used up.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn write_lanes(self, from: usize, numbers: &[f32; 16]) {
        let to = self.0[from..from + 16].as_ptr();
        // SAFETY: it reads sixteen numbers of one array and writes sixteen cells of another, both seen above, with
        // instructions that every x86-64 has. The processor writes each aligned four bytes of a store at once, so for other
        // threads they are sixteen relaxed stores.
        unsafe {
            std::arch::asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                from = in(reg) numbers.as_ptr(),
                to = in(reg) to,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Adds `weight` times each number to those from `from` on.
    #[inline(always)]
    pub(super) fn add(self, from: usize, weight: f32, numbers: &[f32]) {
        for (number, cell) in numbers.iter().zip(&self.0[from..]) {
            let sum = f32::from_bits(cell.load(Ordering::Relaxed)) + weight * number;
            cell.store(sum.to_bits(), Ordering::Relaxed);
        }
    }
}
