//! What AVX2 and AVX-512 do alike: sixteen bytes in one SSE register, and single halves.
//!
//! The safety argument is that of the modules that use this: their tokens prove the instructions (AVX2 and F16C hold SSSE3),
//! and references to arrays are valid for loads, which need no alignment.

/// The methods of `Simd` that are the same on both, for `type B = __m128i`.
macro_rules! sixteen_bytes {
    () => {
        #[inline(always)]
        fn prefetch(self, bytes: &[u8]) {
            for line in bytes.chunks(64) {
                // SAFETY: a prefetch changes nothing that a program can see.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
            }
        }

        #[inline(always)]
        fn bytes(self, from: &[u8; LANES]) -> __m128i {
            // SAFETY: see the modules that use this; `from` holds 16 bytes.
            unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
        }

        #[inline(always)]
        fn bytes_splat(self, byte: u8) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_set1_epi8(byte as i8) }
        }

        #[inline(always)]
        fn bytes_of_words(self, low: u64, high: u64) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_set_epi64x(high as i64, low as i64) }
        }

        #[inline(always)]
        fn bytes_and(self, a: __m128i, b: __m128i) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_and_si128(a, b) }
        }

        #[inline(always)]
        fn bytes_or(self, a: __m128i, b: __m128i) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_or_si128(a, b) }
        }

        #[inline(always)]
        fn bytes_xor(self, a: __m128i, b: __m128i) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_xor_si128(a, b) }
        }

        #[inline(always)]
        fn bytes_sub(self, a: __m128i, b: __m128i) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_sub_epi8(a, b) }
        }

        #[inline(always)]
        fn bytes_shift_right<const N: i32>(self, x: __m128i) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_srli_epi16::<N>(x) }
        }

        #[inline(always)]
        fn bytes_shift_left<const N: i32>(self, x: __m128i) -> __m128i {
            // SAFETY: see the modules that use this.
            unsafe { _mm_slli_epi16::<N>(x) }
        }

        #[inline(always)]
        fn bytes_lookup(self, table: &[i8; LANES], codes: __m128i) -> __m128i {
            // SAFETY: see the modules that use this; `table` holds 16 bytes.
            unsafe { _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), codes) }
        }

        #[inline(always)]
        fn half(self, bits: u16) -> f32 {
            // SAFETY: see the modules that use this.
            unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
        }
    };
}

pub(super) use sixteen_bytes;
