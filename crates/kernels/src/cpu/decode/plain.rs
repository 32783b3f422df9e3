//! Floats, and the types of 32 numbers with one scale.

use super::{Block, Sink, bytes, half};
use crate::cpu::simd::{LANES, Simd};
use crate::tables::u32_at;

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
