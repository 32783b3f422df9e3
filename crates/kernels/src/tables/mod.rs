//! Number tables that the quantized formats refer to. Shared by `reference` and `cpu`; knows no layout of blocks.

pub(crate) mod grids;

/// The sixteen values of `IQ4_NL` and `IQ4_XS`.
pub(crate) const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the sixteen E2M1 values of `MXFP4` and `NVFP4` (doubled, so that they are integers; the scales are halved).
/// Source: OCP Microscaling Formats specification 1.0, section 5.3.3.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// What a 2-bit code of the `IQ2` grids stands for; code 3 does not occur.
pub(crate) const IQ2_MAGNITUDES: [u8; 4] = [8, 25, 43, 0];

/// What a 4-bit code of the `IQ3_XXS` grid stands for.
pub(crate) const IQ3_XXS_MAGNITUDES: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

/// What a 4-bit code of the `IQ3_S` grid stands for.
pub(crate) const IQ3_S_MAGNITUDES: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// The offset that `IQ1_S` and `IQ1_M` add to every grid value, with a sign from the block.
pub(crate) const IQ1_DELTA: f32 = 0.125;

/// The eight signs that a 7-bit field of `IQ2_XXS`, `IQ2_XS` and `IQ3_XXS` stands for, as bits (1 is minus).
/// The eighth bit is the parity of the seven, so that every group has an even number of minus signs.
#[inline(always)]
pub(crate) const fn signs_of(field: u8) -> u8 {
    let seven = field & 0x7f;
    seven | (((seven.count_ones() & 1) as u8) << 7)
}

/// The 6-bit scale and minimum of sub-block `j` (0..8) of a `Q4_K` or `Q5_K` block, out of their 12 packed bytes.
///
/// Bytes 0..4 hold scales 0..4 and bytes 4..8 minima 0..4 in their low 6 bits; bytes 8..12 hold the low nibbles of
/// scales (low) and minima (high) 4..8, whose upper 2 bits are the upper bits of the first eight bytes.
#[inline(always)]
pub(crate) const fn scale_and_min(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        ((low & 15) | ((packed[j - 4] >> 6) << 4), (low >> 4) | ((packed[j] >> 6) << 4))
    }
}

/// The signed 6-bit scale of sub-block `j` (0..16) of a `Q3_K` block, out of its 12 packed bytes.
///
/// Low nibbles lie in bytes 0..8 (low half for `j` < 8), upper 2 bits in bytes 8..12; the scale is stored plus 32.
#[inline(always)]
pub(crate) const fn q3_k_scale(packed: &[u8], j: usize) -> i8 {
    let low = (packed[j % 8] >> (4 * (j / 8))) & 15;
    let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
    (low | (high << 4)) as i8 - 32
}

/// Half of an E8M0 scale (`MXFP4`): 2^(code − 128), which for codes 0 and 1 is subnormal.
#[inline(always)]
pub(crate) const fn e8m0_half(code: u8) -> f32 {
    f32::from_bits(if code < 2 { 0x0020_0000 << code } else { ((code - 1) as u32) << 23 })
}

/// Half of an unsigned E4M3 scale (`NVFP4`), bias 7; codes 0 and 0x7f are zero.
#[inline(always)]
pub(crate) fn ue4m3_half(code: u8) -> f32 {
    if code == 0 || code == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (((code >> 3) & 15) as u32, (code & 7) as u32);
    if exponent == 0 {
        mantissa as f32 * (1.0 / 1024.0)
    } else {
        // 2^(exponent − 7) · (1 + mantissa / 8) / 2, assembled in the bits of an f32.
        f32::from_bits(((exponent + 127 - 8) << 23) | (mantissa << 20))
    }
}

/// The `f32` of a half-precision number, exactly; no branch and no subnormal arithmetic, so that it vectorizes.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    const SMALLEST_NORMAL: f32 = 6.103_515_6e-5;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let normal = f32::from_bits(magnitude + (112 << 23));
    // A subnormal is read as 2^-14 · (1 + fraction), less 2^-14.
    let subnormal = f32::from_bits(magnitude + (113 << 23)) - SMALLEST_NORMAL;
    let special = f32::from_bits(magnitude | 0x7f80_0000);
    let unsigned = match bits & 0x7c00 {
        0 => subnormal,
        0x7c00 => special,
        _ => normal,
    };
    f32::from_bits(unsigned.to_bits() | (u32::from(bits & 0x8000) << 16))
}

/// The half-precision number at byte `at`.
#[inline(always)]
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16_at(bytes, at))
}

/// The little-endian `u16` at byte `at`.
#[inline(always)]
pub(crate) const fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian `u32` at byte `at`.
#[inline(always)]
pub(crate) const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn small_floats_are_half_of_what_their_formats_say() {
        for code in 0..=254_u8 {
            assert_eq!(f64::from(e8m0_half(code)), 2f64.powi(i32::from(code) - 128), "{code}");
        }
        assert_eq!(ue4m3_half(7 << 3), 0.5);
        assert_eq!(ue4m3_half(1), 0.5 / 512.0);
        assert_eq!(ue4m3_half(15 << 3 | 6), 224.0);
    }

    #[test]
    fn signs_come_in_even_numbers() {
        for field in 0..128 {
            assert_eq!(signs_of(field).count_ones() % 2, 0);
        }
    }
}
