//! Arrays, for any processor.

use super::{Column, DOTS_FROM, Quad, ROWS, Wide};
use crate::tables::f16_to_f32;

/// Plain code.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// `f` of each lane of two vectors.
#[inline(always)]
fn both<T: Copy>(a: [T; ROWS], b: [T; ROWS], f: impl Fn(T, T) -> T) -> [T; ROWS] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// `f` of each byte of two lanes.
#[inline(always)]
fn bytewise(a: u32, b: u32, f: impl Fn(u8, u8) -> u8) -> u32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u32::from_le_bytes(std::array::from_fn(|i| f(a[i], b[i])))
}

impl Wide for Portable {
    type V = [u32; ROWS];
    type F = [f32; ROWS];

    const PAIRS: bool = false;
    const REGISTERS: usize = 0;

    #[inline(always)]
    fn load(self, from: &Quad) -> Self::V {
        from.0.map(u32::from_le_bytes)
    }

    #[inline(always)]
    fn store(self, x: Self::V, to: &mut Quad) {
        to.0 = x.map(u32::to_le_bytes);
    }

    #[inline(always)]
    fn each(self, x: i32) -> Self::V {
        [x as u32; ROWS]
    }

    #[inline(always)]
    unsafe fn sixteen(self, from: *const u8, stride: usize) -> [Self::V; 4] {
        let mut quads = [[0; ROWS]; 4];
        for row in 0..ROWS {
            // SAFETY: the caller vouches for 16 bytes of each row.
            let bytes: [u8; 16] = unsafe { from.add(row * stride).cast::<[u8; 16]>().read_unaligned() };
            for (quads, bytes) in quads.iter_mut().zip(bytes.as_chunks().0) {
                quads[row] = u32::from_le_bytes(*bytes);
            }
        }
        quads
    }

    #[inline(always)]
    fn entries<const N: usize>(self, grid: &[u32; N], places: Self::V) -> Self::V {
        places.map(|place| grid[place as usize % N])
    }

    #[inline(always)]
    fn and(self, a: Self::V, b: Self::V) -> Self::V {
        both(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or(self, a: Self::V, b: Self::V) -> Self::V {
        both(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn xor(self, a: Self::V, b: Self::V) -> Self::V {
        both(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, x: Self::V) -> Self::V {
        x.map(|x| x << BITS)
    }

    #[inline(always)]
    fn shift_right<const BITS: u32>(self, x: Self::V) -> Self::V {
        x.map(|x| x >> BITS)
    }

    #[inline(always)]
    fn add_bytes(self, a: Self::V, b: Self::V) -> Self::V {
        both(a, b, |a, b| bytewise(a, b, u8::wrapping_add))
    }

    #[inline(always)]
    fn sub_bytes(self, a: Self::V, b: Self::V) -> Self::V {
        both(a, b, |a, b| bytewise(a, b, u8::wrapping_sub))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: Self::V) -> Self::V {
        x.map(|x| u32::from_le_bytes(x.to_le_bytes().map(|code| table[usize::from(code & 15)])))
    }

    #[inline(always)]
    fn negate<const FIRST: u32>(self, x: Self::V, signs: Self::V) -> Self::V {
        both(x, signs, |x, signs| {
            let bytes = x.to_le_bytes();
            let minus = |b: usize| signs >> (4 * FIRST as usize + b) & 1 == 1;
            u32::from_le_bytes(std::array::from_fn(|b| if minus(b) { bytes[b].wrapping_neg() } else { bytes[b] }))
        })
    }

    #[inline(always)]
    fn begin(self, sums: Self::V) -> Self::V {
        sums
    }

    #[inline(always)]
    fn dot(self, sums: Self::V, a: Self::V, x: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let (a, x) = (a[i].to_le_bytes(), x[i].to_le_bytes());
            let product = |b: usize| i32::from(a[b]) * i32::from(x[b] as i8);
            (sums[i] as i32 + product(0) + product(1) + product(2) + product(3)) as u32
        })
    }

    #[inline(always)]
    fn end(self, _: Self::V, parts: Self::V) -> Self::V {
        parts
    }

    #[inline(always)]
    fn dot_full(self, sums: Self::V, a: Self::V, x: Self::V) -> Self::V {
        self.dot(sums, a, x)
    }

    #[inline(always)]
    fn to_float(self, x: Self::V) -> Self::F {
        x.map(|x| x as i32 as f32)
    }

    #[inline(always)]
    fn low_half(self, x: Self::V) -> Self::F {
        x.map(|x| f16_to_f32(x as u16))
    }

    #[inline(always)]
    fn as_float(self, x: Self::V) -> Self::F {
        x.map(f32::from_bits)
    }

    #[inline(always)]
    fn each_float(self, x: f32) -> Self::F {
        [x; ROWS]
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn load_floats(self, from: &Column) -> Self::F {
        from.0
    }

    #[inline(always)]
    fn store_floats(self, x: Self::F, to: &mut Column) {
        to.0 = x;
    }

    #[inline(always)]
    fn starts(self, x: &[i16; ROWS], factor: i32) -> Self::V {
        x.map(|x| (i32::from(x) * factor + DOTS_FROM) as u32)
    }

    /// Products are rounded here before they are added to.
    #[inline(always)]
    fn scaled(self, dots: Self::V, scale: Self::F, _: Self::F) -> Self::F {
        std::array::from_fn(|i| (dots[i] as i32 - DOTS_FROM) as f32 * scale[i])
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
