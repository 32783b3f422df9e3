//! Types of blocks of 32 numbers with one scale.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::{Quad, Wide};

/// The codes of 32 numbers, of which sixteen bytes hold the first half in their low nibbles and the second in their high ones.
#[inline(always)]
pub(super) fn nibbles<W: Wide>(w: W, bytes: [W::V; 4]) -> [W::V; 8] {
    let low = w.bytes(15);
    std::array::from_fn(|i| {
        let word = bytes[i % 4];
        w.and(if i < 4 { word } else { w.shift_right::<4>(word) }, low)
    })
}

/// Stores vectors of codes.
#[inline(always)]
pub(super) fn put<W: Wide, const N: usize>(w: W, codes: [W::V; N], to: &mut [Quad]) {
    for (code, to) in codes.into_iter().zip(to) {
        w.store(code, to);
    }
}

/// Scale, 16 bytes of nibbles.
#[inline(always)]
pub(super) fn q4_0<W: Wide>(w: W, rows: Rows, groups: usize, out: &mut Unpacked) {
    for group in 0..groups {
        let at = 18 * group;
        w.store_floats(w.low_half(rows.shorts(w, at)), &mut out.scales[group]);
        put(w, nibbles(w, rows.sixteen(w, at + 2)), &mut out.codes[8 * group..]);
    }
}

/// Scale, minimum (which is added), 16 bytes of nibbles.
#[inline(always)]
pub(super) fn q4_1<W: Wide>(w: W, rows: Rows, groups: usize, out: &mut Unpacked) {
    for group in 0..groups {
        let at = 20 * group;
        let factors = rows.words(w, at);
        w.store_floats(w.low_half(factors), &mut out.scales[group]);
        let minimum = w.low_half(w.shift_right::<16>(factors));
        w.store_floats(w.mul(minimum, w.each_float(-1.0)), &mut out.minima[group]);
        put(w, nibbles(w, rows.sixteen(w, at + 4)), &mut out.codes[8 * group..]);
    }
}

/// Scale, 32 signed bytes.
#[inline(always)]
pub(super) fn q8_0<W: Wide>(w: W, rows: Rows, groups: usize, out: &mut Unpacked) {
    let zero = w.bytes(128);
    for group in 0..groups {
        let at = 34 * group;
        w.store_floats(w.low_half(rows.shorts(w, at)), &mut out.scales[group]);
        for half in 0..2 {
            let codes = rows.sixteen(w, at + 2 + 16 * half).map(|word| w.xor(word, zero));
            put(w, codes, &mut out.codes[8 * group + 4 * half..]);
        }
    }
}
