//! The types of 256 numbers with scales for each 16 or 32 of them.

use super::{Block, Sink, bytes, half};
use crate::cpu::simd::{LANES, Lanes, Simd};
use crate::tables::u32_at;

/// Every byte of a word the same.
const fn each(byte: u8) -> u32 {
    u32::from_le_bytes([byte; 4])
}

/// Sixteen scales, each times its factor, in memory: a group's is then one broadcast load.
#[inline(always)]
fn scaled<S: Simd>(s: S, scales: S::F, factor: S::F) -> Lanes {
    let mut all = [0.0; LANES];
    s.store(s.mul(scales, factor), &mut all);
    all
}

/// The 32 bytes at `at` that hold eight groups of crumbs: even groups in the first half, odd ones in the second, by
/// bit pair from the lowest.
#[inline(always)]
fn crumbs_of<S: Simd>(s: S, block: &[u8], at: usize) -> [S::B; 2] {
    [s.bytes(bytes(block, at)), s.bytes(bytes(block, at + 16))]
}

/// The lowest crumbs of each byte, which are then shifted out.
#[inline(always)]
fn next_crumbs<S: Simd>(s: S, crumbs: &mut S::B) -> S::B {
    let lowest = s.bytes_and(*crumbs, s.bytes_splat(3));
    *crumbs = s.bytes_shift_right::<2>(*crumbs);
    lowest
}

/// A float, 256 signed bytes, 16 sums.
pub(crate) struct Q8K;

impl Block for Q8K {
    const BYTES: usize = 292;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(f32::from_bits(u32_at(block, 0)));
        for i in 0..16 {
            sink.put(s, first + i, s.mul(scale, s.signed(s.bytes(bytes(block, 4 + 16 * i)))));
        }
    }
}

/// 16 bytes of scales (low nibble) and minima, 64 of crumbs, scale, minimum.
pub(crate) struct Q2K;

impl Block for Q2K {
    const BYTES: usize = 84;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let [scales, mins] = s.nibbles(s.bytes(bytes(block, 0)));
        let scales = scaled(s, s.unsigned(scales), s.splat(half(s, block, 80)));
        let mins = scaled(s, s.unsigned(mins), s.splat(-half(s, block, 82)));
        for part in 0..2 {
            let mut crumbs = crumbs_of(s, block, 16 + 32 * part);
            for group in 8 * part..8 * part + 8 {
                let numbers = s.unsigned(next_crumbs(s, &mut crumbs[group % 2]));
                sink.put(s, first + group, s.mul_add(numbers, s.splat(scales[group]), s.splat(mins[group])));
            }
        }
    }
}

/// 32 bytes of upper bits, 64 of crumbs, 12 of scales, scale.
pub(crate) struct Q3K;

impl Block for Q3K {
    const BYTES: usize = 110;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        // Four scales at a time: see `tables::q3_k_scale` for their places.
        let (a, b, c) = (u32_at(block, 96), u32_at(block, 100), u32_at(block, 104));
        let word = |low: u32, high: u32| u64::from((low & each(15)) | ((high & each(3)) << 4));
        let scales =
            s.bytes_of_words(word(a, c) | word(b, c >> 2) << 32, word(a >> 4, c >> 4) | word(b >> 4, c >> 6) << 32);
        let scales = s.signed(s.bytes_sub(scales, s.bytes_splat(32)));
        let scales = scaled(s, scales, s.splat(half(s, block, 108)));
        let mut uppers = [s.bytes(bytes(block, 0)), s.bytes(bytes(block, 16))];
        for part in 0..2 {
            let mut crumbs = crumbs_of(s, block, 32 + 32 * part);
            for group in 8 * part..8 * part + 8 {
                // Upper bit 1: the crumb; 0: the crumb less 4.
                let upper = &mut uppers[group % 2];
                let four = s.bytes_shift_left::<2>(s.bytes_and(*upper, s.bytes_splat(1)));
                *upper = s.bytes_shift_right::<1>(*upper);
                let numbers = s.bytes_or(next_crumbs(s, &mut crumbs[group % 2]), four);
                let numbers = s.signed(s.bytes_sub(numbers, s.bytes_splat(4)));
                sink.put(s, first + group, s.mul(s.splat(scales[group]), numbers));
            }
        }
    }
}

/// The eight scales and then the eight minima (negative) of a `Q4_K` or `Q5_K` block.
#[inline(always)]
fn scales_and_mins<S: Simd>(s: S, block: &[u8]) -> Lanes {
    // Four at a time: see `tables::scale_and_min` for their places.
    let (a, b, c) = (u32_at(block, 4), u32_at(block, 8), u32_at(block, 12));
    let upper = |word: u32| ((word >> 6) & each(3)) << 4;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let scales = pair(a & each(63), (c & each(15)) | upper(a));
    let mins = pair(b & each(63), ((c >> 4) & each(15)) | upper(b));
    let factors = s.low_and_high(half(s, block, 0), -half(s, block, 2));
    scaled(s, s.unsigned(s.bytes_of_words(scales, mins)), factors)
}

/// Scale, minimum, 12 bytes of scales and minima, 128 of nibbles.
pub(crate) struct Q4K;

