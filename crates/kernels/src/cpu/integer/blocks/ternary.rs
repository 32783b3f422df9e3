//! Types of 256 numbers that are −1, 0 or 1 times one scale.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::Wide;
use super::bits::{put_crumbs, same_scale};

/// 64 bytes of crumbs, scale; a crumb stands for itself less 1.
#[inline(always)]
pub(super) fn tq2_0<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let last = rows.sixteen(w, 50);
    same_scale(w, w.low_half(w.shift_right::<16>(last[3])), 0, 8, out);
    for piece in 0..4 {
        let four = rows.sixteen(w, 16 * piece);
        for pair in 0..4 {
            put_crumbs(w, four, 2 * pair, &mut out.codes[piece / 2 * 32 + 8 * pair + piece % 2 * 4..]);
        }
    }
}

/// 48 bytes of five ternary digits, 4 of four, scale; a byte is its digits as a fraction, in 256ths of 3^5.
#[inline(always)]
pub(super) fn tq1_0<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [_, _, early, late] = rows.sixteen(w, 38);
    same_scale(w, w.low_half(w.shift_right::<16>(late)), 0, 8, out);
    for piece in 0..3 {
        // 32 bytes have the first digits of 32 numbers each, 16 more those of 16.
        let (first, step) = if piece < 2 { (4 * piece, 8) } else { (40, 4) };
        for (i, fractions) in rows.sixteen(w, 16 * piece).into_iter().enumerate() {
            let mut fractions = fractions;
            for digit in 0..5 {
                w.store(next_digit(w, &mut fractions), &mut out.codes[first + step * digit + i]);
            }
        }
    }
    let mut fractions = w.or(w.shift_right::<16>(early), w.shift_left::<16>(late));
    for to in &mut out.codes[60..] {
        w.store(next_digit(w, &mut fractions), to);
    }
}

/// The first ternary digit of each byte as a fraction, which is left with the others: what three times it carries.
#[inline(always)]
fn next_digit<W: Wide>(w: W, fractions: &mut W::V) -> W::V {
    let once = *fractions;
    let twice = w.add_bytes(once, once);
    let thrice = w.add_bytes(twice, once);
    *fractions = thrice;
    // A sum carries where both upper bits are set, or one is and the sum's is not. Doubling carries the upper bit.
    let carry = w.or(w.and(twice, once), w.and(w.or(twice, once), w.xor(thrice, w.bytes(0xff))));
    let one = w.bytes(1);
    w.add_bytes(w.and(w.shift_right::<7>(once), one), w.and(w.shift_right::<7>(carry), one))
}
