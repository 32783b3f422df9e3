//! Types of blocks of 256 numbers with scales for each 16 or 32 of them.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::Wide;
use super::bits::{bytes, each, in_place, moved, nibbles, put, put_bits};
use super::direct::{Dots, Single};

/// Scale and minimum, and eight 6-bit scales and minima of the 16 bytes that `Q4_K` and `Q5_K` begin with.
#[inline(always)]
fn scales_and_minima<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [factors, a, b, c] = rows.sixteen(w, 0);
    let (scale, minimum) = (w.low_half(factors), w.low_half(w.shift_right::<16>(factors)));
    // See `tables::scale_and_min` for the places of the bits.
    let (low, upper) = (w.bytes(15), w.bytes(3 << 4));
    let six = w.bytes(63);
    let (top_a, top_b) = (w.and(w.shift_right::<2>(a), upper), w.and(w.shift_right::<2>(b), upper));
    let scales = [w.and(a, six), w.or(w.and(c, low), top_a)];
    let minima = [w.and(b, six), w.or(w.and(w.shift_right::<4>(c), low), top_b)];
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

/// Sixteen scales (low) and minima (high) of 4 bits, 64 bytes of crumbs, scale, minimum.
#[inline(always)]
pub(super) fn q2_k<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let last = rows.sixteen(w, 68);
    let (scale, minimum) = (w.low_half(last[3]), w.low_half(w.shift_right::<16>(last[3])));
    let low = w.bytes(15);
    for (i, both) in rows.sixteen(w, 0).into_iter().enumerate() {
        for (to, x) in out.scales[4 * i..].iter_mut().zip(bytes(w, w.and(both, low))) {
            w.store_floats(w.mul(x, scale), to);
        }
        let minima = w.and(w.shift_right::<4>(both), low);
        for (to, x) in out.minima[4 * i..].iter_mut().zip(bytes(w, minima)) {
            w.store_floats(w.mul(x, minimum), to);
        }
    }
    for half in 0..2 {
        in_place::<W, 2, 2>(w, 8 * half + 2, out);
        in_place::<W, 4, 2>(w, 8 * half + 4, out);
        in_place::<W, 6, 2>(w, 8 * half + 6, out);
    }
    for piece in 0..4 {
        let four = rows.sixteen(w, 16 + 16 * piece);
        for pair in 0..4 {
            put_bits::<W, 2>(w, four, 2 * pair, &mut out.codes[piece / 2 * 32 + 8 * pair + piece % 2 * 4..]);
        }
    }
}

/// 32 bytes of third bits, 64 of crumbs, 12 of scales, scale; a code stands for itself less 4.
#[inline(always)]
pub(super) fn q3_k<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    q3_k_scales(w, rows, out);
    let (three, third) = (w.bytes(3), w.bytes(4));
    for half in 0..2 {
        let uppers = rows.sixteen(w, 16 * half);
        each!(part in 0 1 => {
            let crumbs = rows.sixteen(w, 32 + 32 * part + 16 * half);
            each!(pair in 0 1 2 3 => {
                for i in 0..4 {
                    let crumb = w.and(moved(w, crumbs[i], 2 * pair, 0), three);
                    let upper = w.and(moved(w, uppers[i], 4 * part + pair, 2), third);
                    w.store(w.or(crumb, upper), &mut out.codes[32 * part + 8 * pair + 4 * half + i]);
                }
            });
        });
    }
}

/// See `tables::q3_k_scale` for the places of the bits.
#[inline(always)]
fn q3_k_scales<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    // Twelve bytes and the scale, of which two bytes more come first.
    let [a, b, c, d] = rows.sixteen(w, 94);
    let scale = w.low_half(w.shift_right::<16>(d));
    let zero = w.mul(scale, w.each_float(-32.0));
    let first = w.or(w.shift_right::<16>(a), w.shift_left::<16>(b));
    let second = w.or(w.shift_right::<16>(b), w.shift_left::<16>(c));
    let tops = w.or(w.shift_right::<16>(c), w.shift_left::<16>(d));
    let (low, top) = (w.bytes(15), w.bytes(3 << 4));
    let six = [
        w.or(w.and(first, low), w.and(w.shift_left::<4>(tops), top)),
        w.or(w.and(second, low), w.and(w.shift_left::<2>(tops), top)),
        w.or(w.and(w.shift_right::<4>(first), low), w.and(tops, top)),
        w.or(w.and(w.shift_right::<4>(second), low), w.and(w.shift_right::<2>(tops), top)),
    ];
    for (i, four) in six.into_iter().enumerate() {
        for (to, x) in out.scales[4 * i..].iter_mut().zip(bytes(w, four)) {
            w.store_floats(w.mul_add(x, scale, zero), to);
        }
    }
}

/// Scale, minimum, 12 bytes of scales and minima, 128 of nibbles.
#[inline(always)]
pub(super) fn q4_k<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    scales_and_minima(w, rows, out);
    for run in 0..4 {
        in_place::<W, 4, 1>(w, 2 * run + 1, out);
        for half in 0..2 {
            let four = rows.sixteen(w, 16 + 32 * run + 16 * half);
            put_bits::<W, 4>(w, four, 0, &mut out.codes[16 * run + 4 * half..]);
            put_bits::<W, 4>(w, four, 4, &mut out.codes[16 * run + 8 + 4 * half..]);
        }
    }
}

