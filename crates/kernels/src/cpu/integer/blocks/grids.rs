//! Types of magnitudes that are looked up eight or four at a time, as places in a grid, and of signs.
//!
//! Where registers hold the grids (`split`) all of it is done for sixteen rows at once; elsewhere entries are looked up by rows
//! (`places`), and signs, zeros and scales are made of sixteen rows at once.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::{Quad, Wide};
use super::bits::put;
use super::places::{LOW_BYTES, Places, eights_at_bytes, fours_at_bytes};
use super::split;
use crate::cpu::decode::codebook;

/// Stores four magnitudes of each row with the signs of the `FIRST`-th nibbles, around the zero's code.
#[inline(always)]
fn sign_four<W: Wide, const FIRST: u32>(w: W, magnitudes: W::V, signs: W::V, zero: u8, to: &mut Quad) {
    w.store(w.add_bytes(w.negate::<FIRST>(magnitudes, signs), w.bytes(zero)), to);
}

/// Gives the `eight`-th eight numbers, which were looked up, the signs of two nibbles.
#[inline(always)]
fn sign_eight<W: Wide, const A: u32, const B: u32>(w: W, signs: W::V, out: &mut Unpacked, eight: usize) {
    let quads = &mut out.codes.as_chunks_mut::<2>().0[eight];
    let [a, b] = w.halves_of_eight(quads);
    sign_four::<W, A>(w, a, signs, 64, &mut quads[0]);
    sign_four::<W, B>(w, b, signs, 64, &mut quads[1]);
}

/// Gives the `wide`-th 32 numbers, which were looked up by eights, their signs.
#[inline(always)]
fn sign_eights<W: Wide>(w: W, signs: W::V, out: &mut Unpacked, wide: usize) {
    sign_eight::<W, 0, 1>(w, signs, out, 4 * wide);
    sign_eight::<W, 2, 3>(w, signs, out, 4 * wide + 1);
    sign_eight::<W, 4, 5>(w, signs, out, 4 * wide + 2);
    sign_eight::<W, 6, 7>(w, signs, out, 4 * wide + 3);
}

