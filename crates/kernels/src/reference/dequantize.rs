//! What each number of a quantized block is.
//!
//! One function a type: the block's bytes and the number's place in it, the value out. The order of operations and their
//! rounding to `f32` are part of the formats (files are made against them), so these results are exact, not close.
//! Source of the layouts: `ggml-common.h` and the `gguf` Python package.

use plan::QuantType;

use crate::tables::{
    E2M1_DOUBLED, IQ1_DELTA, IQ2_MAGNITUDES, IQ3_S_MAGNITUDES, IQ3_XXS_MAGNITUDES, IQ4_VALUES, e8m0_half, f16_at,
    f16_to_f32, grids, q3_k_scale, scale_and_min, signs_of, u16_at, u32_at, ue4m3_half,
};

type Value = fn(&[u8], usize) -> f32;

/// Whether numbers of this type can be read.
#[must_use]
pub fn supports(quant: QuantType) -> bool {
    value_of(quant).is_some()
}

/// The `i`-th number of one block.
///
/// # Panics
/// Where the type is not [supported](supports), the block too short or `i` not below its length.
#[must_use]
pub fn value(quant: QuantType, block: &[u8], i: usize) -> f32 {
    assert!(i < quant.block_elements(), "number {i} of a {quant} block of {}", quant.block_elements());
    value_of(quant).unwrap_or_else(|| panic!("no kernel for {quant}"))(block, i)
}

/// All numbers of whole blocks.
///
/// # Panics
/// Where the type is not [supported](supports) or `bytes` are not those of `out.len()` numbers.
pub fn dequantize(quant: QuantType, bytes: &[u8], out: &mut [f32]) {
    let value = value_of(quant).unwrap_or_else(|| panic!("no kernel for {quant}"));
    let elements = quant.block_elements();
    assert!(
        out.len().is_multiple_of(elements) && bytes.len() == out.len() / elements * quant.block_bytes(),
        "{} bytes are not those of {} numbers in {quant}",
        bytes.len(),
        out.len()
    );
    for (block, out) in bytes.chunks_exact(quant.block_bytes()).zip(out.chunks_exact_mut(elements)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = value(block, i);
        }
    }
}

fn value_of(quant: QuantType) -> Option<Value> {
    Some(match quant {
        QuantType::F32 => |b, _| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        QuantType::F64 => |b, _| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
        QuantType::F16 => |b, _| f16_at(b, 0),
        QuantType::Bf16 => |b, _| f32::from_bits(u32::from(u16_at(b, 0)) << 16),
        QuantType::Q1_0 => |b, i| if b[2 + i / 8] >> (i % 8) & 1 == 1 { f16_at(b, 0) } else { -f16_at(b, 0) },
        QuantType::Q2_0 => |b, i| f32::from((b[2 + i / 4] >> (2 * (i % 4)) & 3) as i8 - 1) * f16_at(b, 0),
        QuantType::Q4_0 => |b, i| f16_at(b, 0) * f32::from(nibble_of_32(&b[2..], i) as i8 - 8),
        QuantType::Q4_1 => |b, i| f16_at(b, 0) * f32::from(nibble_of_32(&b[4..], i)) + f16_at(b, 2),
        QuantType::Q5_0 => |b, i| f16_at(b, 0) * f32::from(five_bits_of_32(&b[2..], i) as i8 - 16),
        QuantType::Q5_1 => |b, i| f16_at(b, 0) * f32::from(five_bits_of_32(&b[4..], i)) + f16_at(b, 2),
        QuantType::Q8_0 => |b, i| f32::from(b[2 + i] as i8) * f16_at(b, 0),
        QuantType::Q8K => |b, i| f32::from_bits(u32_at(b, 0)) * f32::from(b[4 + i] as i8),
        QuantType::Q2K => q2_k,
        QuantType::Q3K => q3_k,
        QuantType::Q4K => q4_k,
        QuantType::Q5K => q5_k,
        QuantType::Q6K => q6_k,
        QuantType::Iq4Nl => |b, i| f16_at(b, 0) * f32::from(IQ4_VALUES[usize::from(nibble_of_32(&b[2..], i))]),
        QuantType::Iq4Xs => iq4_xs,
        QuantType::Iq2Xxs => iq2_xxs,
        QuantType::Iq2Xs => iq2_xs,
        QuantType::Iq2S => iq2_s,
        QuantType::Iq3Xxs => iq3_xxs,
        QuantType::Iq3S => iq3_s,
        QuantType::Iq1S => iq1_s,
        QuantType::Iq1M => iq1_m,
        QuantType::Tq1_0 => tq1_0,
        QuantType::Tq2_0 => |b, i| f16_at(b, 64) * f32::from(crumb_of_256(b, i) as i8 - 1),
        QuantType::Mxfp4 => |b, i| e8m0_half(b[0]) * f32::from(E2M1_DOUBLED[usize::from(nibble_of_32(&b[1..], i))]),
        QuantType::Nvfp4 => nvfp4,
        QuantType::Q8_1 | QuantType::I8 | QuantType::I16 | QuantType::I32 | QuantType::I64 => return None,
    })
}

