//! Sixteen lanes as two registers of AVX2 (with FMA and F16C).
//!
//! The safety argument of every block is the same: an [`Avx2`] exists only where the processor has these instructions,
//! and references to arrays are valid for the loads and stores, which need no alignment.

#[allow(clippy::wildcard_imports)] // Thirty intrinsics whose names say where they come from.
use std::arch::x86_64::*;

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
        x.map(|x| unsafe {
            let n = _mm256_add_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(bias));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
        })
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
    fn from_u8(self, bytes: &[u8; LANES]) -> Self::F {
        // SAFETY: see the module; `bytes` holds 16 bytes.
        unsafe {
            let all = _mm_loadu_si128(bytes.as_ptr().cast());
            let high = _mm_unpackhi_epi64(all, all);
            [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(all)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high))]
        }
    }

    #[inline(always)]
    fn from_i8(self, bytes: &[u8; LANES]) -> Self::F {
        // SAFETY: see the module; `bytes` holds 16 bytes.
        unsafe {
            let all = _mm_loadu_si128(bytes.as_ptr().cast());
            let high = _mm_unpackhi_epi64(all, all);
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        }
    }

    #[inline(always)]
    fn from_f16(self, bytes: &[u8; 2 * LANES]) -> Self::F {
        // SAFETY: see the module; `bytes` holds 32 bytes.
        unsafe {
            let low = _mm_loadu_si128(bytes.as_ptr().cast());
            let high = _mm_loadu_si128(bytes.as_ptr().add(16).cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn from_bf16(self, bytes: &[u8; 2 * LANES]) -> Self::F {
        // SAFETY: see the module; `bytes` holds 32 bytes.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().add(16).cast()));
            [low, high].map(|x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)))
        }
    }

    #[inline(always)]
    fn to_f16(self, x: Self::F, bytes: &mut [u8; 2 * LANES]) {
        // SAFETY: see the module; `bytes` holds 32 bytes.
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]);
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), low);
            _mm_storeu_si128(bytes.as_mut_ptr().add(16).cast(), high);
        }
    }
}
