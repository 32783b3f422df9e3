//! Types of blocks of 32 to 128 numbers with one scale, whose codes are their bits.

use super::super::panel::Unpacked;
use super::super::wide::Wide;
use super::bits::{moved, nibbles, put, same_scale, signed, spread_bit, spread_bits, spread_crumbs};
use super::small::{Small, Source};

/// Stores a scale and a minimum that is to be added, from the low and the high half of `factors`.
#[inline(always)]
fn put_factors<W: Wide>(w: W, factors: W::V, group: usize, out: &mut Unpacked) {
    w.store_floats(w.low_half(factors), &mut out.scales[group]);
    let minimum = w.low_half(w.xor(w.shift_right::<16>(factors), w.each(0x8000)));
    w.store_floats(minimum, &mut out.minima[group]);
}

/// The codes of 32 numbers out of their nibbles and a word of fifth bits.
#[inline(always)]
fn five_bits<W: Wide>(w: W, uppers: W::V, bytes: [W::V; 4]) -> [W::V; 8] {
    let (uppers, fifth) = (spread_bits(w, uppers), w.bytes(16));
    let mut codes = nibbles(w, bytes);
    for (q, code) in codes.iter_mut().enumerate() {
        *code = w.or(*code, w.and(moved(w, uppers, spread_bit(q), 4), fifth));
    }
    codes
}

/// Scale, 16 bytes of nibbles.
pub(super) struct Q4_0;

impl Small for Q4_0 {
    const BYTES: usize = 18;
    const NUMBERS: usize = 32;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        w.store_floats(w.low_half(block.word(w, 0)), &mut out.scales[index]);
        put(w, nibbles(w, block.sixteen(w, 2)), &mut out.codes[8 * index..]);
    }
}

/// Scale, minimum (which is added), 16 bytes of nibbles.
pub(super) struct Q4_1;

impl Small for Q4_1 {
    const BYTES: usize = 20;
    const NUMBERS: usize = 32;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        put_factors(w, block.word(w, 0), index, out);
        put(w, nibbles(w, block.sixteen(w, 4)), &mut out.codes[8 * index..]);
    }
}

/// Scale, 32 fifth bits, 16 bytes of nibbles.
pub(super) struct Q5_0;

impl Small for Q5_0 {
    const BYTES: usize = 22;
    const NUMBERS: usize = 32;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        w.store_floats(w.low_half(block.word(w, 0)), &mut out.scales[index]);
        let codes = five_bits(w, block.word(w, 2), block.sixteen(w, 6));
        put(w, codes, &mut out.codes[8 * index..]);
    }
}

/// Scale, minimum (which is added), 32 fifth bits, 16 bytes of nibbles.
pub(super) struct Q5_1;

impl Small for Q5_1 {
    const BYTES: usize = 24;
    const NUMBERS: usize = 32;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        put_factors(w, block.word(w, 0), index, out);
        let codes = five_bits(w, block.word(w, 4), block.sixteen(w, 8));
        put(w, codes, &mut out.codes[8 * index..]);
    }
}

/// Scale, 32 signed bytes.
pub(super) struct Q8_0;

impl Small for Q8_0 {
    const BYTES: usize = 34;
    const NUMBERS: usize = 32;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        w.store_floats(w.low_half(block.word(w, 0)), &mut out.scales[index]);
        for half in 0..2 {
            let [a, b, c, d] = block.sixteen(w, 2 + 16 * half);
            let codes = [signed(w, a), signed(w, b), signed(w, c), signed(w, d)];
            put(w, codes, &mut out.codes[8 * index + 4 * half..]);
        }
    }
}

/// Scale, 128 bits, each of which stands for 1 or −1.
pub(super) struct Q1_0;

impl Small for Q1_0 {
    const BYTES: usize = 18;
    const NUMBERS: usize = 128;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        same_scale(w, w.low_half(block.word(w, 0)), 4 * index, 4, out);
        let two = w.bytes(2);
        for (j, word) in block.sixteen(w, 2).into_iter().enumerate() {
            let bits = spread_bits(w, word);
            for (q, to) in out.codes[32 * index + 8 * j..].iter_mut().take(8).enumerate() {
                w.store(w.and(moved(w, bits, spread_bit(q), 1), two), to);
            }
        }
    }
}

/// Scale, 64 crumbs; a crumb stands for itself less 1.
pub(super) struct Q2_0;

impl Small for Q2_0 {
    const BYTES: usize = 18;
    const NUMBERS: usize = 64;

    #[inline(always)]
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked) {
        same_scale(w, w.low_half(block.word(w, 0)), 2 * index, 2, out);
        let three = w.bytes(3);
        for (j, word) in block.sixteen(w, 2).into_iter().enumerate() {
            let crumbs = spread_crumbs(w, word);
            for (q, to) in out.codes[16 * index + 4 * j..].iter_mut().take(4).enumerate() {
                w.store(w.and(moved(w, crumbs, 2 * q, 0), three), to);
            }
        }
    }
}
