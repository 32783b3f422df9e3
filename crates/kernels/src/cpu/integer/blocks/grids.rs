//! Types of magnitudes that are looked up eight or four at a time, as places in a grid, and of signs.
//!
//! Where registers hold the grids they are looked up there (`split`), elsewhere in memory (`entries`).

use super::super::panel::{Rows, Unpacked};
use super::super::wide::{Quad, Wide};
use super::bits::put;
use super::direct::{Dots, Single};
use super::entries::{byte_places, fours, iq2, places};
use super::{entries, split};
use crate::cpu::decode::codebook;

/// Low bytes of the halves of a word.
const LOW_BYTES: i32 = 0x00ff_00ff;

/// Stores 32 magnitudes of each row with their signs, around the zero's code.
#[inline(always)]
fn put_signed<W: Wide>(w: W, magnitudes: [W::V; 8], signs: W::V, zero: u8, to: &mut [Quad]) {
    let [a, b, c, d, e, f, g, h] = magnitudes;
    let mut codes = [
        w.negate::<0>(a, signs),
        w.negate::<1>(b, signs),
        w.negate::<2>(c, signs),
        w.negate::<3>(d, signs),
        w.negate::<4>(e, signs),
        w.negate::<5>(f, signs),
        w.negate::<6>(g, signs),
        w.negate::<7>(h, signs),
    ];
    for code in &mut codes {
        *code = w.add_bytes(*code, w.bytes(zero));
    }
    put(w, codes, to);
}

/// Sets the upper bit of each byte so that it has an even number of bits; it must be clear.
#[inline(always)]
fn with_parity<W: Wide>(w: W, sevens: W::V) -> W::V {
    const ODD: [u8; 16] = [0, 128, 128, 0, 128, 0, 0, 128, 128, 0, 0, 128, 0, 128, 128, 0];
    let folded = w.and(w.xor(sevens, w.shift_right::<4>(sevens)), w.bytes(15));
    w.or(sevens, w.lookup(&ODD, folded))
}

/// The signs of 32 numbers, which the low 28 bits of `fields` hold by sevens.
#[inline(always)]
fn signs_of_fields<W: Wide>(w: W, fields: W::V) -> W::V {
    let first = w.and(fields, w.each(0x7f));
    let second = w.and(w.shift_left::<1>(fields), w.each(0x7f << 8));
    let third = w.and(w.shift_left::<2>(fields), w.each(0x7f << 16));
    let fourth = w.and(w.shift_left::<3>(fields), w.each(0x7f << 24));
    with_parity(w, w.or(w.or(first, second), w.or(third, fourth)))
}

/// `factor · code + offset` of the lowest `BITS` bits of `x` on, as scales from `first` on, of `N` groups.
#[inline(always)]
pub(super) fn put_scales<W: Wide, const BITS: u32, const N: usize>(
    w: W,
    x: W::V,
    [factor, offset]: [W::F; 2],
    out: &mut Unpacked,
    first: usize,
) {
    let mut x = x;
    let code = w.each((1 << BITS) - 1);
    for to in &mut out.scales[first..first + N] {
        w.store_floats(w.mul_add(w.to_float(w.and(x, code)), factor, offset), to);
        x = w.shift_right::<BITS>(x);
    }
}

/// `f` times two factors.
#[inline(always)]
pub(super) fn times_both<W: Wide>(w: W, f: W::F, factors: [f32; 2]) -> [W::F; 2] {
    [w.mul(f, w.each_float(factors[0])), w.mul(f, w.each_float(factors[1]))]
}

/// Scale; for each 32 numbers four grid places of a byte, then four sign fields of 7 bits and a scale of 4.
#[inline(always)]
pub(super) fn iq2_xxs<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.25, 0.125]);
    for pair in 0..4 {
        let [a, first, b, second] = rows.sixteen(w, 2 + 16 * pair);
        for (wide, places, fields) in [(2 * pair, a, first), (2 * pair + 1, b, second)] {
            put_scales::<W, 4, 1>(w, w.shift_right::<28>(fields), factors, out, wide);
            let signs = signs_of_fields(w, fields);
            if W::TABLES {
                put(w, split::IQ2_XXS.eights(w, places, places, signs), &mut out.codes[8 * wide..]);
            } else {
                let magnitudes = iq2(w, &entries::IQ2_XXS, byte_places(w, places));
                put_signed(w, magnitudes, signs, 64, &mut out.codes[8 * wide..]);
            }
        }
    }
}

/// The dot products of its groups with a column.
#[inline(always)]
pub(super) fn iq2_xxs_dots<W: Wide>(w: W, rows: Rows, column: &Single, out: &mut Unpacked, dots: &mut Dots) {
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.25, 0.125]);
    for pair in 0..4 {
        let [_, first, _, second] = rows.sixteen(w, 2 + 16 * pair);
        for (wide, fields) in [(2 * pair, first), (2 * pair + 1, second)] {
            put_scales::<W, 4, 1>(w, w.shift_right::<28>(fields), factors, out, wide);
            let (start, signs) = (column.start(w, wide), signs_of_fields(w, fields));
            let sums = rows.grid_dot(w, 2 + 8 * wide, start, &codebook::IQ2_XXS, signs, column.group(wide));
            w.store(sums, &mut dots[wide]);
        }
    }
}

