//! Sixteen lanes as one register of AVX-512 (F, BW, VL, DQ).
//!
//! The safety argument of every block is the same: an [`Avx512`] exists only where the processor has these
//! instructions, and references to arrays are valid for the loads and stores, which need no alignment.

#[allow(clippy::wildcard_imports)] // Thirty intrinsics whose names say where they come from.
use std::arch::x86_64::*;

use super::sixteen_bytes::sixteen_bytes;
use super::{LANES, Lanes, ROUND, Simd};

/// Proves AVX-512 F, BW, VL and DQ, with AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, VL and DQ, AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl Simd for Avx512 {
    type F = __m512;
    type B = __m128i;

    const MANY_REGISTERS: bool = true;

    sixteen_bytes!();

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> __m512 {
        // SAFETY: see the module; `from` holds 16 numbers.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, x: __m512, to: &mut Lanes) {
        // SAFETY: see the module; `to` holds 16 numbers.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn power_of_two(self, x: __m512) -> __m512 {
        // The bits of ROUND vanish in the shift, but for what is taken off here.
        let bias = 127_i32.wrapping_sub(ROUND.to_bits() as i32);
        // SAFETY: see the module.
        unsafe {
            let n = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(bias));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(n))
        }
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        // SAFETY: see the module.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        // SAFETY: see the module.
        unsafe {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn select(self, bits: u16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_mask_mov_ps(b, bits, a) }
    }

    #[inline(always)]
    fn transpose(self, x: &mut [__m512; LANES]) {
        // SAFETY: see the module.
        unsafe {
            // Four vectors at a time: quarter q of vector i then holds numbers 4q + i of the four.
            for x in x.as_chunks_mut::<4>().0 {
                let [a, b] =
                    [_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1])].map(|x| _mm512_castps_pd(x));
                let [c, d] =
                    [_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3])].map(|x| _mm512_castps_pd(x));
                x[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
                x[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
                x[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
                x[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
            }
            // Then quarters are moved: even ones (0x88) and odd ones (0xdd) of two vectors.
            for i in 0..4 {
                let (a, b, c, d) = (x[i], x[4 + i], x[8 + i], x[12 + i]);
                let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (even2, odd2) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                x[i] = _mm512_shuffle_f32x4::<0x88>(even, even2);
                x[4 + i] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
                x[8 + i] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
                x[12 + i] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
            }
        }
    }

    #[inline(always)]
    fn low_and_high(self, low: f32, high: f32) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_mask_mov_ps(_mm512_set1_ps(low), 0xff00, _mm512_set1_ps(high)) }
    }

    #[inline(always)]
    fn bytes_of_bits(self, bits: u16) -> __m128i {
        // SAFETY: see the module.
        unsafe { _mm_movm_epi8(bits) }
    }

    #[inline(always)]
    fn unsigned(self, x: __m128i) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x)) }
    }

    #[inline(always)]
    fn signed(self, x: __m128i) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)) }
    }

    #[inline(always)]
    fn floats(self, bytes: &[u8; 4 * LANES]) -> __m512 {
        // SAFETY: see the module; `bytes` holds 64 bytes.
        unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn halves_to_f32(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: see the module; `bytes` holds 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn bf16_to_f32(self, bytes: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: see the module; `bytes` holds 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}
