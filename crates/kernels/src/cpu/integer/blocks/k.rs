//! Types of blocks of 256 numbers with scales for each 16 or 32 of them.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::Wide;
use super::plain::{nibbles, put};

/// Scale and minimum, and eight 6-bit scales and minima of the 16 bytes that `Q4_K` and `Q5_K` begin with.
#[inline(always)]
fn scales_and_minima<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [factors, a, b, c] = rows.sixteen(w, 0);
    let (scale, minimum) = (w.low_half(factors), w.low_half(w.shift_right::<16>(factors)));
    // See `tables::scale_and_min` for the places of the bits.
    let (low, upper) = (w.bytes(15), w.bytes(3 << 4));
    let six = w.bytes(63);
    let top = |word| w.and(w.shift_right::<2>(word), upper);
    let scales = [w.and(a, six), w.or(w.and(c, low), top(a))];
    let minima = [w.and(b, six), w.or(w.and(w.shift_right::<4>(c), low), top(b))];
    for half in 0..2 {
        let four = &mut out.scales[4 * half..4 * half + 4];
        for (to, x) in four.iter_mut().zip(bytes(w, scales[half])) {
            w.store_floats(w.mul(x, scale), to);
        }
        let four = &mut out.minima[4 * half..4 * half + 4];
        for (to, x) in four.iter_mut().zip(bytes(w, minima[half])) {
            w.store_floats(w.mul(x, minimum), to);
        }
    }
}

/// The four bytes of each lane as numbers.
#[inline(always)]
fn bytes<W: Wide>(w: W, x: W::V) -> [W::F; 4] {
    [w.byte::<0>(x), w.byte::<8>(x), w.byte::<16>(x), w.byte::<24>(x)]
}

/// Scale, minimum, 12 bytes of scales and minima, 128 of nibbles.
#[inline(always)]
pub(super) fn q4_k<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    scales_and_minima(w, rows, out);
    for run in 0..4 {
        for half in 0..2 {
            let [a, b, c, d, e, f, g, h] = nibbles(w, rows.sixteen(w, 16 + 32 * run + 16 * half));
            put(w, [a, b, c, d], &mut out.codes[16 * run + 4 * half..]);
            put(w, [e, f, g, h], &mut out.codes[16 * run + 8 + 4 * half..]);
        }
    }
}

/// As `Q4_K`, with 32 bytes of fifth bits before the nibbles.
#[inline(always)]
pub(super) fn q5_k<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    scales_and_minima(w, rows, out);
    let fifth = w.bytes(16);
    for half in 0..2 {
        let uppers = rows.sixteen(w, 16 + 16 * half);
        for run in 0..4 {
            let codes = nibbles(w, rows.sixteen(w, 48 + 32 * run + 16 * half));
            for part in 0..2 {
                for i in 0..4 {
                    let bit = 2 * run + part;
                    let upper = shifted(w, uppers[i], bit);
                    let code = w.or(codes[4 * part + i], w.and(upper, fifth));
                    w.store(code, &mut out.codes[16 * run + 8 * part + 4 * half + i]);
                }
            }
        }
    }
}

/// Bit `bit` of each byte as its bit 4 (and other bits elsewhere).
#[inline(always)]
fn shifted<W: Wide>(w: W, x: W::V, bit: usize) -> W::V {
    match bit {
        0 => w.shift_left::<4>(x),
        1 => w.shift_left::<3>(x),
        2 => w.shift_left::<2>(x),
        3 => w.shift_left::<1>(x),
        4 => x,
        5 => w.shift_right::<1>(x),
        6 => w.shift_right::<2>(x),
        _ => w.shift_right::<3>(x),
    }
}

/// 128 bytes of nibbles, 64 of crumbs, 16 signed scales, scale; a code stands for itself less 32.
#[inline(always)]
pub(super) fn q6_k<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let scale = w.low_half(rows.shorts(w, 208));
    let zero = w.each_float(-128.0);
    for (i, four) in rows.sixteen(w, 192).into_iter().enumerate() {
        // With 128 added a signed byte is an unsigned one.
        for (to, x) in out.scales[4 * i..].iter_mut().zip(bytes(w, w.xor(four, w.bytes(128)))) {
            w.store_floats(w.mul(w.mul_add(x, w.each_float(1.0), zero), scale), to);
        }
    }
    let upper = w.bytes(3 << 4);
    for part in 0..2 {
        for half in 0..2 {
            let crumbs = rows.sixteen(w, 128 + 32 * part + 16 * half);
            for side in 0..2 {
                // 32 numbers in the low nibbles of these bytes, and 32 that are 64 further in the high ones.
                let codes = nibbles(w, rows.sixteen(w, 64 * part + 32 * side + 16 * half));
                for i in 0..4 {
                    let crumb = crumbs[i];
                    let (low, high) = if side == 0 {
                        (w.shift_left::<4>(crumb), crumb)
                    } else {
                        (w.shift_left::<2>(crumb), w.shift_right::<2>(crumb))
                    };
                    let at = 32 * part + 8 * side + 4 * half + i;
                    w.store(w.or(codes[i], w.and(low, upper)), &mut out.codes[at]);
                    w.store(w.or(codes[4 + i], w.and(high, upper)), &mut out.codes[at + 16]);
                }
            }
        }
    }
}
