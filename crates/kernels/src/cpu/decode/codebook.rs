//! The types whose codes are looked up: 4-bit codes of sixteen values, and places in grids of eight or four values.

use super::{Block, Sink, bytes, half};
use crate::cpu::simd::Simd;
use crate::tables::{
    E2M1_DOUBLED, IQ2_MAGNITUDES, IQ3_S_MAGNITUDES, IQ3_XXS_MAGNITUDES, IQ4_VALUES, e8m0_half, grids, signs_of, u16_at,
    u32_at, ue4m3_half,
};

/// Unpacks a grid of eight 2-bit codes an entry to eight bytes an entry.
const fn eights<const N: usize>(packed: &[u16; N], values: [u8; 4]) -> [u64; N] {
    let mut grid = [0; N];
    let mut entry = 0;
    while entry < N {
        let mut i = 0;
        while i < 8 {
            grid[entry] |= (values[(packed[entry] >> (2 * i) & 3) as usize] as u64) << (8 * i);
            i += 1;
        }
        entry += 1;
    }
    grid
}

/// Unpacks a grid of four 4-bit codes an entry to four bytes an entry.
const fn fours<const N: usize>(packed: &[u16; N], values: [u8; 8]) -> [u32; N] {
    let mut grid = [0; N];
    let mut entry = 0;
    while entry < N {
        let mut i = 0;
        while i < 4 {
            grid[entry] |= (values[(packed[entry] >> (4 * i) & 7) as usize] as u32) << (8 * i);
            i += 1;
        }
        entry += 1;
    }
    grid
}

pub(crate) static IQ2_XXS: [u64; 256] = eights(&grids::IQ2_XXS, IQ2_MAGNITUDES);
pub(crate) static IQ2_XS: [u64; 512] = eights(&grids::IQ2_XS, IQ2_MAGNITUDES);
pub(crate) static IQ2_S: [u64; 1024] = eights(&grids::IQ2_S, IQ2_MAGNITUDES);
pub(crate) static IQ3_XXS: [u32; 256] = fours(&grids::IQ3_XXS, IQ3_XXS_MAGNITUDES);
pub(crate) static IQ3_S: [u32; 512] = fours(&grids::IQ3_S, IQ3_S_MAGNITUDES);
/// Eight times −1, 0, 1: with the offset of ⅛ a value is then an integer.
pub(crate) static IQ1_EIGHTFOLD: [u64; 2048] = eights(&grids::IQ1, [-8_i8 as u8, 0, 8, 0]);

/// Sixteen magnitudes with their signs (bit 1 is minus), times the scale.
#[inline(always)]
fn signed_group<S: Simd>(s: S, low: u64, high: u64, signs: u16, scale: f32) -> S::F {
    let minus = s.bytes_of_bits(signs);
    let magnitudes = s.bytes_of_words(low, high);
    // −x is the complement of x, plus 1.
    s.mul(s.splat(scale), s.signed(s.bytes_sub(s.bytes_xor(magnitudes, minus), minus)))
}

/// The signs of two fields of 7 bits.
#[inline(always)]
fn two_signs(first: u32, second: u32) -> u16 {
    u16::from_le_bytes([signs_of(first as u8), signs_of(second as u8)])
}

/// Scale, 16 bytes of nibbles.
pub(crate) struct Iq4Nl;

impl Block for Iq4Nl {
    const BYTES: usize = 18;
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(half(s, block, 0));
        for (i, codes) in s.nibbles(s.bytes(bytes(block, 2))).into_iter().enumerate() {
            sink.put(s, first + i, s.mul(scale, s.signed(s.bytes_lookup(&IQ4_VALUES, codes))));
        }
    }
}

/// Scale, upper and lower parts of eight 6-bit scales, 8 times 16 bytes of nibbles.
pub(crate) struct Iq4Xs;

impl Block for Iq4Xs {
    const BYTES: usize = 136;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = half(s, block, 0);
        let (high, low) = (u16_at(block, 2), u32_at(block, 4));
        for j in 0..8 {
            let six = (low >> (4 * j) & 15) as u8 | ((high >> (2 * j)) as u8 & 3) << 4;
            let scale = s.splat(scale * f32::from(six as i8 - 32));
            for (i, codes) in s.nibbles(s.bytes(bytes(block, 8 + 16 * j))).into_iter().enumerate() {
                sink.put(s, first + 2 * j + i, s.mul(scale, s.signed(s.bytes_lookup(&IQ4_VALUES, codes))));
            }
        }
    }
}

