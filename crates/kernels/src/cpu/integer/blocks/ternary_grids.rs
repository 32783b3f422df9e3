//! Types whose numbers are −1, 0 or 1 with an offset of an eighth: places in a grid of 2048 entries of eight.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::Wide;
use super::entries::{iq1, places};
use super::grids::{put_scales, times_both};

/// Bits of a place above the eighth.
const UPPER: i32 = 7 << 8;

/// Scale; low bytes of 32 places; for each 32 numbers four times 3 upper bits of places, a scale of 3 bits and the offset's
/// sign.
#[inline(always)]
pub(super) fn iq1_s<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [a, b, c, d] = rows.sixteen(w, 34);
    // Eight fields, each in the low half of its word.
    let mut fields = [a, a, b, b, c, c, d, d];
    for pair in fields.as_chunks_mut::<2>().0 {
        pair[1] = w.shift_right::<16>(pair[1]);
    }
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.25, 0.125]);
    for half in 0..2 {
        for (i, low) in rows.sixteen(w, 2 + 16 * half).into_iter().enumerate() {
            let wide = 4 * half + i;
            let field = fields[wide];
            put_scales::<W, 3, 1>(w, w.shift_right::<12>(field), factors, out, wide);
            let minus = w.and(w.shift_right::<15>(field), w.each(1));
            // What is added to eight, so that nine is zero.
            let offset = w.lookup(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], spread(w, minus));
            let uppers = [
                w.shift_left::<8>(field),
                w.shift_left::<5>(field),
                w.shift_left::<2>(field),
                w.shift_right::<1>(field),
            ];
            let eights = iq1(w, places(w, low, uppers, UPPER));
            for (x, to) in eights.into_iter().zip(&mut out.codes[8 * wide..]) {
                w.store(w.or(x, offset), to);
            }
        }
    }
}

/// The lowest byte of each row four times; the others must be zero.
#[inline(always)]
fn spread<W: Wide>(w: W, x: W::V) -> W::V {
    let two = w.or(x, w.shift_left::<8>(x));
    w.or(two, w.shift_left::<16>(two))
}

/// Low bytes of 32 places; for each 8 numbers 3 upper bits of the place and the offset's sign; for each 16 a scale of 3 bits,
/// and the scale of all in what four words of scales leave.
#[inline(always)]
pub(super) fn iq1_m<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    iq1_m_scales(w, rows, out);
    let uppers = rows.sixteen(w, 32);
    for half in 0..2 {
        for (i, low) in rows.sixteen(w, 16 * half).into_iter().enumerate() {
            let wide = 4 * half + i;
            let upper = uppers[wide / 2];
            let upper = if i % 2 == 0 { upper } else { w.shift_right::<16>(upper) };
            // The upper bit of each nibble in all four of them: whether one is to be taken away.
            let top = w.and(upper, w.bytes(0x88));
            let two = w.or(top, w.shift_right::<1>(top));
            let minus = w.or(two, w.shift_right::<2>(two));
            let one = w.bytes(1);
            let offsets = [
                w.negate::<0>(one, minus),
                w.negate::<1>(one, minus),
                w.negate::<2>(one, minus),
                w.negate::<3>(one, minus),
            ];
            let uppers = [w.shift_left::<8>(upper), w.shift_left::<4>(upper), upper, w.shift_right::<4>(upper)];
            let eights = iq1(w, places(w, low, uppers, UPPER));
            for (q, (x, to)) in eights.into_iter().zip(&mut out.codes[8 * wide..]).enumerate() {
                // One more than eight: nine is zero.
                w.store(w.add_bytes(x, w.add_bytes(offsets[q / 2], one)), to);
            }
        }
    }
}

/// The scales of `IQ1_M`.
#[inline(always)]
fn iq1_m_scales<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [.., a, b] = rows.sixteen(w, 40);
    let low = w.or(w.and(w.shift_right::<12>(a), w.each(0xf)), w.and(w.shift_right::<24>(a), w.each(0xf0)));
    let high = w.or(w.and(w.shift_right::<4>(b), w.each(0xf00)), w.and(w.shift_right::<16>(b), w.each(0xf000)));
    let factors = times_both(w, w.low_half(w.or(low, high)), [0.25, 0.125]);
    for (i, word) in [a, w.shift_right::<16>(a), b, w.shift_right::<16>(b)].into_iter().enumerate() {
        put_scales::<W, 3, 4>(w, word, factors, out, 4 * i);
    }
}
