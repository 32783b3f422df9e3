//! Looking up by rows: entries of grids by their places, and how they come to lie for vectors.
//!
//! A place is read, its entry is read and stored, and that is all that is done for a row by itself. Places of more than eight
//! bits are put together for sixteen rows at once and stored first.
//!
//! The loops are compiled for any processor, on purpose: of wider instructions compilers make gathers for them, which are slower.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::{Quad, ROWS, Wide};

/// Low bytes of the halves of a word.
pub(super) const LOW_BYTES: i32 = 0x00ff_00ff;

/// Stores the `eight`-th eight numbers of a row, in the order of rows: [`Wide::halves_of_eight`] tells them apart.
#[inline(always)]
fn put_eight(out: &mut Unpacked, eight: usize, row: usize, entry: u64) {
    let quad = &mut out.codes[2 * eight + row / 8];
    quad.0.as_flattened_mut().as_chunks_mut::<8>().0[row % 8] = entry.to_le_bytes();
}

/// The vectors of the `wide`-th 32 numbers that were looked up by eights.
#[inline(always)]
pub(super) fn take_eights<W: Wide>(w: W, out: &Unpacked, wide: usize) -> [W::V; 8] {
    let eights: &[[Quad; 2]] = out.codes[8 * wide..8 * wide + 8].as_chunks().0;
    let ([a, b], [c, d]) = (w.halves_of_eight(&eights[0]), w.halves_of_eight(&eights[1]));
    let ([e, f], [g, h]) = (w.halves_of_eight(&eights[2]), w.halves_of_eight(&eights[3]));
    [a, b, c, d, e, f, g, h]
}

/// Looks up 256 numbers by eights: the places of the `wide`-th 32 are four bytes from `2 + 8 · wide` on.
#[inline(never)]
pub(super) fn eights_at_bytes(grid: &[u64; 256], rows: Rows, out: &mut Unpacked) {
    for half in 0..2 {
        let places: [&[u8; 64]; 8] = std::array::from_fn(|row| rows.bytes(8 * half + row, 2));
        for wide in 0..8 {
            for i in 0..4 {
                for (row, places) in places.iter().enumerate() {
                    put_eight(out, 4 * wide + i, 8 * half + row, grid[usize::from(places[8 * wide + i])]);
                }
            }
        }
    }
}

/// Looks up 256 numbers by fours, at the 64 bytes from the second on.
#[inline(never)]
pub(super) fn fours_at_bytes(grid: &[u32; 256], rows: Rows, out: &mut Unpacked) {
    for half in 0..2 {
        let places: [&[u8; 64]; 8] = std::array::from_fn(|row| rows.bytes(8 * half + row, 2));
        for (i, quad) in out.codes.iter_mut().enumerate() {
            for (row, places) in places.iter().enumerate() {
                quad.0[8 * half + row] = grid[usize::from(places[i])].to_le_bytes();
            }
        }
    }
}

/// Places in a grid of `N` entries, a power of two from 256 to 65536: for each of `Q` quads two of each row.
pub(super) struct Places<const N: usize, const Q: usize>([Quad; Q]);

impl<const N: usize, const Q: usize> Places<N, Q> {
    /// All bits of two places.
    const ALL: i32 = (N - 1) as i32 * 0x1_0001;
    /// Bits of the lower place above the eighth.
    const UPPER: i32 = (N - 1) as i32 & !255;

    /// The first of every entry.
    #[inline(always)]
    pub(super) fn new() -> Self {
        const { assert!(N.is_power_of_two() && N >= 256 && N <= 1 << 15) };
        Self([Quad([[0; 4]; ROWS]); Q])
    }

    /// Sets the places of a quad; bits that are too many are dropped.
    #[inline(always)]
    pub(super) fn set<W: Wide>(&mut self, w: W, quad: usize, places: W::V) {
        w.store(w.and(places, w.each(Self::ALL)), &mut self.0[quad]);
    }

    /// Sets two quads to the places of a word whose bytes are their low bits: the even ones, then the odd ones.
    ///
    /// The upper bits of place i are found in `upper` shifted left by `SHIFTS[i]`, at the place's own position: from bit 8 on
    /// for places 0 and 1, from bit 24 on for 2 and 3.
    #[inline(always)]
    pub(super) fn set_word<W: Wide, const A: u32, const B: u32, const C: u32, const D: u32>(
        &mut self,
        w: W,
        word: usize,
        low: W::V,
        upper: W::V,
    ) {
        let (first, last) = (w.each(Self::UPPER), w.each(Self::UPPER << 16));
        let even = w.or(w.and(w.shift_left::<A>(upper), first), w.and(w.shift_left::<C>(upper), last));
        let odd = w.or(w.and(w.shift_left::<B>(upper), first), w.and(w.shift_left::<D>(upper), last));
        let bytes = w.each(LOW_BYTES);
        self.set(w, 2 * word, w.or(w.and(low, bytes), even));
        self.set(w, 2 * word + 1, w.or(w.and(w.shift_right::<8>(low), bytes), odd));
    }

    /// The entry of a grid at a row's place.
    #[inline(always)]
    fn entry<T: Copy>(&self, grid: &[T; N], quad: usize, row: usize, second: bool) -> T {
        let [a, b, c, d] = self.0[quad].0[row];
        let place = usize::from(u16::from_le_bytes(if second { [c, d] } else { [a, b] }));
        // SAFETY: `set`, through which all places come, keeps the bits of N − 1, so that none is beyond it: N is a power of two.
        unsafe { *grid.get_unchecked(place) }
    }
}

impl<const N: usize> Places<N, 16> {
    /// Looks up 256 numbers by eights, at places that were [set](Self::set) in their order.
    #[inline(never)]
    pub(super) fn eights_of_pairs(&self, grid: &[u64; N], out: &mut Unpacked) {
        for quad in 0..16 {
            for i in 0..2 {
                for row in 0..ROWS {
                    put_eight(out, 2 * quad + i, row, self.entry(grid, quad, row, i == 1));
                }
            }
        }
    }

    /// Looks up 256 numbers by eights, at places that were [set by words](Self::set_word).
    #[inline(never)]
    pub(super) fn eights_of_words(&self, grid: &[u64; N], out: &mut Unpacked) {
        for word in 0..8 {
            for i in 0..4 {
                for row in 0..ROWS {
                    put_eight(out, 4 * word + i, row, self.entry(grid, 2 * word + i % 2, row, i >= 2));
                }
            }
        }
    }
}

impl<const N: usize> Places<N, 32> {
    /// Looks up 256 numbers by fours, at places that were [set by words](Self::set_word).
    #[inline(never)]
    pub(super) fn fours_of_words(&self, grid: &[u32; N], out: &mut Unpacked) {
        for (word, quads) in out.codes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            for (i, quad) in quads.iter_mut().enumerate() {
                for (row, four) in quad.0.iter_mut().enumerate() {
                    *four = self.entry(grid, 2 * word + i % 2, row, i >= 2).to_le_bytes();
                }
            }
        }
    }
}