/// Gives the `wide`-th 32 numbers, which were looked up by fours, their signs.
#[inline(always)]
fn sign_fours<W: Wide>(w: W, signs: W::V, zero: u8, out: &mut Unpacked, wide: usize) {
    let [a, b, c, d, e, f, g, h] = &mut out.codes.as_chunks_mut::<8>().0[wide];
    sign_four::<W, 0>(w, w.load(a), signs, zero, a);
    sign_four::<W, 1>(w, w.load(b), signs, zero, b);
    sign_four::<W, 2>(w, w.load(c), signs, zero, c);
    sign_four::<W, 3>(w, w.load(d), signs, zero, d);
    sign_four::<W, 4>(w, w.load(e), signs, zero, e);
    sign_four::<W, 5>(w, w.load(f), signs, zero, f);
    sign_four::<W, 6>(w, w.load(g), signs, zero, g);
    sign_four::<W, 7>(w, w.load(h), signs, zero, h);
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
    if !W::TABLES {
        eights_at_bytes(&codebook::IQ2_XXS, rows, out);
    }
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.25, 0.125]);
    for pair in 0..4 {
        let [a, first, b, second] = rows.sixteen(w, 2 + 16 * pair);
        for (wide, places, fields) in [(2 * pair, a, first), (2 * pair + 1, b, second)] {
            put_scales::<W, 4, 1>(w, w.shift_right::<28>(fields), factors, out, wide);
            let signs = signs_of_fields(w, fields);
            if W::TABLES {
                put(w, split::IQ2_XXS.eights(w, places, places, signs), &mut out.codes[8 * wide..]);
            } else {
                sign_eights(w, signs, out, wide);
            }
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
    let mut places = Places::<512, 16>::new();
    let mut signs = [w.each(0); 8];
    for part in 0..4 {
        let [a, b, c, d] = rows.sixteen(w, 2 + 16 * part);
        for (wide, [a, b]) in [(2 * part, [a, b]), (2 * part + 1, [c, d])] {
            // Places and signs of the first, third, second and fourth eight: bytes of one word each.
            let even = w.and(w.shift_right::<9>(a), w.each(0x007f_007f));
            let odd = w.and(w.shift_right::<1>(b), w.each(0x7f00_7f00));
            signs[wide] = with_parity(w, w.or(even, odd));
            if W::TABLES {
                let bytes = w.each(LOW_BYTES);
                let low = w.or(w.and(a, bytes), w.shift_left::<8>(w.and(b, bytes)));
                let upper = w.or(w.and(w.shift_right::<8>(a), bytes), w.and(b, w.each(!LOW_BYTES)));
                let [a, b, e, f, c, d, g, h] = split::IQ2_XS.eights(w, low, upper, signs[wide]);
                put(w, [a, b, c, d, e, f, g, h], &mut out.codes[8 * wide..]);
            } else {
                places.set(w, 2 * wide, a);
                places.set(w, 2 * wide + 1, b);
            }
        }
    }
    if W::TABLES {
        return;
    }
    places.eights_of_pairs(&codebook::IQ2_XS, out);
    for (wide, signs) in signs.into_iter().enumerate() {
        sign_eight::<W, 0, 1>(w, signs, out, 4 * wide);
        sign_eight::<W, 4, 5>(w, signs, out, 4 * wide + 1);
        sign_eight::<W, 2, 3>(w, signs, out, 4 * wide + 2);
        sign_eight::<W, 6, 7>(w, signs, out, 4 * wide + 3);
    }
}

/// Scale; low bytes of 32 places, 32 bytes of signs, 32 times 2 upper bits of places, 16 scales of 4 bits.
#[inline(always)]
pub(super) fn iq2_s<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let mut places = Places::<1024, 16>::new();
    let [mut upper, mut next, low_scales, high_scales] = rows.sixteen(w, 66);
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.25, 0.125]);
    put_scales::<W, 4, 8>(w, low_scales, factors, out, 0);
    put_scales::<W, 4, 8>(w, high_scales, factors, out, 8);
    if W::TABLES {
        for (half, mut upper) in [upper, next].into_iter().enumerate() {
            let signs = rows.sixteen(w, 34 + 16 * half);
            for (i, low) in rows.sixteen(w, 2 + 16 * half).into_iter().enumerate() {
                let codes = split::IQ2_S.eights(w, low, w.windows::<0, 2>(upper), signs[i]);
                put(w, codes, &mut out.codes[8 * (4 * half + i)..]);
                upper = w.shift_right::<8>(upper);
            }
        }
        return;
    }
    for half in 0..2 {
        for (i, low) in rows.sixteen(w, 2 + 16 * half).into_iter().enumerate() {
            places.set_word::<W, 8, 6, 20, 18>(w, 4 * half + i, low, upper);
            upper = w.shift_right::<8>(upper);
        }
        std::mem::swap(&mut upper, &mut next);
    }
    places.eights_of_words(&codebook::IQ2_S, out);
    for half in 0..2 {
        for (i, signs) in rows.sixteen(w, 34 + 16 * half).into_iter().enumerate() {
            let wide = 4 * half + i;
            sign_eights(w, signs, out, wide);
        }
    }
}

