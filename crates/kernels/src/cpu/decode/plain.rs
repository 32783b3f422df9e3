//! Floats, and the types with one scale a block.

use super::{Block, Sink, bytes, half};
use crate::cpu::simd::{LANES, Simd};
use crate::tables::{u16_at, u32_at};

/// Sixteen 32-bit floats.
pub(crate) struct F32;

impl Block for F32 {
    const BYTES: usize = 64;
    const ELEMENTS: usize = LANES;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        sink.put(s, first, s.floats(bytes(block, 0)));
    }
}

/// Sixteen halves.
pub(crate) struct F16;

impl Block for F16 {
    const BYTES: usize = 32;
    const ELEMENTS: usize = LANES;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        sink.put(s, first, s.halves_to_f32(bytes(block, 0)));
    }
}

/// Sixteen bfloat16.
pub(crate) struct Bf16;

impl Block for Bf16 {
    const BYTES: usize = 32;
    const ELEMENTS: usize = LANES;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        sink.put(s, first, s.bf16_to_f32(bytes(block, 0)));
    }
}

/// Scale, 16 bytes of nibbles; a nibble stands for itself less 8.
pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const BYTES: usize = 18;
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(half(s, block, 0));
        for (i, nibbles) in s.nibbles(s.bytes(bytes(block, 2))).into_iter().enumerate() {
            sink.put(s, first + i, s.mul(scale, s.signed(s.bytes_sub(nibbles, s.bytes_splat(8)))));
        }
    }
}

/// Scale, minimum, 16 bytes of nibbles.
pub(crate) struct Q4_1;

impl Block for Q4_1 {
    const BYTES: usize = 20;
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let (scale, min) = (s.splat(half(s, block, 0)), s.splat(half(s, block, 2)));
        for (i, nibbles) in s.nibbles(s.bytes(bytes(block, 4))).into_iter().enumerate() {
            sink.put(s, first + i, s.mul_add(s.unsigned(nibbles), scale, min));
        }
    }
}

/// The two groups of 32 five-bit numbers: 32 upper bits from `at`, then 16 bytes of nibbles.
#[inline(always)]
fn five_bits<S: Simd>(s: S, block: &[u8], at: usize) -> [S::B; 2] {
    let upper = u32_at(block, at);
    let [low, high] = s.nibbles(s.bytes(bytes(block, at + 4)));
    let sixteen = s.bytes_splat(16);
    [
        s.bytes_or(low, s.bytes_and(s.bytes_of_bits(upper as u16), sixteen)),
        s.bytes_or(high, s.bytes_and(s.bytes_of_bits((upper >> 16) as u16), sixteen)),
    ]
}

/// Scale, 32 fifth bits, 16 bytes of nibbles; a number stands for itself less 16.
pub(crate) struct Q5_0;

impl Block for Q5_0 {
    const BYTES: usize = 22;
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(half(s, block, 0));
        for (i, numbers) in five_bits(s, block, 2).into_iter().enumerate() {
            sink.put(s, first + i, s.mul(scale, s.signed(s.bytes_sub(numbers, s.bytes_splat(16)))));
        }
    }
}

/// Scale, minimum, 32 fifth bits, 16 bytes of nibbles.
pub(crate) struct Q5_1;

impl Block for Q5_1 {
    const BYTES: usize = 24;
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let (scale, min) = (s.splat(half(s, block, 0)), s.splat(half(s, block, 2)));
        for (i, numbers) in five_bits(s, block, 4).into_iter().enumerate() {
            sink.put(s, first + i, s.mul_add(s.unsigned(numbers), scale, min));
        }
    }
}

/// Scale, 32 signed bytes.
pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const BYTES: usize = 34;
    const ELEMENTS: usize = 32;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(half(s, block, 0));
        for i in 0..2 {
            sink.put(s, first + i, s.mul(scale, s.signed(s.bytes(bytes(block, 2 + 16 * i)))));
        }
    }
}

/// Scale, 128 bits; a bit is plus (1) or minus (0) the scale.
pub(crate) struct Q1_0;

impl Block for Q1_0 {
    const BYTES: usize = 18;
    const ELEMENTS: usize = 128;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(half(s, block, 0));
        for i in 0..8 {
            // A bit is −1 or 0 here: −1 − 2·bit is 1 or −1.
            let bits = s.bytes_of_bits(u16_at(block, 2 + 2 * i));
            let signs = s.bytes_sub(s.bytes_sub(s.bytes_splat(0xff), bits), bits);
            sink.put(s, first + i, s.mul(scale, s.signed(signs)));
        }
    }
}

/// Scale, 16 bytes of four crumbs each, the lowest first; a crumb stands for itself less 1.
pub(crate) struct Q2_0;

impl Block for Q2_0 {
    const BYTES: usize = 18;
    const ELEMENTS: usize = 64;

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>) {
        let scale = s.splat(half(s, block, 0));
        for i in 0..4 {
            let four: &[u8; 4] = bytes(block, 2 + 4 * i);
            let words = [spread(four[0]), spread(four[1]), spread(four[2]), spread(four[3])];
            let crumbs = s.bytes_of_words(words[0] | words[1] << 32, words[2] | words[3] << 32);
            sink.put(s, first + i, s.mul(scale, s.signed(s.bytes_sub(crumbs, s.bytes_splat(1)))));
        }
    }
}

/// The four crumbs of a byte, a byte each.
#[inline(always)]
fn spread(byte: u8) -> u64 {
    let byte = u64::from(byte);
    (byte | byte << 6 | byte << 12 | byte << 18) & 0x0303_0303
}