/// Scale; for each 8 numbers 9 bits of grid place and 7 of signs; for each 16 a scale of 4 bits.
#[inline(always)]
pub(super) fn iq2_xs<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.25, 0.125]);
    let [_, _, low, high] = rows.sixteen(w, 58);
    put_scales::<W, 4, 8>(w, low, factors, out, 0);
    put_scales::<W, 4, 8>(w, high, factors, out, 8);
    for part in 0..4 {
        let [a, b, c, d] = rows.sixteen(w, 2 + 16 * part);
        for (wide, [a, b]) in [(2 * part, [a, b]), (2 * part + 1, [c, d])] {
            // Places and signs of the first, third, second and fourth eight: bytes of one word each.
            let even = w.and(w.shift_right::<9>(a), w.each(0x007f_007f));
            let odd = w.and(w.shift_right::<1>(b), w.each(0x7f00_7f00));
            let signs = with_parity(w, w.or(even, odd));
            if W::TABLES {
                let bytes = w.each(LOW_BYTES);
                let low = w.or(w.and(a, bytes), w.shift_left::<8>(w.and(b, bytes)));
                let upper = w.or(w.and(w.shift_right::<8>(a), bytes), w.and(b, w.each(!LOW_BYTES)));
                let [a, b, e, f, c, d, g, h] = split::IQ2_XS.eights(w, low, upper, signs);
                put(w, [a, b, c, d, e, f, g, h], &mut out.codes[8 * wide..]);
            } else {
                let places = [a, w.shift_right::<16>(a), b, w.shift_right::<16>(b)];
                // The signs' order is the first, third, second and fourth eight.
                let bytes = [
                    w.and(signs, w.each(!0x00ff_ff00)),
                    w.and(signs, w.each(0xff00)),
                    w.and(signs, w.each(0x00ff_0000)),
                ];
                let signs = w.or(bytes[0], w.or(w.shift_left::<8>(bytes[1]), w.shift_right::<8>(bytes[2])));
                put_signed(w, iq2(w, &entries::IQ2_XS, places), signs, 64, &mut out.codes[8 * wide..]);
            }
        }
    }
}

/// Scale; low bytes of 32 places, 32 bytes of signs, 32 times 2 upper bits of places, 16 scales of 4 bits.
#[inline(always)]
pub(super) fn iq2_s<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [first, last, low_scales, high_scales] = rows.sixteen(w, 66);
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.25, 0.125]);
    put_scales::<W, 4, 8>(w, low_scales, factors, out, 0);
    put_scales::<W, 4, 8>(w, high_scales, factors, out, 8);
    for (half, mut upper) in [first, last].into_iter().enumerate() {
        let signs = rows.sixteen(w, 34 + 16 * half);
        for (i, low) in rows.sixteen(w, 2 + 16 * half).into_iter().enumerate() {
            let to = &mut out.codes[8 * (4 * half + i)..];
            if W::TABLES {
                put(w, split::IQ2_S.eights(w, low, w.windows::<0, 2>(upper), signs[i]), to);
            } else {
                let uppers = [
                    w.shift_left::<8>(upper),
                    w.shift_left::<6>(upper),
                    w.shift_left::<4>(upper),
                    w.shift_left::<2>(upper),
                ];
                put_signed(w, iq2(w, &entries::IQ2_S, places(w, low, uppers, 3 << 8)), signs[i], 64, to);
            }
            upper = w.shift_right::<8>(upper);
        }
    }
}

/// Scale; 64 grid places of a byte, each for 4 numbers; for each 32 four sign fields of 7 bits and a scale of 4.
#[inline(always)]
pub(super) fn iq3_xxs<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.5, 0.25]);
    for half in 0..2 {
        for (i, fields) in rows.sixteen(w, 66 + 16 * half).into_iter().enumerate() {
            let wide = 4 * half + i;
            put_scales::<W, 4, 1>(w, w.shift_right::<28>(fields), factors, out, wide);
            // Kept where the codes will be, until their places are at hand.
            w.store(signs_of_fields(w, fields), &mut out.codes[8 * wide]);
        }
    }
    for pair in 0..4 {
        let [a, b, c, d] = rows.sixteen(w, 2 + 16 * pair);
        for (wide, [first, last]) in [(2 * pair, [a, b]), (2 * pair + 1, [c, d])] {
            let signs = w.load(&out.codes[8 * wide]);
            let to = &mut out.codes[8 * wide..8 * wide + 8];
            if W::TABLES {
                put(w, split::IQ3_XXS.fours(w, first, first, signs), to);
                put(w, split::IQ3_XXS.fours(w, last, last, w.shift_right::<16>(signs)), &mut to[4..]);
            } else {
                let [a, b, c, d] = fours(w, &entries::IQ3_XXS, byte_places(w, first));
                let [e, f, g, h] = fours(w, &entries::IQ3_XXS, byte_places(w, last));
                put_signed(w, [a, b, c, d, e, f, g, h], signs, 64, to);
            }
        }
    }
}