/// Number `i` of 32 nibbles: the low halves of 16 bytes, then the high halves.
fn nibble_of_32(bytes: &[u8], i: usize) -> u8 {
    (bytes[i % 16] >> (4 * (i / 16))) & 15
}

/// Number `i` of 32 five-bit numbers: 32 upper bits in four bytes, then 32 nibbles.
fn five_bits_of_32(bytes: &[u8], i: usize) -> u8 {
    let upper = (u32_at(bytes, 0) >> i) as u8 & 1;
    nibble_of_32(&bytes[4..], i) | upper << 4
}

/// Number `i` of 256 two-bit numbers: each run of 32 bytes holds 128, by bit pair.
fn crumb_of_256(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32))) & 3
}

/// Number `i` of 256 nibbles: each run of 32 bytes holds 64, low halves first.
fn nibble_of_256(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 64 * 32 + i % 32] >> (4 * (i % 64 / 32))) & 15
}

fn with_sign(value: f32, signs: u8, i: usize) -> f32 {
    if signs >> (i % 8) & 1 == 1 { -value } else { value }
}

/// Entry `i` of eight 2-bit codes.
fn code_of_8(packed: u16, i: usize) -> usize {
    usize::from(packed >> (2 * (i % 8)) & 3)
}

/// Entry `i` of four 4-bit codes.
fn code_of_4(packed: u16, i: usize) -> usize {
    usize::from(packed >> (4 * (i % 4)) & 15)
}

/// 16 scales and minima of 4 bits, 64 bytes of crumbs, scale, minimum.
fn q2_k(b: &[u8], i: usize) -> f32 {
    let (scale, min) = (b[i / 16] & 15, b[i / 16] >> 4);
    let (scale, min) = (f16_at(b, 80) * f32::from(scale), f16_at(b, 82) * f32::from(min));
    scale * f32::from(crumb_of_256(&b[16..], i)) - min
}

/// 32 bytes of upper bits (0 means minus 4), 64 of crumbs, 12 of scales, scale.
fn q3_k(b: &[u8], i: usize) -> f32 {
    let scale = f16_at(b, 108) * f32::from(q3_k_scale(&b[96..108], i / 16));
    let upper = (b[i % 32] >> (i / 32)) & 1;
    scale * f32::from(crumb_of_256(&b[32..], i) as i8 - if upper == 1 { 0 } else { 4 })
}

/// Scale, minimum, 12 bytes of scales and minima, 128 of nibbles.
fn q4_k(b: &[u8], i: usize) -> f32 {
    let (scale, min) = scale_and_min(&b[4..16], i / 32);
    let (scale, min) = (f16_at(b, 0) * f32::from(scale), f16_at(b, 2) * f32::from(min));
    scale * f32::from(nibble_of_256(&b[16..], i)) - min
}