impl Block for Q4K {
    const BYTES: usize = 144;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let factors = scales_and_mins(s, block);
        for run in 0..4 {
            let (low, high) = (2 * run, 2 * run + 1);
            let a = s.nibbles(s.bytes(bytes(block, 16 + 32 * run)));
            let b = s.nibbles(s.bytes(bytes(block, 32 + 32 * run)));
            let (scale, min) = (s.splat(factors[low]), s.splat(factors[8 + low]));
            sink.put(s, first + 4 * run, s.mul_add(s.unsigned(a[0]), scale, min));
            sink.put(s, first + 4 * run + 1, s.mul_add(s.unsigned(b[0]), scale, min));
            let (scale, min) = (s.splat(factors[high]), s.splat(factors[8 + high]));
            sink.put(s, first + 4 * run + 2, s.mul_add(s.unsigned(a[1]), scale, min));
            sink.put(s, first + 4 * run + 3, s.mul_add(s.unsigned(b[1]), scale, min));
        }
    }
}

/// As `Q4_K`, with 32 bytes of fifth bits before the nibbles.
pub(crate) struct Q5K;

impl Block for Q5K {
    const BYTES: usize = 176;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let factors = scales_and_mins(s, block);
        let mut uppers = [s.bytes(bytes(block, 16)), s.bytes(bytes(block, 32))];
        for run in 0..4 {
            let even = s.nibbles(s.bytes(bytes(block, 48 + 32 * run)));
            let odd = s.nibbles(s.bytes(bytes(block, 64 + 32 * run)));
            let nibbles = [even, odd];
            for part in 0..2 {
                let (scale, min) = (s.splat(factors[2 * run + part]), s.splat(factors[8 + 2 * run + part]));
                for i in 0..2 {
                    let upper = s.bytes_shift_left::<4>(s.bytes_and(uppers[i], s.bytes_splat(1)));
                    let numbers = s.unsigned(s.bytes_or(nibbles[i][part], upper));
                    sink.put(s, first + 4 * run + 2 * part + i, s.mul_add(numbers, scale, min));
                    uppers[i] = s.bytes_shift_right::<1>(uppers[i]);
                }
            }
        }
    }
}

/// 128 bytes of nibbles, 64 of crumbs, 16 signed scales, scale; a number stands for itself less 32.
pub(crate) struct Q6K;

impl Block for Q6K {
    const BYTES: usize = 210;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scales = scaled(s, s.signed(s.bytes(bytes(block, 192))), s.splat(half(s, block, 208)));
        for part in 0..2 {
            let mut low = [[s.bytes_splat(0); 2]; 4];
            for (i, low) in low.iter_mut().enumerate() {
                *low = s.nibbles(s.bytes(bytes(block, 64 * part + 16 * i)));
            }
            let mut upper = crumbs_of(s, block, 128 + 32 * part);
            for g in 0..8 {
                // Nibbles: the low halves of 64 bytes, then the high halves. Crumbs: 32 bytes, by bit pair.
                let crumbs = s.bytes_shift_left::<4>(next_crumbs(s, &mut upper[g % 2]));
                let numbers = s.bytes_or(low[g % 4][g / 4], crumbs);
                let numbers = s.signed(s.bytes_sub(numbers, s.bytes_splat(32)));
                sink.put(s, first + 8 * part + g, s.mul(s.splat(scales[8 * part + g]), numbers));
            }
        }
    }
}

/// 64 bytes of crumbs, scale; a crumb stands for itself less 1.
pub(crate) struct Tq2_0;

impl Block for Tq2_0 {
    const BYTES: usize = 66;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(half(s, block, 64));
        for part in 0..2 {
            let mut crumbs = crumbs_of(s, block, 32 * part);
            for group in 8 * part..8 * part + 8 {
                let numbers = s.bytes_sub(next_crumbs(s, &mut crumbs[group % 2]), s.bytes_splat(1));
                sink.put(s, first + group, s.mul(scale, s.signed(numbers)));
            }
        }
    }
}

/// 48 bytes of five ternary digits, 4 of four, scale; a byte is its digits as a fraction, in 256ths of 3^5.
pub(crate) struct Tq1_0;

impl Block for Tq1_0 {
    const BYTES: usize = 54;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
        let scale = s.splat(half(s, block, 52));
        for group in 0..16 {
            let mut shifted = [0; LANES];
            match group {
                0..10 => shift_digits(bytes(block, group % 2 * 16), POWERS[group / 2], &mut shifted),
                10..15 => shift_digits(bytes(block, 32), POWERS[group - 10], &mut shifted),
                _ => {
                    for (shifted, power) in shifted.as_chunks_mut().0.iter_mut().zip(POWERS) {
                        shift_digits::<4>(bytes(block, 48), power, shifted);
                    }
                }
            }
            let numbers = s.bytes_sub(s.bytes(&shifted), s.bytes_splat(1));
            sink.put(s, first + group, s.mul(scale, s.signed(numbers)));
        }
    }
}

/// The first digit of each byte after its fraction was multiplied with a power of 3.
#[inline(always)]
fn shift_digits<const N: usize>(fractions: &[u8; N], power: u8, digits: &mut [u8; N]) {
    for (digit, fraction) in digits.iter_mut().zip(fractions) {
        *digit = ((u16::from(fraction.wrapping_mul(power)) * 3) >> 8) as u8;
    }
}
