//! Types whose 4-bit codes are places in a table of sixteen values.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::Wide;
use super::bits::{bytes, look_up, nibbles, put};
use super::small::{Small, Source};
use crate::tables::{E2M1_DOUBLED, IQ4_VALUES};

/// The values of a table, from 0 up: `zero` stands for 0.
const fn around(values: [i8; 16], zero: i8) -> [u8; 16] {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = zero.wrapping_add(values[i]) as u8;
        i += 1;
    }
    codes
}

/// The code of zero among those of [`IQ4`]: the least that leaves none below 0.
pub(super) const IQ4_ZERO: u8 = 127;
const IQ4: [u8; 16] = around(IQ4_VALUES, IQ4_ZERO as i8);
const IQ4_SIGNED: [u8; 16] = around(IQ4_VALUES, 0);

/// The codes of sixteen bytes' nibbles.
#[inline(always)]
fn iq4<W: Wide>(w: W, bytes: [W::V; 4]) -> [W::V; 8] {
    look_up(w, if W::PAIRS { &IQ4_SIGNED } else { &IQ4 }, nibbles(w, bytes))
}

/// The code of zero among those of [`E2M1`].
pub(super) const E2M1_ZERO: u8 = 12;
const E2M1: [u8; 16] = around(E2M1_DOUBLED, E2M1_ZERO as i8);

/// Scale, 16 bytes of nibbles.
pub(super) struct Iq4Nl;

impl Small for Iq4Nl {
    const BYTES: usize = 18;
    const NUMBERS: usize = 32;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        w.store_floats(w.low_half(block.word(w, 0)), &mut out.scales[index]);
        put(w, iq4(w, block.sixteen(w, 2)), &mut out.codes[8 * index..]);
    }
}

/// An exponent, 16 bytes of nibbles.
pub(super) struct Mxfp4;

impl Small for Mxfp4 {
    const BYTES: usize = 17;
    const NUMBERS: usize = 32;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        w.store_floats(e8m0_half(w, block.word(w, 0)), &mut out.scales[index]);
        let codes = look_up(w, &E2M1, nibbles(w, block.sixteen(w, 1)));
        put(w, codes, &mut out.codes[8 * index..]);
    }
}

/// `tables::e8m0_half` of the lowest byte: 2^(code − 128), as the product of two powers that are no subnormals.
#[inline(always)]
fn e8m0_half<W: Wide>(w: W, x: W::V) -> W::F {
    let code = w.and(x, w.each(255));
    let half = w.shift_right::<1>(code);
    w.mul(power(w, half), power(w, w.sub_bytes(code, half)))
}

/// 2^(x − 64) of x from 0 to 128.
#[inline(always)]
fn power<W: Wide>(w: W, x: W::V) -> W::F {
    w.as_float(w.shift_left::<23>(w.add_bytes(x, w.each(63))))
}

/// Four small floats as scales, 4 times 8 bytes of nibbles.
pub(super) struct Nvfp4;

impl Small for Nvfp4 {
    const BYTES: usize = 36;
    const NUMBERS: usize = 64;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        for (scale, to) in ue4m3_halves(w, block.word(w, 0)).into_iter().zip(&mut out.scales[4 * index..]) {
            w.store_floats(scale, to);
        }
        for half in 0..2 {
            // Words 0 and 1 are a group's, words 2 and 3 the next one's.
            let [a, b, c, d, e, f, g, h] = look_up(w, &E2M1, nibbles(w, block.sixteen(w, 4 + 16 * half)));
            put(w, [a, b, e, f, c, d, g, h], &mut out.codes[16 * index + 8 * half..]);
        }
    }
}

/// `tables::ue4m3_half` of the four bytes.
#[inline(always)]
fn ue4m3_halves<W: Wide>(w: W, x: W::V) -> [W::F; 4] {
    // Only 0x7f, which stands for 0, has no upper bit and has one when 1 is added.
    let next = w.add_bytes(x, w.bytes(1));
    let upper = w.and(w.and(next, w.xor(x, w.bytes(0xff))), w.bytes(128));
    let none = w.sub_bytes(upper, w.shift_right::<7>(upper));
    let x = w.xor(x, none);
    // As the upper bits of a half its exponent is 8 too small, and the halving takes 1 off again.
    let (place, factor) = (w.each(0x7f << 7), w.each_float(128.0));
    [
        w.mul(w.low_half(w.and(w.shift_left::<7>(x), place)), factor),
        w.mul(w.low_half(w.and(w.shift_right::<1>(x), place)), factor),
        w.mul(w.low_half(w.and(w.shift_right::<9>(x), place)), factor),
        w.mul(w.low_half(w.and(w.shift_right::<17>(x), place)), factor),
    ]
}

/// Scale, upper and lower parts of eight 6-bit scales, 8 times 16 bytes of nibbles.
#[inline(always)]
pub(super) fn iq4_xs<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [first, lower, _, _] = rows.sixteen(w, 0);
    let scale = w.low_half(first);
    let zero = w.mul(scale, w.each_float(-32.0));
    // The eight pairs of upper bits, two in the low half of each byte.
    let upper = w.shift_right::<16>(first);
    let upper = w.and(w.or(upper, w.shift_left::<8>(upper)), w.each(0x00ff_00ff));
    let upper = w.and(w.or(upper, w.shift_left::<4>(upper)), w.bytes(15));
    let (low, high) = (w.bytes(15), w.bytes(3 << 4));
    let even = w.or(w.and(lower, low), w.and(w.shift_left::<4>(upper), high));
    let odd = w.or(w.and(w.shift_right::<4>(lower), low), w.and(w.shift_left::<2>(upper), high));
    for (side, four) in [even, odd].into_iter().enumerate() {
        for (i, x) in bytes(w, four).into_iter().enumerate() {
            w.store_floats(w.mul_add(x, scale, zero), &mut out.scales[2 * i + side]);
        }
    }
    for group in 0..8 {
        put(w, iq4(w, rows.sixteen(w, 8 + 16 * group)), &mut out.codes[8 * group..]);
    }
}
