//! Outputs that several threads write: each its own part ([`Scattered`]), or wherever a caller says ([`Cells`]).

mod sixteen;

use std::marker::PhantomData;
use std::slice;
use std::sync::atomic::AtomicU32;

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
        let (cells, last) = self.0[from..][..numbers.len()].as_chunks();
        let (numbers, rest) = numbers.as_chunks_mut();
        cells.iter().zip(numbers).for_each(|(cells, numbers)| sixteen::read(cells, numbers));
        single::read(last, rest);
    }

    /// Sets the numbers from `from` on.
    #[inline(always)]
    pub(super) fn write(self, from: usize, numbers: &[f32]) {
        let (cells, last) = self.0[from..][..numbers.len()].as_chunks();
        let (numbers, rest) = numbers.as_chunks();
        cells.iter().zip(numbers).for_each(|(cells, numbers)| sixteen::write(cells, numbers));
        single::write(last, rest);
    }

    /// Adds `weight` times each number to those from `from` on.
    #[inline(always)]
    pub(super) fn add(self, from: usize, weight: f32, numbers: &[f32]) {
        let (cells, last) = self.0[from..][..numbers.len()].as_chunks();
        let (numbers, rest) = numbers.as_chunks();
        cells.iter().zip(numbers).for_each(|(cells, numbers)| sixteen::add(cells, weight, numbers));
        single::add(last, weight, rest);
    }
}

/// Cells one by one.
mod single {
    use std::sync::atomic::{AtomicU32, Ordering};

    #[inline(always)]
    pub(super) fn read(cells: &[AtomicU32], numbers: &mut [f32]) {
        for (number, cell) in numbers.iter_mut().zip(cells) {
            *number = f32::from_bits(cell.load(Ordering::Relaxed));
        }
    }

    #[inline(always)]
    pub(super) fn write(cells: &[AtomicU32], numbers: &[f32]) {
        for (number, cell) in numbers.iter().zip(cells) {
            cell.store(number.to_bits(), Ordering::Relaxed);
        }
    }

    #[inline(always)]
    pub(super) fn add(cells: &[AtomicU32], weight: f32, numbers: &[f32]) {
        for (number, cell) in numbers.iter().zip(cells) {
            let sum = f32::from_bits(cell.load(Ordering::Relaxed)) + weight * number;
            cell.store(sum.to_bits(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_moved_and_added_alike_in_sixteens_and_alone() {
        let numbers: Vec<f32> = (0..70).map(|i| (i as f32 - 31.0) / 7.0).collect();
        for (from, count) in [(0, 0), (3, 1), (5, 15), (1, 16), (7, 17), (2, 47), (0, 70)] {
            let mut out = vec![0.1; 70];
            let cells = Cells::new(&mut out);
            cells.write(from, &numbers[..count]);
            cells.add(from, 0.3, &numbers[..count]);
            let mut read = vec![0.0; count];
            cells.read(from, &mut read);
            for (i, number) in out.iter().enumerate() {
                let inside = (from..from + count).contains(&i);
                let expected = if inside { numbers[i - from] + 0.3 * numbers[i - from] } else { 0.1 };
                assert_eq!(number.to_bits(), expected.to_bits(), "number {i} of {count} from {from}");
            }
            assert_eq!(read, out[from..from + count]);
        }
    }
}
