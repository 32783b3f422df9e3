//! Two registers of AVX2 for each vector, with or without AVX-VNNI.
//!
//! The safety argument of every block is the same: the tokens exist only where the processor has these instructions, and
//! references to arrays are valid for the loads and stores.

use std::arch::asm;
#[allow(clippy::wildcard_imports)] // Thirty intrinsics whose names say where they come from.
use std::arch::x86_64::*;

use super::grid_dot::eight_rows_grid_dot;
use super::{Column, DOTS_FROM, Quad, ROWS, Wide};

/// Proves AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Proves AVX-VNNI besides.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl AvxVnni {
    /// # Safety
    /// The processor has AVX2, FMA, F16C and AVX-VNNI.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// One instruction on both halves.
macro_rules! both {
    ($instruction:expr, $a:expr) => {
        // SAFETY: the token proves the instruction; it touches registers only.
        unsafe { [$instruction($a[0]), $instruction($a[1])] }
    };
    ($instruction:expr, $a:expr, $b:expr) => {
        // SAFETY: the token proves the instruction; it touches registers only.
        unsafe { [$instruction($a[0], $b[0]), $instruction($a[1], $b[1])] }
    };
    ($instruction:expr, $a:expr, $b:expr, $c:expr) => {
        // SAFETY: the token proves the instruction; it touches registers only.
        unsafe { [$instruction($a[0], $b[0], $c[0]), $instruction($a[1], $b[1], $c[1])] }
    };
}

