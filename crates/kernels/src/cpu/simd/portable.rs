//! Sixteen lanes as an array: for every processor, and the meaning of the others.

use super::{LANES, Lanes, ROUND, Simd};
use crate::tables::{f16_to_f32, u32_at};

type Bytes = [u8; LANES];

/// Proves nothing and needs nothing.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type F = Lanes;
    type B = Bytes;

    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn prefetch(self, _: &[u8]) {}

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> Lanes {
        *from
    }

    #[inline(always)]
    fn store(self, x: Lanes, to: &mut Lanes) {
        *to = x;
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn power_of_two(self, x: Lanes) -> Lanes {
        x.map(|x| f32::from_bits(x.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23))
    }

    #[inline(always)]
    fn sum(self, x: Lanes) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    fn largest(self, x: Lanes) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn select(self, bits: u16, a: Lanes, b: Lanes) -> Lanes {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn transpose(self, x: &mut [Lanes; LANES]) {
        *x = std::array::from_fn(|j| std::array::from_fn(|i| x[i][j]));
    }

    #[inline(always)]
    fn low_and_high(self, low: f32, high: f32) -> Lanes {
        std::array::from_fn(|i| if i < LANES / 2 { low } else { high })
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; LANES]) -> Bytes {
        *from
    }

    #[inline(always)]
    fn bytes_splat(self, byte: u8) -> Bytes {
        [byte; LANES]
    }

    #[inline(always)]
    fn bytes_of_words(self, low: u64, high: u64) -> Bytes {
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }

    #[inline(always)]
    fn bytes_of_bits(self, bits: u16) -> Bytes {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { 0xff } else { 0 })
    }

    #[inline(always)]
    fn bytes_and(self, a: Bytes, b: Bytes) -> Bytes {
        std::array::from_fn(|i| a[i] & b[i])
    }

    #[inline(always)]
    fn bytes_or(self, a: Bytes, b: Bytes) -> Bytes {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn bytes_xor(self, a: Bytes, b: Bytes) -> Bytes {
        std::array::from_fn(|i| a[i] ^ b[i])
    }

    #[inline(always)]
    fn bytes_sub(self, a: Bytes, b: Bytes) -> Bytes {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn bytes_shift_right<const N: i32>(self, x: Bytes) -> Bytes {
        x.map(|x| x >> N)
    }

    #[inline(always)]
    fn bytes_shift_left<const N: i32>(self, x: Bytes) -> Bytes {
        x.map(|x| x << N)
    }

    #[inline(always)]
    fn bytes_lookup(self, table: &[i8; LANES], codes: Bytes) -> Bytes {
        codes.map(|code| table[usize::from(code & 15)] as u8)
    }

    #[inline(always)]
    fn unsigned(self, x: Bytes) -> Lanes {
        x.map(f32::from)
    }

    #[inline(always)]
    fn signed(self, x: Bytes) -> Lanes {
        x.map(|x| f32::from(x as i8))
    }

    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        f16_to_f32(bits)
    }

    #[inline(always)]
    fn floats(self, bytes: &[u8; 4 * LANES]) -> Lanes {
        std::array::from_fn(|i| f32::from_bits(u32_at(bytes, 4 * i)))
    }

    #[inline(always)]
    fn halves_to_f32(self, bytes: &[u8; 2 * LANES]) -> Lanes {
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])))
    }

    #[inline(always)]
    fn bf16_to_f32(self, bytes: &[u8; 2 * LANES]) -> Lanes {
        std::array::from_fn(|i| f32::from_bits(u32::from_le_bytes([0, 0, bytes[2 * i], bytes[2 * i + 1]])))
    }
}
