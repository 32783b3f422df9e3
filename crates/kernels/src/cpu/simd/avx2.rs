//! Sixteen lanes as two registers of AVX2 (with FMA and F16C).
//!
//! The safety argument of every block is the same: an [`Avx2`] exists only where the processor has these instructions,
//! and references to arrays are valid for the loads and stores, which need no alignment.

#[allow(clippy::wildcard_imports)] // Thirty intrinsics whose names say where they come from.
use std::arch::x86_64::*;

use super::sixteen_bytes::sixteen_bytes;
use super::{LANES, Lanes, ROUND, Simd};

/// Proves AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// One instruction on both halves.
macro_rules! both {
    ($instruction:ident, $a:expr, $b:expr) => {
        // SAFETY: the token proves the instruction; it touches registers only.
        unsafe { [$instruction($a[0], $b[0]), $instruction($a[1], $b[1])] }
    };
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type B = __m128i;

    const MANY_REGISTERS: bool = false;

    sixteen_bytes!();

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: see the module.
        let x = unsafe { _mm256_set1_ps(x) };
        [x, x]
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> Self::F {
        // SAFETY: see the module; `from` holds 16 numbers.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, x: Self::F, to: &mut Lanes) {
        // SAFETY: see the module; `to` holds 16 numbers.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: see the module.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn power_of_two(self, x: Self::F) -> Self::F {
        // The bits of ROUND vanish in the shift, but for what is taken off here.
        let bias = 127_i32.wrapping_sub(ROUND.to_bits() as i32);
        // SAFETY: see the module.
        unsafe {
            let bias = _mm256_set1_epi32(bias);
            let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_castps_si256(x[0]), bias));
            let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_castps_si256(x[1]), bias));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }

    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        // SAFETY: see the module.
        unsafe {
            let eight = _mm256_add_ps(x[0], x[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn largest(self, x: Self::F) -> f32 {
        // SAFETY: see the module.
        unsafe {
            let eight = _mm256_max_ps(x[0], x[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn select(self, bits: u16, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: see the module.
        unsafe {
            // Each lane looks at a bit of its own.
            let own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let mask = |bits: u16| {
                let bits = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), own);
                _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, own))
            };
            let [low, high] = [mask(bits), mask(bits >> 8)];
            [_mm256_blendv_ps(b[0], a[0], low), _mm256_blendv_ps(b[1], a[1], high)]
        }
    }

    #[inline(always)]
    fn transpose(self, x: &mut [Self::F; LANES]) {
        let (top, bottom) = x.split_at_mut(LANES / 2);
        for i in 0..LANES / 2 {
            (top[i][1], bottom[i][0]) = (bottom[i][0], top[i][1]);
        }
        for rows in [top, bottom] {
            for half in 0..2 {
                let mut square = [rows[0][half]; 8];
                for (to, from) in square.iter_mut().zip(&*rows) {
                    *to = from[half];
                }
                transpose_eight(self, &mut square);
                for (from, to) in square.into_iter().zip(&mut *rows) {
                    to[half] = from;
                }
            }
        }
    }

    #[inline(always)]
    fn low_and_high(self, low: f32, high: f32) -> Self::F {
        // SAFETY: see the module.
        unsafe { [_mm256_set1_ps(low), _mm256_set1_ps(high)] }
    }

    #[inline(always)]
    fn bytes_of_bits(self, bits: u16) -> __m128i {
        // SAFETY: see the module.
        unsafe {
            // The low byte eight times, the high byte eight times; then each byte looks at a bit of its own.
            let spread = _mm_shuffle_epi8(_mm_cvtsi32_si128(i32::from(bits)), _mm_set_epi64x(0x0101_0101_0101_0101, 0));
            let own = _mm_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
            _mm_cmpeq_epi8(_mm_and_si128(spread, own), own)
        }
    }

    #[inline(always)]
    fn unsigned(self, x: __m128i) -> Self::F {
        // SAFETY: see the module.
        unsafe {
            let high = _mm_unpackhi_epi64(x, x);
            [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high))]
        }
    }

    #[inline(always)]
    fn signed(self, x: __m128i) -> Self::F {
        // SAFETY: see the module.
        unsafe {
            let high = _mm_unpackhi_epi64(x, x);
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        }
    }

    #[inline(always)]
    fn floats(self, bytes: &[u8; 4 * LANES]) -> Self::F {
        // SAFETY: see the module; `bytes` holds 64 bytes.
        unsafe { [_mm256_loadu_ps(bytes.as_ptr().cast()), _mm256_loadu_ps(bytes.as_ptr().add(32).cast())] }
    }

    #[inline(always)]
    fn halves_to_f32(self, bytes: &[u8; 2 * LANES]) -> Self::F {
        // SAFETY: see the module; `bytes` holds 32 bytes.
        unsafe {
            let low = _mm_loadu_si128(bytes.as_ptr().cast());
            let high = _mm_loadu_si128(bytes.as_ptr().add(16).cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn bf16_to_f32(self, bytes: &[u8; 2 * LANES]) -> Self::F {
        // SAFETY: see the module; `bytes` holds 32 bytes.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().add(16).cast()));
            let (low, high) = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }
}

/// Lane j of vector i becomes lane i of vector j.
#[inline(always)]
fn transpose_eight(_: Avx2, x: &mut [__m256; 8]) {
    // SAFETY: the token proves the instructions; they touch registers only.
    unsafe {
        // Four vectors at a time: half h of vector i then holds numbers 4h + i of the four.
        for x in x.as_chunks_mut::<4>().0 {
            let (a, b) = (_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
            let (c, d) = (_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
            x[0] = _mm256_shuffle_ps::<0x44>(a, c);
            x[1] = _mm256_shuffle_ps::<0xee>(a, c);
            x[2] = _mm256_shuffle_ps::<0x44>(b, d);
            x[3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        for i in 0..4 {
            let (a, b) = (x[i], x[4 + i]);
            x[i] = _mm256_permute2f128_ps::<0x20>(a, b);
            x[4 + i] = _mm256_permute2f128_ps::<0x31>(a, b);
        }
    }
}