/// Scale; 64 grid places of a byte, each for 4 numbers; for each 32 four sign fields of 7 bits and a scale of 4.
#[inline(always)]
pub(super) fn iq3_xxs<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    if !W::TABLES {
        fours_at_bytes(&codebook::IQ3_XXS, rows, out);
    }
    let factors = times_both(w, w.low_half(rows.shorts(w, 0)), [0.5, 0.25]);
    for half in 0..2 {
        for (i, fields) in rows.sixteen(w, 66 + 16 * half).into_iter().enumerate() {
            let wide = 4 * half + i;
            put_scales::<W, 4, 1>(w, w.shift_right::<28>(fields), factors, out, wide);
            let signs = signs_of_fields(w, fields);
            if W::TABLES {
                // Kept where the codes will be, until their places are at hand.
                w.store(signs, &mut out.codes[8 * wide]);
            } else {
                sign_fours(w, signs, 64, out, wide);
            }
        }
    }
    if !W::TABLES {
        return;
    }
    for pair in 0..4 {
        let [a, b, c, d] = rows.sixteen(w, 2 + 16 * pair);
        for (wide, [first, last]) in [(2 * pair, [a, b]), (2 * pair + 1, [c, d])] {
            let signs = w.load(&out.codes[8 * wide]);
            put(w, split::IQ3_XXS.fours(w, first, first, signs), &mut out.codes[8 * wide..]);
            let signs = w.shift_right::<16>(signs);
            put(w, split::IQ3_XXS.fours(w, last, last, signs), &mut out.codes[8 * wide + 4..]);
        }
    }
}

/// Scale; low bytes of 64 places, each for 4 numbers, their 64 upper bits, 32 bytes of signs; for each 32 numbers a scale of
/// 4 bits.
#[inline(always)]
pub(super) fn iq3_s<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [.., scales] = rows.sixteen(w, 94);
    put_scales::<W, 4, 8>(w, scales, times_both(w, w.low_half(rows.shorts(w, 0)), [2.0, 1.0]), out, 0);
    if W::TABLES {
        return iq3_s_by_tables(w, rows, out);
    }
    let mut places = Places::<512, 32>::new();
    let [mut upper, mut next, ..] = rows.sixteen(w, 66);
    for quarter in 0..4 {
        let [a, b, c, d] = rows.sixteen(w, 2 + 16 * quarter);
        for (i, [first, second]) in [[a, b], [c, d]].into_iter().enumerate() {
            let word = 4 * quarter + 2 * i;
            places.set_word::<W, 8, 7, 22, 21>(w, word, first, upper);
            places.set_word::<W, 4, 3, 18, 17>(w, word + 1, second, upper);
            upper = w.shift_right::<8>(upper);
        }
        if quarter == 1 {
            std::mem::swap(&mut upper, &mut next);
        }
    }
    places.fours_of_words(&codebook::IQ3_S, out);
    for half in 0..2 {
        for (i, signs) in rows.sixteen(w, 74 + 16 * half).into_iter().enumerate() {
            let wide = 4 * half + i;
            sign_fours(w, signs, 16, out, wide);
        }
    }
}

/// The codes of `IQ3_S`, with tables of bytes.
#[inline(always)]
fn iq3_s_by_tables<W: Wide>(w: W, rows: Rows, out: &mut Unpacked) {
    let [low_uppers, high_uppers, ..] = rows.sixteen(w, 66);
    for (half, mut upper) in [low_uppers, high_uppers].into_iter().enumerate() {
        let [a, b, c, d] = rows.sixteen(w, 74 + 16 * half);
        for (quarter, [first, last]) in [(2 * half, [a, b]), (2 * half + 1, [c, d])] {
            let [a, b, c, d] = rows.sixteen(w, 2 + 16 * quarter);
            for (wide, [a, b], signs) in [(2 * quarter, [a, b], first), (2 * quarter + 1, [c, d], last)] {
                let codes = split::IQ3_S.fours(w, a, w.windows::<0, 1>(upper), signs);
                put(w, codes, &mut out.codes[8 * wide..]);
                let codes = split::IQ3_S.fours(w, b, w.windows::<4, 1>(upper), w.shift_right::<16>(signs));
                put(w, codes, &mut out.codes[8 * wide + 4..]);
                upper = w.shift_right::<8>(upper);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plan::QuantType;

    use super::super::super::activations::RUN;
    use super::super::super::panel::{Rows, Unpacked};
    use super::super::{Unpack, form};
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
                    isa.run_wide(Unpack { quant, rows, groups: RUN / form.group, out: &mut out });
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
