//! Sixteen lanes as an array: for every processor, and the meaning of the others.

use super::{LANES, Lanes, ROUND, Simd};
use crate::tables::f16_to_f32;

/// Proves nothing and needs nothing.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type F = Lanes;

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
    fn from_u8(self, bytes: &[u8; LANES]) -> Lanes {
        bytes.map(f32::from)
    }

    #[inline(always)]
    fn from_i8(self, bytes: &[u8; LANES]) -> Lanes {
        bytes.map(|b| f32::from(b as i8))
    }

    #[inline(always)]
    fn from_f16(self, bytes: &[u8; 2 * LANES]) -> Lanes {
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])))
    }

    #[inline(always)]
    fn from_bf16(self, bytes: &[u8; 2 * LANES]) -> Lanes {
        std::array::from_fn(|i| f32::from_bits(u32::from_le_bytes([0, 0, bytes[2 * i], bytes[2 * i + 1]])))
    }

    #[inline(always)]
    fn to_f16(self, x: Lanes, bytes: &mut [u8; 2 * LANES]) {
        for (x, bytes) in x.iter().zip(bytes.chunks_exact_mut(2)) {
            bytes.copy_from_slice(&half::f16::from_f32(*x).to_le_bytes());
        }
    }
}
