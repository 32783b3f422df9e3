//! The inner loop: rows of numbers times a block of rows, all sums in registers.

use crate::cpu::simd::{LANES, Lanes, Simd};

/// Vectors of a row of a [`Block`].
pub(super) const WIDTH: usize = 4;

/// Rows that one product takes at most, and numbers of one of them.
pub(super) const DEPTH: usize = 64;

/// Unpacked numbers: what one step of all sums reads lies together. 16 KiB, a third of a first-level cache.
#[repr(align(64))]
pub(super) struct Block(pub(super) [[Lanes; WIDTH]; DEPTH]);

impl Block {
    pub(super) const ZEROS: Self = Self([[[0.0; LANES]; WIDTH]; DEPTH]);
}

/// `sums[r][v] = Σ_k a[r][k]·b[k][at + v]`, in order of k.
#[inline(always)]
pub(super) fn product<S: Simd, const R: usize, const V: usize>(
    s: S,
    a: [&[f32]; R],
    b: &[[Lanes; WIDTH]],
    at: usize,
) -> [[S::F; V]; R] {
    assert!(at + V <= WIDTH);
    let a = a.map(|a| &a[..b.len()]);
    let mut sums = [[s.splat(0.0); V]; R];
    let mut row = [s.splat(0.0); V];
    for (k, b) in b.iter().enumerate() {
        for (row, b) in row.iter_mut().zip(&b[at..at + V]) {
            *row = s.load(b);
        }
        for (sums, a) in sums.iter_mut().zip(&a) {
            let a = s.splat(a[k]);
            for (sum, row) in sums.iter_mut().zip(&row) {
                *sum = s.mul_add(a, *row, *sum);
            }
        }
    }
    sums
}

/// What is done with `R` rows from row `first` on and `V` vectors from vector `at` on.
pub(super) trait Step<S: Simd> {
    fn take<const R: usize, const V: usize>(&mut self, s: S, first: usize, at: usize);
}

/// Takes `rows` rows of `vectors` vectors, as many at a time as registers hold the sums of.
#[inline(always)]
pub(super) fn each<S: Simd>(s: S, rows: usize, vectors: usize, step: &mut impl Step<S>) {
    let mut first = 0;
    while first < rows {
        first += match rows - first {
            1 => some_rows::<S, 1>(s, first, vectors, step),
            2 => some_rows::<S, 2>(s, first, vectors, step),
            3 => some_rows::<S, 3>(s, first, vectors, step),
            4 | 5 => some_rows::<S, 4>(s, first, vectors, step),
            _ => some_rows::<S, 6>(s, first, vectors, step),
        };
    }
}

#[inline(always)]
fn some_rows<S: Simd, const R: usize>(s: S, first: usize, vectors: usize, step: &mut impl Step<S>) -> usize {
    let mut at = 0;
    if S::MANY_REGISTERS && vectors == WIDTH {
        step.take::<R, WIDTH>(s, first, 0);
        at = WIDTH;
    }
    while at < vectors {
        step.take::<R, 1>(s, first, at);
        at += 1;
    }
    R
}