/// All of [`Wide`] but the dot products, which the two tokens have for themselves.
macro_rules! two_registers {
    () => {
        type V = [__m256i; 2];
        type F = [__m256; 2];

        const REGISTERS: usize = 8;

        #[inline(always)]
        fn load(self, from: &Quad) -> Self::V {
            // SAFETY: see the module; a quad is 64 bytes at a multiple of 64.
            unsafe {
                let from: *const __m256i = from.0.as_ptr().cast();
                [_mm256_load_si256(from), _mm256_load_si256(from.add(1))]
            }
        }

        #[inline(always)]
        fn store(self, x: Self::V, to: &mut Quad) {
            // SAFETY: see the module; a quad is 64 bytes at a multiple of 64.
            unsafe {
                let to: *mut __m256i = to.0.as_mut_ptr().cast();
                _mm256_store_si256(to, x[0]);
                _mm256_store_si256(to.add(1), x[1]);
            }
        }

        #[inline(always)]
        fn each(self, x: i32) -> Self::V {
            // SAFETY: see the module.
            let x = unsafe { _mm256_set1_epi32(x) };
            [x, x]
        }

        #[inline(always)]
        unsafe fn sixteen(self, from: *const u8, stride: usize) -> [Self::V; 4] {
            // SAFETY: see the module; the caller vouches for 16 bytes of 16 rows.
            let (low, high) = unsafe { (eight_rows(from, stride), eight_rows(from.add(8 * stride), stride)) };
            std::array::from_fn(|i| [low[i], high[i]])
        }

        #[inline(always)]
        fn and(self, a: Self::V, b: Self::V) -> Self::V {
            both!(_mm256_and_si256, a, b)
        }

        #[inline(always)]
        fn or(self, a: Self::V, b: Self::V) -> Self::V {
            both!(_mm256_or_si256, a, b)
        }

        #[inline(always)]
        fn xor(self, a: Self::V, b: Self::V) -> Self::V {
            both!(_mm256_xor_si256, a, b)
        }

        #[inline(always)]
        fn shift_left<const BITS: u32>(self, x: Self::V) -> Self::V {
            // SAFETY: see the module.
            unsafe {
                let by = _mm_cvtsi32_si128(BITS as i32);
                [_mm256_sll_epi32(x[0], by), _mm256_sll_epi32(x[1], by)]
            }
        }

        #[inline(always)]
        fn shift_right<const BITS: u32>(self, x: Self::V) -> Self::V {
            // SAFETY: see the module.
            unsafe {
                let by = _mm_cvtsi32_si128(BITS as i32);
                [_mm256_srl_epi32(x[0], by), _mm256_srl_epi32(x[1], by)]
            }
        }

        #[inline(always)]
        fn add_bytes(self, a: Self::V, b: Self::V) -> Self::V {
            both!(_mm256_add_epi8, a, b)
        }

        #[inline(always)]
        fn sub_bytes(self, a: Self::V, b: Self::V) -> Self::V {
            both!(_mm256_sub_epi8, a, b)
        }

        #[inline(always)]
        fn entries<const N: usize>(self, grid: &[u32; N], places: Self::V) -> Self::V {
            const { assert!(N.is_power_of_two()) };
            // SAFETY: see the module; the bits of N − 1 are a place in the grid.
            unsafe {
                let (grid, within) = (grid.as_ptr().cast(), _mm256_set1_epi32(N as i32 - 1));
                [
                    _mm256_i32gather_epi32::<4>(grid, _mm256_and_si256(places[0], within)),
                    _mm256_i32gather_epi32::<4>(grid, _mm256_and_si256(places[1], within)),
                ]
            }
        }

        #[inline(always)]
        fn lookup(self, table: &[u8; 16], x: Self::V) -> Self::V {
            // SAFETY: see the module; the table is 16 bytes.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                [_mm256_shuffle_epi8(table, x[0]), _mm256_shuffle_epi8(table, x[1])]
            }
        }

        #[inline(always)]
        fn negate<const FIRST: u32>(self, x: Self::V, signs: Self::V) -> Self::V {
            // SAFETY: see the module.
            unsafe {
                let places = _mm256_broadcastsi128_si256(super::spread_of_nibble::<FIRST>());
                let own = _mm256_set1_epi32(super::own_bits(FIRST));
                let one = |x: __m256i, signs: __m256i| {
                    let minus = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(signs, places), own), own);
                    // −x is the complement of x, plus 1.
                    _mm256_sub_epi8(_mm256_xor_si256(x, minus), minus)
                };
                [one(x[0], signs[0]), one(x[1], signs[1])]
            }
        }

        #[inline(always)]
        fn to_float(self, x: Self::V) -> Self::F {
            both!(_mm256_cvtepi32_ps, x)
        }

        #[inline(always)]
        fn low_half(self, x: Self::V) -> Self::F {
            // SAFETY: see the module.
            unsafe {
                let low = _mm256_set1_epi32(0xffff);
                let both = _mm256_packus_epi32(_mm256_and_si256(x[0], low), _mm256_and_si256(x[1], low));
                let both = _mm256_permute4x64_epi64::<0b11_01_10_00>(both);
                let (first, last) = (_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
                [_mm256_cvtph_ps(first), _mm256_cvtph_ps(last)]
            }
        }

        #[inline(always)]
        fn as_float(self, x: Self::V) -> Self::F {
            both!(_mm256_castsi256_ps, x)
        }

        #[inline(always)]
        fn each_float(self, x: f32) -> Self::F {
            // SAFETY: see the module.
            let x = unsafe { _mm256_set1_ps(x) };
            [x, x]
        }

        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            both!(_mm256_mul_ps, a, b)
        }

        #[inline(always)]
        fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            both!(_mm256_fmadd_ps, a, b, c)
        }

        #[inline(always)]
        fn load_floats(self, from: &Column) -> Self::F {
            // SAFETY: see the module; a column is 16 numbers at a multiple of 64 bytes.
            unsafe { [_mm256_load_ps(from.0.as_ptr()), _mm256_load_ps(from.0.as_ptr().add(8))] }
        }

        #[inline(always)]
        fn store_floats(self, x: Self::F, to: &mut Column) {
            // SAFETY: see the module; a column is 16 numbers at a multiple of 64 bytes.
            unsafe {
                _mm256_store_ps(to.0.as_mut_ptr(), x[0]);
                _mm256_store_ps(to.0.as_mut_ptr().add(8), x[1]);
            }
        }

        #[inline(always)]
        fn starts(self, x: &[i16; ROWS], factor: i32) -> Self::V {
            // SAFETY: see the module; `x` is 32 bytes.
            unsafe {
                let factor = _mm256_set1_epi32(factor);
                let low = _mm256_cvtepi16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                let high = _mm256_cvtepi16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
                let from = _mm256_set1_epi32(DOTS_FROM);
                let (low, high) = (_mm256_mullo_epi32(low, factor), _mm256_mullo_epi32(high, factor));
                [_mm256_add_epi32(low, from), _mm256_add_epi32(high, from)]
            }
        }

        #[inline(always)]
        fn prefetch(self, at: *const u8) {
            // SAFETY: a prefetch reads nothing that the program could see, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
    };
}

