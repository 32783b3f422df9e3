//! Sixteen rows of a quantized matrix: where their bytes lie, and what up to 256 numbers of each look like unpacked.

use std::marker::PhantomData;

use super::activations::RUN;
use super::wide::{Column, Quad, ROWS, Wide};

/// Bytes that 256 numbers take at most: 272 in the widest type that is taken (`Q8_0`), rounded up.
const RUN_BYTES_MAX: usize = 320;

/// The bytes of up to 256 numbers of each of sixteen rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    start: *const u8,
    /// From one row to the next.
    stride: usize,
    /// Of each row.
    bytes: usize,
    soon: Soon,
    life: PhantomData<&'a [u8]>,
}

/// What is asked for as rows are read: bytes that are needed soon, which need not exist.
#[derive(Clone, Copy)]
enum Soon {
    Nothing,
    /// As many as the rows themselves, one after the other.
    Run(*const u8),
    /// So many bytes further on in each row.
    Further(usize),
}

impl<'a> Rows<'a> {
    /// `bytes` bytes of sixteen rows, which start `stride` apart in `all`.
    #[inline(always)]
    pub(super) fn new(all: &'a [u8], stride: usize, bytes: usize) -> Self {
        assert!((ROWS - 1) * stride + bytes <= all.len(), "{bytes} bytes of 16 rows every {stride} in {}", all.len());
        Self { start: all.as_ptr(), stride, bytes, soon: Soon::Nothing, life: PhantomData }
    }

    /// Asks as the rows are read for as many bytes as they have, which lie one after the other and need not exist.
    #[inline(always)]
    pub(super) fn asking_for(self, soon: *const u8) -> Self {
        Self { soon: Soon::Run(soon), ..self }
    }

    /// Asks as each row is read for what lies `bytes` further on in it, which need not exist.
    #[inline(always)]
    pub(super) fn asking_ahead(self, bytes: usize) -> Self {
        Self { soon: Soon::Further(bytes), ..self }
    }

    /// Sixteen bytes of each row from `at`, four at a time.
    #[inline(always)]
    pub(super) fn sixteen<W: Wide>(self, w: W, at: usize) -> [W::V; 4] {
        assert!(at + 16 <= self.bytes);
        // Four lines at each call: a burst would fill the buffers of the first-level cache.
        for i in 0..4 {
            match self.soon {
                Soon::Nothing => {}
                Soon::Run(soon) => w.prefetch(soon.wrapping_add(16 * at + 64 * i)),
                Soon::Further(bytes) => {
                    // A line has four such pieces: at each of them it is asked for in four rows.
                    let row = at / 16 % 4 * 4 + i;
                    w.prefetch(self.start.wrapping_add(row * self.stride + at / 64 * 64 + bytes));
                }
            }
        }
        // SAFETY: `new` saw that `bytes` bytes of each row can be read, and 16 from `at` are within them.
        unsafe { w.sixteen(self.start.add(at), self.stride) }
    }

    /// `N` bytes of one row from `at`.
    #[inline(always)]
    pub(super) fn bytes<const N: usize>(self, row: usize, at: usize) -> &'a [u8; N] {
        assert!(row < ROWS && at + N <= self.bytes);
        // SAFETY: `new` saw that `bytes` bytes of each row can be read, and `N` from `at` are within them. An array of
        // bytes needs no alignment, and the borrow that `new` took lasts as long as this one.
        unsafe { &*self.start.add(row * self.stride + at).cast::<[u8; N]>() }
    }

    /// The dot products of `x` with the four entries of a grid that four bytes of each row from `at` count out, negative where
    /// `signs` has a bit, added to `sums`.
    #[inline(always)]
    pub(super) fn grid_dot<W: Wide>(
        self,
        w: W,
        at: usize,
        sums: W::V,
        grid: &[u64; 256],
        signs: W::V,
        x: &[[i8; 4]; 8],
    ) -> W::V {
        assert!(at + 4 <= self.bytes);
        // SAFETY: `new` saw that `bytes` bytes of each row can be read, and 4 from `at` are within them.
        unsafe { w.grid_dot(sums, grid, self.start.add(at), self.stride, signs, x) }
    }

    /// Four bytes of each row from `at`.
    #[inline(always)]
    pub(super) fn words<W: Wide>(self, w: W, at: usize) -> W::V {
        let mut quad = Quad([[0; 4]; ROWS]);
        for (row, word) in quad.0.iter_mut().enumerate() {
            *word = *self.bytes(row, at);
        }
        w.load(&quad)
    }

    /// Two bytes of each row from `at`, and zeros behind them.
    #[inline(always)]
    pub(super) fn shorts<W: Wide>(self, w: W, at: usize) -> W::V {
        let mut quad = Quad([[0; 4]; ROWS]);
        for (row, word) in quad.0.iter_mut().enumerate() {
            let [low, high] = *self.bytes(row, at);
            *word = [low, high, 0, 0];
        }
        w.load(&quad)
    }
}

/// Up to 256 numbers of sixteen rows as `scale · code − minimum`, by groups of 16 or 32.
#[repr(C, align(64))]
pub(super) struct Unpacked {
    /// Four numbers of each row at a time.
    pub(super) codes: [Quad; RUN / 4],
    /// Each group's.
    pub(super) scales: [Column; ROWS],
    /// Each group's, where the type has them.
    pub(super) minima: [Column; ROWS],
}

impl Unpacked {
    pub(super) const ZERO: Self = Self {
        codes: [Quad([[0; 4]; ROWS]); RUN / 4],
        scales: [Column([0.0; ROWS]); ROWS],
        minima: [Column([0.0; ROWS]); ROWS],
    };
}

/// Room for the last rows of a matrix, where they are fewer than sixteen.
pub(super) struct Tail([u8; ROWS * RUN_BYTES_MAX]);

impl Tail {
    pub(super) const EMPTY: Self = Self([0; ROWS * RUN_BYTES_MAX]);

    /// Copies `bytes` bytes of fewer than sixteen rows, `stride` apart; the other rows hold whatever they held.
    pub(super) fn fill(&mut self, rows: &[u8], stride: usize, count: usize, bytes: usize) -> Rows<'_> {
        for (row, room) in self.0.chunks_exact_mut(RUN_BYTES_MAX).take(count).enumerate() {
            room[..bytes].copy_from_slice(&rows[row * stride..][..bytes]);
        }
        Rows::new(&self.0, RUN_BYTES_MAX, bytes)
    }
}