/// An exponent, 16 bytes of nibbles.
pub(crate) struct Mxfp4;

impl Block for Mxfp4 {
    const BYTES: usize = 17;
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(e8m0_half(block[0]));
        for (i, codes) in s.nibbles(s.bytes(bytes(block, 1))).into_iter().enumerate() {
            sink.put(s, first + i, s.mul(scale, s.signed(s.bytes_lookup(&E2M1_DOUBLED, codes))));
        }
    }
}

/// Four small floats as scales, 4 times 8 bytes of nibbles.
pub(crate) struct Nvfp4;

impl Block for Nvfp4 {
    const BYTES: usize = 36;
    const ELEMENTS: usize = 64;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        const NIBBLES: u64 = u64::from_le_bytes([15; 8]);
        for j in 0..4 {
            let both = u64::from_le_bytes(*bytes(block, 4 + 8 * j));
            let codes = s.bytes_of_words(both & NIBBLES, both >> 4 & NIBBLES);
            let scale = s.splat(ue4m3_half(block[j]));
            sink.put(s, first + j, s.mul(scale, s.signed(s.bytes_lookup(&E2M1_DOUBLED, codes))));
        }
    }
}

/// For each 32 numbers four grid places of a byte, then four sign fields of 7 bits and a scale of 4.
pub(crate) struct Iq2Xxs;

impl Block for Iq2Xxs {
    const BYTES: usize = 66;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = half(s, block, 0);
        for j in 0..8 {
            let places: [u8; 4] = *bytes(block, 2 + 8 * j);
            let fields = u32_at(block, 6 + 8 * j);
            let scale = scale * (0.5 + (fields >> 28) as f32) * 0.25;
            for i in 0..2 {
                let (low, high) = (IQ2_XXS[usize::from(places[2 * i])], IQ2_XXS[usize::from(places[2 * i + 1])]);
                let signs = two_signs(fields >> (14 * i), fields >> (14 * i + 7));
                sink.put(s, first + 2 * j + i, signed_group(s, low, high, signs, scale));
            }
        }
    }
}

/// The scale of a group of sixteen out of eight bytes of two 4-bit scales each.
#[inline(always)]
fn quarter_scale(block_scale: f32, scales: &[u8; 8], group: usize) -> f32 {
    block_scale * (0.5 + f32::from(scales[group / 2] >> (4 * (group % 2)) & 15)) * 0.25
}

/// For each 8 numbers 9 bits of grid place and 7 of signs; for each 16 a scale of 4 bits.
pub(crate) struct Iq2Xs;

impl Block for Iq2Xs {
    const BYTES: usize = 74;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = half(s, block, 0);
        let scales = bytes(block, 66);
        for group in 0..16 {
            let fields = [u16_at(block, 2 + 4 * group), u16_at(block, 4 + 4 * group)];
            let (low, high) = (IQ2_XS[usize::from(fields[0] & 511)], IQ2_XS[usize::from(fields[1] & 511)]);
            let signs = two_signs(u32::from(fields[0] >> 9), u32::from(fields[1] >> 9));
            sink.put(s, first + group, signed_group(s, low, high, signs, quarter_scale(scale, scales, group)));
        }
    }
}

/// For each 8 numbers 10 bits of grid place and a byte of signs; for each 16 a scale of 4 bits.
pub(crate) struct Iq2S;

impl Block for Iq2S {
    const BYTES: usize = 82;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = half(s, block, 0);
        let scales = bytes(block, 74);
        for group in 0..16 {
            let uppers = block[66 + group / 2] >> (4 * (group % 2));
            let place = |i: usize| usize::from(block[2 + 2 * group + i]) | usize::from(uppers >> (2 * i) & 3) << 8;
            let signs = u16_at(block, 34 + 2 * group);
            let scale = quarter_scale(scale, scales, group);
            sink.put(s, first + group, signed_group(s, IQ2_S[place(0)], IQ2_S[place(1)], signs, scale));
        }
    }
}

/// Four entries of four bytes as two words.
#[inline(always)]
fn words_of(entries: [u32; 4]) -> (u64, u64) {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    (pair(entries[0], entries[1]), pair(entries[2], entries[3]))
}

/// 64 grid places of a byte, each for 4 numbers; for each 32 four sign fields of 7 bits and a scale of 4.
pub(crate) struct Iq3Xxs;