impl Wide for Avx2 {
    const PAIRS: bool = true;

    two_registers!();

    #[inline(always)]
    fn begin(self, _: Self::V) -> Self::V {
        self.each(0)
    }

    /// Sums of two products each, of 16 bits.
    #[inline(always)]
    fn dot(self, parts: Self::V, a: Self::V, x: Self::V) -> Self::V {
        let pairs = both!(_mm256_maddubs_epi16, a, x);
        let sums = both!(_mm256_add_epi16, parts, pairs);
        // SAFETY: see the module.
        unsafe { in_order(sums) }
    }

    #[inline(always)]
    fn end(self, sums: Self::V, parts: Self::V) -> Self::V {
        // SAFETY: see the module.
        let ones = unsafe { _mm256_set1_epi16(1) };
        let products = both!(_mm256_madd_epi16, parts, [ones, ones]);
        both!(_mm256_add_epi32, sums, products)
    }

    /// Magnitudes times what their signs make of `x`: two products of 128 · 127 fit 16 bits, four do not.
    #[inline(always)]
    fn dot_full(self, sums: Self::V, a: Self::V, x: Self::V) -> Self::V {
        let (a, x) = (both!(_mm256_abs_epi8, a), both!(_mm256_sign_epi8, x, a));
        let pairs = both!(_mm256_maddubs_epi16, a, x);
        // SAFETY: see the module.
        unsafe { in_order(self.end(sums, pairs)) }
    }

    #[inline(always)]
    unsafe fn grid_dot(
        self,
        sums: Self::V,
        grid: &[u64; 256],
        from: *const u8,
        stride: usize,
        signs: Self::V,
        x: &[[i8; 4]; 8],
    ) -> Self::V {
        let mut words = Quad([[0; 4]; ROWS]);
        self.store(signs, &mut words);
        // From memory a row's signs are spread by their load; a compiler that sees the store takes them out of the register one by one.
        let words = std::hint::black_box(&words);
        let halves = words.0.as_chunks::<8>().0;
        // SAFETY: see the module; the caller vouches for 4 bytes of 16 rows.
        unsafe {
            let low = eight_rows_grid_dot(grid, from, stride, &halves[0], x);
            let high = eight_rows_grid_dot(grid, from.add(ROWS / 2 * stride), stride, &halves[1], x);
            [_mm256_add_epi32(sums[0], low), _mm256_add_epi32(sums[1], high)]
        }
    }
}

impl Wide for AvxVnni {
    const PAIRS: bool = false;

    two_registers!();

    #[inline(always)]
    fn begin(self, sums: Self::V) -> Self::V {
        sums
    }

    #[inline(always)]
    fn dot(self, parts: Self::V, a: Self::V, x: Self::V) -> Self::V {
        both!(_mm256_dpbusd_avx_epi32, parts, a, x)
    }

    #[inline(always)]
    fn end(self, _: Self::V, parts: Self::V) -> Self::V {
        parts
    }

    #[inline(always)]
    fn dot_full(self, sums: Self::V, a: Self::V, x: Self::V) -> Self::V {
        self.dot(sums, a, x)
    }
}

/// The same sums, through an instruction that is none: a compiler that knows how they came about adds up trees of products, column after
/// column, and for that keeps all codes of a group in memory where these would be a tile's few registers.
///
/// # Safety
/// AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn in_order(sums: [__m256i; 2]) -> [__m256i; 2] {
    let [mut low, mut high] = sums;
    // SAFETY: there is no instruction; the registers hold what they held.
    unsafe { asm!("/* {0} {1} */", inout(ymm_reg) low, inout(ymm_reg) high, options(nomem, nostack, preserves_flags)) };
    [low, high]
}

/// Sixteen bytes of each of eight rows, four at a time.
///
/// # Safety
/// AVX2, and `from + r · stride` good for reading 16 bytes, for each r below 8.
#[inline(always)]
unsafe fn eight_rows(from: *const u8, stride: usize) -> [__m256i; 4] {
    // SAFETY: the caller's.
    unsafe {
        let row = |r: usize| _mm_loadu_si128(from.add(r * stride).cast());
        // Rows r and r + 4 in the halves of one register: loads do a part of the transposition.
        let pair = |r: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(r)), row(r + 4));
        let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}