/// Scale; low bytes of 64 places, each for 4 numbers, their 64 upper bits, 32 bytes of signs; for each 32 numbers a scale of
/// 4 bits.
#[inline(always)]
pub(super) fn iq3_s<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [.., scales] = rows.sixteen(w, 94);
    put_scales::<W, 4, 8>(w, scales, times_both(w, w.low_half(rows.shorts(w, 0)), [2.0, 1.0]), out, 0);
    let [first, last, ..] = rows.sixteen(w, 66);
    for (half, mut upper) in [first, last].into_iter().enumerate() {
        let [a, b, c, d] = rows.sixteen(w, 74 + 16 * half);
        for (quarter, [first, last]) in [(2 * half, [a, b]), (2 * half + 1, [c, d])] {
            let [a, b, c, d] = rows.sixteen(w, 2 + 16 * quarter);
            for (wide, [a, b], signs) in [(2 * quarter, [a, b], first), (2 * quarter + 1, [c, d], last)] {
                let to = &mut out.codes[8 * wide..8 * wide + 8];
                if W::TABLES {
                    put(w, split::IQ3_S.fours(w, a, w.windows::<0, 1>(upper), signs), to);
                    let signs = w.shift_right::<16>(signs);
                    put(w, split::IQ3_S.fours(w, b, w.windows::<4, 1>(upper), signs), &mut to[4..]);
                } else {
                    put_signed(w, iq3_s_magnitudes(w, [a, b], upper), signs, 16, to);
                }
                upper = w.shift_right::<8>(upper);
            }
        }
    }
}

/// The magnitudes of eight places: their low bytes, and a word from whose lowest bit on the ninth bits lie.
#[inline(always)]
fn iq3_s_magnitudes<W: Wide>(w: W, [first, last]: [W::V; 2], upper: W::V) -> [W::V; 8] {
    let uppers =
        [w.shift_left::<8>(upper), w.shift_left::<7>(upper), w.shift_left::<6>(upper), w.shift_left::<5>(upper)];
    let [a, b, c, d] = fours(w, &entries::IQ3_S, places(w, first, uppers, 1 << 8));
    let uppers =
        [w.shift_left::<4>(upper), w.shift_left::<3>(upper), w.shift_left::<2>(upper), w.shift_left::<1>(upper)];
    let [e, f, g, h] = fours(w, &entries::IQ3_S, places(w, last, uppers, 1 << 8));
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use plan::QuantType;

    use super::super::super::activations::RUN;
    use super::super::super::panel::{Rows, Unpacked};
    use super::super::{Source, Unpack, form};
    use crate::cpu::Isa;
    use crate::cpu::integer::ROWS;
    use crate::reference;

    const TYPES: [QuantType; 7] = [
        QuantType::Iq1S,
        QuantType::Iq1M,
        QuantType::Iq2Xxs,
        QuantType::Iq2Xs,
        QuantType::Iq2S,
        QuantType::Iq3Xxs,
        QuantType::Iq3S,
    ];

    /// Bytes that look random, none with the highest exponent bit: scales are finite wherever they lie.
    fn random_bytes(count: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f35f);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn codes_and_scales_are_the_reference_s_numbers() {
        for quant in TYPES {
            let form = form(quant).unwrap();
            let bytes = quant.block_bytes();
            // Odd, so that rows have every alignment.
            let stride = bytes + 13 - bytes % 2;
            for seed in 0..20 {
                let mut all = random_bytes(1 + ROWS * stride, seed);
                let scale_byte = if quant == QuantType::Iq1M { 55 } else { 1 };
                for row in 0..ROWS {
                    all[1 + row * stride + scale_byte] &= 0b1011_1111;
                }
                for isa in Isa::all() {
                    let mut out = Unpacked::ZERO;
                    let rows = Rows::new(&all[1..], stride, bytes);
                    let source = &Source { quant, rows, groups: RUN / form.group };
                    isa.run_wide(Unpack { source, out: &mut out });
                    for row in 0..ROWS {
                        let block = &all[1 + row * stride..][..bytes];
                        for i in 0..RUN {
                            let code = out.codes[i / 4].0[row][i % 4];
                            assert!(code < 128, "{quant} {}: code {code}", isa.name());
                            let value = f32::from(i16::from(code) - i16::from(form.zero));
                            let found = out.scales[i / form.group].0[row] * value;
                            assert_eq!(
                                found,
                                reference::value(quant, block, i),
                                "{quant} {} row {row}, {i}",
                                isa.name()
                            );
                        }
                    }
                }
            }
        }
    }
}
