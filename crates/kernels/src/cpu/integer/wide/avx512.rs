//! A register of AVX-512 with VNNI for each vector.
//!
//! The safety argument of every block is the same: an [`Avx512`] exists only where the processor has these instructions,
//! and references to arrays are valid for the loads and stores.

#[allow(clippy::wildcard_imports)] // Thirty intrinsics whose names say where they come from.
use std::arch::x86_64::*;

use super::{Column, DOTS_FROM, Quad, ROWS, Wide};

/// Proves AVX-512 F, BW, VL, DQ, VBMI and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, BW, VL, DQ, VBMI and VNNI.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl Wide for Avx512 {
    type V = __m512i;
    type F = __m512;

    const PAIRS: bool = false;
    const REGISTERS: usize = 32;
    const TABLES: bool = true;

    #[inline(always)]
    fn load(self, from: &Quad) -> __m512i {
        // SAFETY: see the module; a quad is 64 bytes at a multiple of 64.
        unsafe { _mm512_load_si512(from.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, x: __m512i, to: &mut Quad) {
        // SAFETY: see the module; a quad is 64 bytes at a multiple of 64.
        unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn each(self, x: i32) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn sixteen(self, from: *const u8, stride: usize) -> [__m512i; 4] {
        // SAFETY: see the module; the caller vouches for 16 bytes of 16 rows.
        unsafe {
            let row = |r: usize| _mm_loadu_si128(from.add(r * stride).cast());
            // Rows r, r + 4, r + 8 and r + 12 in the quarters of one register: loads do half of the transposition.
            let every_fourth = |r: usize| {
                let two = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(row(r)), row(r + 4));
                _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(two, row(r + 8)), row(r + 12))
            };
            let (a, b, c, d) = (every_fourth(0), every_fourth(1), every_fourth(2), every_fourth(3));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_slli_epi32::<BITS>(x) }
    }

    #[inline(always)]
    fn shift_right<const BITS: u32>(self, x: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_srli_epi32::<BITS>(x) }
    }

    #[inline(always)]
    fn add_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_add_epi8(a, b) }
    }

    #[inline(always)]
    fn sub_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_sub_epi8(a, b) }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: __m512i) -> __m512i {
        // SAFETY: see the module; the table is 16 bytes.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), x) }
    }

    #[inline(always)]
    fn lookup_128s<const T: usize>(self, tables: &[[u8; 128]; T], low: __m512i, upper: __m512i) -> __m512i {
        const { assert!(T == 2 || T == 4 || T == 8) };
        // SAFETY: see the module; a table is twice 64 bytes.
        unsafe {
            let [seventh, eighth, ninth] = [
                _mm512_movepi8_mask(low),
                _mm512_test_epi8_mask(upper, _mm512_set1_epi8(1)),
                _mm512_test_epi8_mask(upper, _mm512_set1_epi8(2)),
            ];
            let mut found = [low; 8];
            for (to, table) in found.iter_mut().zip(tables) {
                let table: *const __m512i = table.as_ptr().cast();
                *to = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), low, _mm512_loadu_si512(table.add(1)));
            }
            // Halves of what is left, by one more bit each time.
            for (bit, left) in [(seventh, T / 2), (eighth, T / 4), (ninth, T / 8)] {
                for i in 0..left {
                    found[i] = _mm512_mask_blend_epi8(bit, found[2 * i], found[2 * i + 1]);
                }
            }
            found[0]
        }
    }

    #[inline(always)]
    fn entries<const N: usize>(self, grid: &[u32; N], places: __m512i) -> __m512i {
        const { assert!(N.is_power_of_two()) };
        // SAFETY: see the module; the bits of N − 1 are a place in the grid.
        unsafe {
            _mm512_i32gather_epi32::<4>(_mm512_and_si512(places, _mm512_set1_epi32(N as i32 - 1)), grid.as_ptr().cast())
        }
    }

    #[inline(always)]
    fn lookup_64(self, table: &[u8; 64], x: __m512i) -> __m512i {
        // SAFETY: see the module; the table is 64 bytes.
        unsafe { _mm512_permutexvar_epi8(x, _mm512_loadu_si512(table.as_ptr().cast())) }
    }

    #[inline(always)]
    fn windows<const FIRST: i32, const STEP: i32>(self, x: __m512i) -> __m512i {
        // Two rows are one word here: bits are counted modulo 64.
        let at = const {
            let mut at = [0; 8];
            let mut b = 0;
            while b < 8 {
                at[b] = (FIRST + STEP * (b as i32 % 4) + 32 * (b as i32 / 4)) as u8 & 63;
                b += 1;
            }
            i64::from_le_bytes(at)
        };
        // SAFETY: see the module.
        unsafe { _mm512_multishift_epi64_epi8(_mm512_set1_epi64(at), x) }
    }

    #[inline(always)]
    fn negate<const FIRST: u32>(self, x: __m512i, signs: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe {
            let spread = _mm512_shuffle_epi8(signs, _mm512_broadcast_i32x4(super::spread_of_nibble::<FIRST>()));
            let own = _mm512_set1_epi32(super::own_bits(FIRST));
            let minus = _mm512_test_epi8_mask(spread, own);
            _mm512_mask_sub_epi8(x, minus, _mm512_setzero_si512(), x)
        }
    }

    #[inline(always)]
    fn begin(self, sums: __m512i) -> __m512i {
        sums
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, a: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_dpbusd_epi32(sums, a, x) }
    }

    #[inline(always)]
    fn end(self, _: __m512i, parts: __m512i) -> __m512i {
        parts
    }

    #[inline(always)]
    fn dot_full(self, sums: __m512i, a: __m512i, x: __m512i) -> __m512i {
        self.dot(sums, a, x)
    }

    #[inline(always)]
    fn to_float(self, x: __m512i) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn low_half(self, x: __m512i) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
    }

    #[inline(always)]
    fn as_float(self, x: __m512i) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_castsi512_ps(x) }
    }

    #[inline(always)]
    fn each_float(self, x: f32) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the module.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn load_floats(self, from: &Column) -> __m512 {
        // SAFETY: see the module; a column is 16 numbers at a multiple of 64 bytes.
        unsafe { _mm512_load_ps(from.0.as_ptr()) }
    }

    #[inline(always)]
    fn store_floats(self, x: __m512, to: &mut Column) {
        // SAFETY: see the module; a column is 16 numbers at a multiple of 64 bytes.
        unsafe { _mm512_store_ps(to.0.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn starts(self, x: &[i16; ROWS], factor: i32) -> __m512i {
        // SAFETY: see the module; `x` is 32 bytes.
        unsafe {
            let wide = _mm512_cvtepi16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_add_epi32(_mm512_mullo_epi32(wide, _mm512_set1_epi32(factor)), _mm512_set1_epi32(DOTS_FROM))
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch reads nothing that the program could see, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}