/// As `Q4_K`, with 32 bytes of fifth bits before the nibbles.
fn q5_k(b: &[u8], i: usize) -> f32 {
    let (scale, min) = scale_and_min(&b[4..16], i / 32);
    let (scale, min) = (f16_at(b, 0) * f32::from(scale), f16_at(b, 2) * f32::from(min));
    let upper = (b[16 + i % 32] >> (i / 32)) & 1;
    scale * f32::from(nibble_of_256(&b[48..], i) | upper << 4) - min
}

/// 128 bytes of nibbles (64 hold 128 numbers), 64 of crumbs, 16 signed scales, scale.
fn q6_k(b: &[u8], i: usize) -> f32 {
    let low = (b[i / 128 * 64 + i % 64] >> (4 * (i % 128 / 64))) & 15;
    let scale = f16_at(b, 208) * f32::from(b[192 + i / 16] as i8);
    scale * f32::from((low | crumb_of_256(&b[128..], i) << 4) as i8 - 32)
}

/// Scale, upper and lower parts of eight 6-bit scales, 8 times 32 nibbles.
fn iq4_xs(b: &[u8], i: usize) -> f32 {
    let j = i / 32;
    let low = (b[4 + j / 2] >> (4 * (j % 2))) & 15;
    let high = (u16_at(b, 2) >> (2 * j)) as u8 & 3;
    let scale = f16_at(b, 0) * f32::from((low | high << 4) as i8 - 32);
    scale * f32::from(IQ4_VALUES[usize::from(nibble_of_32(&b[8 + 16 * j..], i % 32))])
}

/// For each 32 numbers: four grid places of a byte, then four sign fields of 7 bits and a scale of 4.
fn iq2_xxs(b: &[u8], i: usize) -> f32 {
    let part = &b[2 + i / 32 * 8..];
    let (place, fields) = (part[i % 32 / 8], u32_at(part, 4));
    let scale = f16_at(b, 0) * (0.5 + (fields >> 28) as f32) * 0.25;
    let magnitude = IQ2_MAGNITUDES[code_of_8(grids::IQ2_XXS[usize::from(place)], i)];
    with_sign(scale * f32::from(magnitude), signs_of((fields >> (7 * (i % 32 / 8))) as u8), i)
}

/// For each 8 numbers 9 bits of grid place and 7 of signs; for each 16 a scale of 4 bits.
fn iq2_xs(b: &[u8], i: usize) -> f32 {
    let field = u16_at(b, 2 + i / 8 * 2);
    let scale = f16_at(b, 0) * (0.5 + f32::from(b[66 + i / 32] >> (4 * (i / 16 % 2)) & 15)) * 0.25;
    let magnitude = IQ2_MAGNITUDES[code_of_8(grids::IQ2_XS[usize::from(field & 511)], i)];
    with_sign(scale * f32::from(magnitude), signs_of((field >> 9) as u8), i)
}

/// For each 8 numbers 10 bits of grid place (8 + 2) and a byte of signs; for each 16 a scale of 4 bits.
fn iq2_s(b: &[u8], i: usize) -> f32 {
    let j = i / 8;
    let place = u16::from(b[2 + j]) | u16::from(b[66 + j / 4] >> (2 * (j % 4)) & 3) << 8;
    let scale = f16_at(b, 0) * (0.5 + f32::from(b[74 + i / 32] >> (4 * (i / 16 % 2)) & 15)) * 0.25;
    let magnitude = IQ2_MAGNITUDES[code_of_8(grids::IQ2_S[usize::from(place)], i)];
    with_sign(scale * f32::from(magnitude), b[34 + j], i)
}