impl Block for Iq3Xxs {
    const BYTES: usize = 98;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = half(s, block, 0);
        for j in 0..8 {
            let fields = u32_at(block, 66 + 4 * j);
            let scale = scale * (0.5 + (fields >> 28) as f32) * 0.5;
            for i in 0..2 {
                let places: [u8; 4] = *bytes(block, 2 + 8 * j + 4 * i);
                let entry = |i: usize| IQ3_XXS[usize::from(places[i])];
                let (low, high) = words_of([entry(0), entry(1), entry(2), entry(3)]);
                let signs = two_signs(fields >> (14 * i), fields >> (14 * i + 7));
                sink.put(s, first + 2 * j + i, signed_group(s, low, high, signs, scale));
            }
        }
    }
}

/// For each 4 numbers 9 bits of grid place, for each 8 a byte of signs, for each 32 a scale of 4 bits.
pub(crate) struct Iq3S;

impl Block for Iq3S {
    const BYTES: usize = 110;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = half(s, block, 0);
        for group in 0..16 {
            let (j, uppers) = (group / 2, usize::from(block[66 + group / 2] >> (4 * (group % 2))));
            let scale = scale * f32::from(1 + 2 * (block[106 + j / 2] >> (4 * (j % 2)) & 15));
            let places: [u8; 4] = *bytes(block, 2 + 4 * group);
            let entry = |i: usize| IQ3_S[usize::from(places[i]) | (uppers >> i & 1) << 8];
            let (low, high) = words_of([entry(0), entry(1), entry(2), entry(3)]);
            let signs = u16_at(block, 74 + 2 * group);
            sink.put(s, first + group, signed_group(s, low, high, signs, scale));
        }
    }
}

/// Eight times the offset of eight numbers: 1, or −1 where `minus`.
#[inline(always)]
fn offsets(minus: bool) -> u64 {
    u64::from_le_bytes(if minus { [0xff; 8] } else { [1; 8] })
}

/// Sixteen numbers of `IQ1`: grid values and offsets, both eightfold, times an eighth of the scale (which is exact).
#[inline(always)]
fn ternary_group<S: Simd>(s: S, places: [usize; 2], minus: [bool; 2], scale: f32) -> S::F {
    let (low, high) = (IQ1_EIGHTFOLD[places[0]], IQ1_EIGHTFOLD[places[1]]);
    // Adding 1 is subtracting −1.
    let values = s.bytes_sub(s.bytes_of_words(low, high), s.bytes_of_words(offsets(!minus[0]), offsets(!minus[1])));
    s.mul(s.splat(scale * 0.125), s.signed(values))
}

/// For each 8 numbers 11 bits of grid place; for each 32 a scale of 3 bits and the offset's sign.
pub(crate) struct Iq1S;

impl Block for Iq1S {
    const BYTES: usize = 50;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = half(s, block, 0);
        for j in 0..8 {
            let field = usize::from(u16_at(block, 34 + 2 * j));
            let scale = scale * (2 * (field >> 12 & 7) + 1) as f32;
            let minus = field & 0x8000 != 0;
            let place = |l: usize| usize::from(block[2 + 4 * j + l]) | (field >> (3 * l) & 7) << 8;
            for i in 0..2 {
                let places = [place(2 * i), place(2 * i + 1)];
                sink.put(s, first + 2 * j + i, ternary_group(s, places, [minus; 2], scale));
            }
        }
    }
}

/// For each 8 numbers 11 bits of grid place and the offset's sign; for each 16 a scale of 3 bits. The block's own scale
/// lies in the upper nibbles of the four words of scales.
pub(crate) struct Iq1M;

impl Block for Iq1M {
    const BYTES: usize = 56;
    const ELEMENTS: usize = 256;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let words = [u16_at(block, 48), u16_at(block, 50), u16_at(block, 52), u16_at(block, 54)];
        let scale = s.half(words[0] >> 12 | words[1] >> 8 & 0xf0 | words[2] >> 4 & 0xf00 | words[3] & 0xf000);
        for group in 0..16 {
            let scale = scale * f32::from(2 * (words[group / 4] >> (3 * (group % 4)) & 7) + 1);
            let uppers = usize::from(block[32 + group]);
            let places = [
                usize::from(block[2 * group]) | (uppers & 7) << 8,
                usize::from(block[2 * group + 1]) | (uppers >> 4 & 7) << 8,
            ];
            let minus = [uppers & 8 != 0, uppers & 128 != 0];
            sink.put(s, first + group, ternary_group(s, places, minus, scale));
        }
    }
}