/// The dot products of its groups with a column.
#[inline(always)]
pub(super) fn q4_k_dots<W: Wide>(w: W, rows: Rows, column: &Single, out: &mut Unpacked, dots: &mut Dots) {
    scales_and_minima(w, rows, out);
    for run in 0..4 {
        let starts = [column.start(w, 2 * run), column.start(w, 2 * run + 1)];
        let mut parts = [w.begin(starts[0]), w.begin(starts[1])];
        for half in 0..2 {
            let codes = nibbles(w, rows.sixteen(w, 16 + 32 * run + 16 * half));
            for i in 0..4 {
                let quad = 16 * run + 4 * half + i;
                parts[0] = w.dot(parts[0], codes[i], column.four(w, quad));
                parts[1] = w.dot(parts[1], codes[4 + i], column.four(w, quad + 8));
            }
        }
        w.store(w.end(starts[0], parts[0]), &mut dots[2 * run]);
        w.store(w.end(starts[1], parts[1]), &mut dots[2 * run + 1]);
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
                    let upper = moved(w, uppers[i], bit, 4);
                    let code = w.or(codes[4 * part + i], w.and(upper, fifth));
                    w.store(code, &mut out.codes[16 * run + 8 * part + 4 * half + i]);
                }
            }
        }
    }
}

/// 128 bytes of nibbles, 64 of crumbs, 16 signed scales, scale; a code stands for itself less 32.
#[inline(always)]
pub(super) fn q6_k<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    q6_k_scales(w, rows, out);
    for part in 0..2 {
        for half in 0..2 {
            let crumbs = q6_k_crumbs(w, rows, part, half);
            for side in 0..2 {
                let at = 32 * part + 8 * side + 4 * half;
                let (low, high) = q6_k_codes(w, rows, crumbs, [part, half, side]);
                put(w, low, &mut out.codes[at..]);
                put(w, high, &mut out.codes[at + 16..]);
            }
        }
    }
}

/// The dot products of its groups with a column.
#[inline(always)]
pub(super) fn q6_k_dots<W: Wide>(w: W, rows: Rows, column: &Single, out: &mut Unpacked, dots: &mut Dots) {
    q6_k_scales(w, rows, out);
    for part in 0..2 {
        for half in 0..2 {
            let crumbs = q6_k_crumbs(w, rows, part, half);
            for side in 0..2 {
                let group = 8 * part + 2 * side + half;
                let (low, high) = q6_k_codes(w, rows, crumbs, [part, half, side]);
                for (codes, group) in [(low, group), (high, group + 4)] {
                    let mut sums = column.start(w, group);
                    for pair in 0..2 {
                        // More products of two numbers than two do not fit 16 bits.
                        let mut parts = w.begin(sums);
                        for (i, code) in codes.iter().enumerate().skip(2 * pair).take(2) {
                            parts = w.dot(parts, *code, column.four(w, 4 * group + i));
                        }
                        sums = w.end(sums, parts);
                    }
                    w.store(sums, &mut dots[group]);
                }
            }
        }
    }
}

#[inline(always)]
fn q6_k_scales<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let last = rows.sixteen(w, 194);
    let scale = w.low_half(w.shift_right::<16>(last[3]));
    let zero = w.mul(scale, w.each_float(-128.0));
    for (i, four) in rows.sixteen(w, 192).into_iter().enumerate() {
        // With 128 added a signed byte is an unsigned one.
        for (to, x) in out.scales[4 * i..].iter_mut().zip(bytes(w, w.xor(four, w.bytes(128)))) {
            w.store_floats(w.mul_add(x, scale, zero), to);
        }
    }
}

/// The upper bits of four groups' codes: of both halves of two sides.
#[inline(always)]
fn q6_k_crumbs<W: Wide>(w: W, rows: Rows, part: usize, half: usize) -> [W::V; 4] {
    rows.sixteen(w, 128 + 32 * part + 16 * half)
}

/// The codes of sixteen numbers in the low nibbles of some bytes, and of sixteen that are 64 further in the high ones.
#[inline(always)]
fn q6_k_codes<W: Wide>(w: W, rows: Rows, crumbs: [W::V; 4], [part, half, side]: [usize; 3]) -> ([W::V; 4], [W::V; 4]) {
    let upper = w.bytes(3 << 4);
    let [mut low, mut high] = [crumbs; 2];
    let codes = nibbles(w, rows.sixteen(w, 64 * part + 32 * side + 16 * half));
    for i in 0..4 {
        let (first, second) = if side == 0 {
            (w.shift_left::<4>(crumbs[i]), crumbs[i])
        } else {
            (w.shift_left::<2>(crumbs[i]), w.shift_right::<2>(crumbs[i]))
        };
        low[i] = w.or(codes[i], w.and(first, upper));
        high[i] = w.or(codes[4 + i], w.and(second, upper));
    }
    (low, high)
}