/// 64 grid places of a byte, each for 4 numbers; for each 32 four sign fields of 7 bits and a scale of 4.
fn iq3_xxs(b: &[u8], i: usize) -> f32 {
    let fields = u32_at(b, 66 + i / 32 * 4);
    let scale = f16_at(b, 0) * (0.5 + (fields >> 28) as f32) * 0.5;
    let magnitude = IQ3_XXS_MAGNITUDES[code_of_4(grids::IQ3_XXS[usize::from(b[2 + i / 4])], i)];
    with_sign(scale * f32::from(magnitude), signs_of((fields >> (7 * (i % 32 / 8))) as u8), i)
}

/// For each 4 numbers 9 bits of grid place (8 + 1), for each 8 a byte of signs, for each 32 a scale of 4 bits.
fn iq3_s(b: &[u8], i: usize) -> f32 {
    let j = i / 4;
    let place = u16::from(b[2 + j]) | u16::from(b[66 + j / 8] >> (j % 8) & 1) << 8;
    let scale = f16_at(b, 0) * f32::from(1 + 2 * (b[106 + i / 64] >> (4 * (i / 32 % 2)) & 15));
    let magnitude = IQ3_S_MAGNITUDES[code_of_4(grids::IQ3_S[usize::from(place)], i)];
    with_sign(scale * f32::from(magnitude), b[74 + i / 8], i)
}

fn iq1_value(place: u16, i: usize) -> f32 {
    code_of_8(grids::IQ1[usize::from(place)], i) as f32 - 1.0
}

/// For each 8 numbers 11 bits of grid place (8 + 3); for each 32 a scale of 3 bits and the sign of the offset.
fn iq1_s(b: &[u8], i: usize) -> f32 {
    let field = u16_at(b, 34 + i / 32 * 2);
    let scale = f16_at(b, 0) * f32::from(2 * (field >> 12 & 7) + 1);
    let offset = if field & 0x8000 == 0 { IQ1_DELTA } else { -IQ1_DELTA };
    let place = u16::from(b[2 + i / 8]) | (field >> (3 * (i % 32 / 8)) & 7) << 8;
    scale * (iq1_value(place, i) + offset)
}

/// For each 8 numbers 11 bits of grid place and the offset's sign; for each 16 a scale of 3 bits. The block's own scale
/// lies in the upper nibbles of the four words of scales.
fn iq1_m(b: &[u8], i: usize) -> f32 {
    let word = |w: usize| u16_at(b, 48 + 2 * w);
    let block_scale = f16_to_f32(word(0) >> 12 | word(1) >> 8 & 0xf0 | word(2) >> 4 & 0xf00 | word(3) & 0xf000);
    let scale = block_scale * f32::from(2 * (word(i / 64) >> (3 * (i / 16 % 4)) & 7) + 1);
    let upper = b[32 + i / 16] >> (4 * (i / 8 % 2));
    let offset = if upper & 8 == 0 { IQ1_DELTA } else { -IQ1_DELTA };
    scale * (iq1_value(u16::from(b[i / 8]) | u16::from(upper & 7) << 8, i) + offset)
}

/// Five ternary digits a byte in the first 48 bytes, four in the next 4: a byte is its digits as a fraction of 3^5.
fn tq1_0(b: &[u8], i: usize) -> f32 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let (byte, digit) = match i {
        0..160 => (i % 32, i / 32),
        160..240 => (32 + i % 16, (i - 160) / 16),
        _ => (48 + i % 4, (i - 240) / 4),
    };
    let shifted = b[byte].wrapping_mul(POWERS[digit]);
    f16_at(b, 52) * f32::from((u16::from(shifted) * 3 >> 8) as i8 - 1)
}

/// Four scales of a byte, then for each the nibbles of 16 numbers, low halves first.
fn nvfp4(b: &[u8], i: usize) -> f32 {
    let j = i / 16;
    let code = b[4 + 8 * j + i % 8] >> (4 * (i % 16 / 8)) & 15;
    ue4m3_half(b[j]) * f32::from(E2M1_DOUBLED[usize::from(code)])
}
