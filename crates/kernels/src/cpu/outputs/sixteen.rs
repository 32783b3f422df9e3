//! Sixteen neighbouring cells at once. The compiler moves atomics one by one: a store waits for its cache line, and of single numbers the few dozens
//! that can wait are soon used up.

use std::sync::atomic::AtomicU32;

pub(super) type Cells = [AtomicU32; 16];
pub(super) type Numbers = [f32; 16];

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod whole {
    use std::arch::asm;

    use super::{Cells, Numbers};

    // Each function below reads and writes within one array of sixteen cells and one of as many numbers, with instructions that every x86-64
    // has. The processor moves each aligned four bytes of a load or store at once, so for other threads they are sixteen relaxed ones.

    #[inline(always)]
    pub(in super::super) fn read(cells: &Cells, numbers: &mut Numbers) {
        // SAFETY: both are sixteen times four bytes, and `numbers` is borrowed to be written.
        unsafe { copy(cells.as_ptr().cast(), numbers.as_mut_ptr().cast()) }
    }

    #[inline(always)]
    pub(in super::super) fn write(cells: &Cells, numbers: &Numbers) {
        // SAFETY: both are sixteen times four bytes, and atomics may be written through a shared borrow.
        unsafe { copy(numbers.as_ptr().cast(), cells.as_ptr().cast_mut().cast()) }
    }

    /// # Safety
    /// 64 bytes can be read at `from` and written at `to`.
    #[inline(always)]
    unsafe fn copy(from: *const u8, to: *mut u8) {
        // SAFETY: by contract.
        unsafe {
            asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                from = in(reg) from,
                to = in(reg) to,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    pub(in super::super) fn add(cells: &Cells, weight: f32, numbers: &Numbers) {
        // SAFETY: it reads the 64 bytes of `numbers`, and reads and writes those of `cells`, atomics that may be written through a shared borrow.
        unsafe {
            asm!(
                "shufps {w}, {w}, 0",
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups {d}, [{from} + 48]",
                "mulps {a}, {w}",
                "mulps {b}, {w}",
                "mulps {c}, {w}",
                "mulps {d}, {w}",
                "movups {w}, [{to}]",
                "movups {x}, [{to} + 16]",
                "movups {y}, [{to} + 32]",
                "movups {z}, [{to} + 48]",
                "addps {a}, {w}",
                "addps {b}, {x}",
                "addps {c}, {y}",
                "addps {d}, {z}",
                "movups [{to}], {a}",
                "movups [{to} + 16], {b}",
                "movups [{to} + 32], {c}",
                "movups [{to} + 48], {d}",
                from = in(reg) numbers.as_ptr(),
                to = in(reg) cells.as_ptr(),
                w = inout(xmm_reg) weight => _,
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                x = out(xmm_reg) _, y = out(xmm_reg) _, z = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(any(not(target_arch = "x86_64"), miri))]
mod whole {
    use super::super::single;
    use super::{Cells, Numbers};

    #[inline(always)]
    pub(in super::super) fn read(cells: &Cells, numbers: &mut Numbers) {
        single::read(cells, numbers);
    }

    #[inline(always)]
    pub(in super::super) fn write(cells: &Cells, numbers: &Numbers) {
        single::write(cells, numbers);
    }

    #[inline(always)]
    pub(in super::super) fn add(cells: &Cells, weight: f32, numbers: &Numbers) {
        single::add(cells, weight, numbers);
    }
}

pub(super) use whole::{add, read, write};
