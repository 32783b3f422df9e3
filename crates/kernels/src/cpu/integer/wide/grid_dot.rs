//! Products with the entries of a grid, row by row, with AVX2: eight numbers come with one load, where a gather fetches four for each of eight rows
//! and takes longer than eight loads. Must never know a quantization type.

#[allow(clippy::wildcard_imports)] // Twenty intrinsics whose names say where they come from.
use std::arch::x86_64::*;

/// [`grid_dot`](super::Wide::grid_dot) of eight rows, with their `signs`.
///
/// # Safety
/// AVX2, and `from + r · stride` good for reading 4 bytes, for each r below 8.
#[inline(always)]
pub(super) unsafe fn eight_rows_grid_dot(
    grid: &[u64; 256],
    from: *const u8,
    stride: usize,
    signs: &[[u8; 4]; 8],
    x: &[[i8; 4]; 8],
) -> __m256i {
    // SAFETY: the caller's; `x` is 32 bytes.
    unsafe {
        let x = _mm256_loadu_si256(x.as_ptr().cast());
        let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let own = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
        let mut pairs = [x; 8];
        for (row, pairs) in pairs.iter_mut().enumerate() {
            let places = from.add(row * stride);
            let first = two_entries(grid, *places, *places.add(1));
            let last = two_entries(grid, *places.add(2), *places.add(3));
            let magnitudes = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), last);
            let signs = _mm256_set1_epi32(i32::from_le_bytes(signs[row]));
            let minus = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(signs, spread), own), own);
            *pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sub_epi8(_mm256_xor_si256(x, minus), minus));
        }
        // Four products of 63 · 127 fit 16 bits.
        let ones = _mm256_set1_epi16(1);
        let two = |a: __m256i, b: __m256i| _mm256_madd_epi16(_mm256_hadd_epi16(a, b), ones);
        let first = _mm256_hadd_epi32(two(pairs[0], pairs[1]), two(pairs[2], pairs[3]));
        let last = _mm256_hadd_epi32(two(pairs[4], pairs[5]), two(pairs[6], pairs[7]));
        let (low, high) =
            (_mm256_permute2x128_si256::<0x20>(first, last), _mm256_permute2x128_si256::<0x31>(first, last));
        _mm256_add_epi32(low, high)
    }
}

/// Two entries of a grid, each by a load of its own: the second goes to the upper half with it.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn two_entries(grid: &[u64; 256], first: u8, last: u8) -> __m128i {
    let (first, last) = (&raw const grid[usize::from(first)], &raw const grid[usize::from(last)]);
    // SAFETY: the caller's; both are entries of the grid.
    unsafe { _mm_castpd_si128(_mm_loadh_pd(_mm_load_sd(first.cast()), last.cast())) }
}
