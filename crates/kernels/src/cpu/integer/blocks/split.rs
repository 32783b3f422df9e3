//! Grids as tables of bytes, where registers hold them: 32 numbers of sixteen rows are looked up at once.
//!
//! An entry is split into two bytes, and each of these tables is looked up by itself. What a number's bits in them stand for,
//! with its sign, is one more look-up in a table of 64. Nothing goes by way of memory, and no row by itself.

use super::super::wide::Wide;
use crate::tables::{IQ2_MAGNITUDES, IQ3_S_MAGNITUDES, IQ3_XXS_MAGNITUDES, grids};

/// The two bytes of `128 · T` entries, and what the bits of one number stand for.
pub(super) struct Split<const T: usize> {
    low: [[u8; 128]; T],
    high: [[u8; 128]; T],
    codes: [u8; 64],
}

/// Grids of eights: two bits a number, four numbers in each byte.
pub(super) static IQ2_XXS: Split<2> = eights(&grids::IQ2_XXS);
pub(super) static IQ2_XS: Split<4> = eights(&grids::IQ2_XS);
pub(super) static IQ2_S: Split<8> = eights(&grids::IQ2_S);
/// Grids of fours: the two lower bits of a number in one byte, the third in the other.
pub(super) static IQ3_XXS: Split<2> = fours(&grids::IQ3_XXS, IQ3_XXS_MAGNITUDES, 64);
pub(super) static IQ3_S: Split<4> = fours(&grids::IQ3_S, IQ3_S_MAGNITUDES, 16);

const fn eights<const N: usize, const T: usize>(packed: &[u16; N]) -> Split<T> {
    let mut split = Split { low: [[0; 128]; T], high: [[0; 128]; T], codes: [0; 64] };
    let mut i = 0;
    while i < N {
        [split.low[i / 128][i % 128], split.high[i / 128][i % 128]] = packed[i].to_le_bytes();
        i += 1;
    }
    let mut i = 0;
    while i < 64 {
        // Two bits of magnitude, then the sign.
        let magnitude = IQ2_MAGNITUDES[i % 4];
        split.codes[i] = if i & 4 == 0 { 64 + magnitude } else { 64 - magnitude };
        i += 1;
    }
    split
}

const fn fours<const N: usize, const T: usize>(packed: &[u16; N], magnitudes: [u8; 8], zero: u8) -> Split<T> {
    let mut split = Split { low: [[0; 128]; T], high: [[0; 128]; T], codes: [0; 64] };
    let mut i = 0;
    while i < N {
        let mut number = 0;
        while number < 4 {
            let code = (packed[i] >> (4 * number) & 7) as u8;
            split.low[i / 128][i % 128] |= (code & 3) << (2 * number);
            split.high[i / 128][i % 128] |= (code >> 2) << number;
            number += 1;
        }
        i += 1;
    }
    let mut i = 0;
    while i < 64 {
        // Three bits of magnitude, then the sign.
        let magnitude = magnitudes[i % 8];
        split.codes[i] = if i & 8 == 0 { zero + magnitude } else { zero - magnitude };
        i += 1;
    }
    split
}

/// Bits of `b` where `mask` is clear, of `a` where it is set.
#[inline(always)]
fn select<W: Wide>(w: W, mask: u8, a: W::V, b: W::V) -> W::V {
    w.xor(b, w.and(w.xor(a, b), w.bytes(mask)))
}

impl<const T: usize> Split<T> {
    /// The codes of 32 numbers of each row: of eights at four places, the bytes of `low` with what lies above them in those of
    /// `upper`, and signs in their order.
    #[inline(always)]
    pub(super) fn eights<W: Wide>(&self, w: W, low: W::V, upper: W::V, signs: W::V) -> [W::V; 8] {
        let first = w.lookup_128s(&self.low, low, upper);
        let last = w.lookup_128s(&self.high, low, upper);
        [
            self.codes_of_eights(w, w.windows::<0, 2>(first), w.windows::<-2, 1>(signs)),
            self.codes_of_eights(w, w.windows::<0, 2>(last), w.windows::<2, 1>(signs)),
            self.codes_of_eights(w, w.windows::<8, 2>(first), w.windows::<6, 1>(signs)),
            self.codes_of_eights(w, w.windows::<8, 2>(last), w.windows::<10, 1>(signs)),
            self.codes_of_eights(w, w.windows::<16, 2>(first), w.windows::<14, 1>(signs)),
            self.codes_of_eights(w, w.windows::<16, 2>(last), w.windows::<18, 1>(signs)),
            self.codes_of_eights(w, w.windows::<24, 2>(first), w.windows::<22, 1>(signs)),
            self.codes_of_eights(w, w.windows::<24, 2>(last), w.windows::<26, 1>(signs)),
        ]
    }

    /// The codes of 16 numbers of each row: of fours at four places, as [`eights`](Self::eights), and signs from bit 0 on.
    #[inline(always)]
    pub(super) fn fours<W: Wide>(&self, w: W, low: W::V, upper: W::V, signs: W::V) -> [W::V; 4] {
        let lower = w.lookup_128s(&self.low, low, upper);
        let third = w.lookup_128s(&self.high, low, upper);
        [
            self.codes_of_fours(w, w.windows::<0, 2>(lower), w.windows::<-2, 1>(third), w.windows::<-3, 1>(signs)),
            self.codes_of_fours(w, w.windows::<8, 2>(lower), w.windows::<6, 1>(third), w.windows::<1, 1>(signs)),
            self.codes_of_fours(w, w.windows::<16, 2>(lower), w.windows::<14, 1>(third), w.windows::<5, 1>(signs)),
            self.codes_of_fours(w, w.windows::<24, 2>(lower), w.windows::<22, 1>(third), w.windows::<9, 1>(signs)),
        ]
    }

    /// The codes of numbers whose magnitudes are the two low bits of bytes, and their signs the third bits of others.
    #[inline(always)]
    fn codes_of_eights<W: Wide>(&self, w: W, magnitudes: W::V, signs: W::V) -> W::V {
        w.lookup_64(&self.codes, select(w, 3, magnitudes, signs))
    }

    /// The codes of numbers whose magnitudes are the two low bits of bytes and the third bits of others, and their signs the
    /// fourth bits of others again.
    #[inline(always)]
    fn codes_of_fours<W: Wide>(&self, w: W, lower: W::V, third: W::V, signs: W::V) -> W::V {
        w.lookup_64(&self.codes, select(w, 3, lower, select(w, 4, third, signs)))
    }
}
