//! Every type's codes and scales against what the reference says its numbers are.

use plan::QuantType;

use super::super::panel::{Rows, Tail, Unpacked};
use super::super::wide::ROWS;
use super::{Form, Source, Unpack, form};
use crate::cpu::isa::Isa;
use crate::reference;

/// Bytes that are all but random.
fn noise(seed: u64, out: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in out {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
}

/// Where a type's blocks have half floats: in noise these would often be infinite.
fn halves(quant: QuantType) -> &'static [usize] {
    match quant {
        QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4K | QuantType::Q5K => &[0, 2],
        QuantType::Q2K => &[80, 82],
        QuantType::Q3K => &[108],
        QuantType::Q6K => &[208],
        QuantType::Tq1_0 => &[52],
        QuantType::Tq2_0 => &[64],
        QuantType::Iq1M | QuantType::Mxfp4 | QuantType::Nvfp4 => &[],
        _ => &[0],
    }
}

/// Random blocks with finite scales.
pub(in crate::cpu::integer) fn blocks(quant: QuantType, seed: u64, out: &mut [u8]) {
    noise(seed, out);
    for block in out.chunks_exact_mut(quant.block_bytes()) {
        for at in halves(quant) {
            // The largest exponent is cleared of its upper bit.
            if block[at + 1] & 0x7c == 0x7c {
                block[at + 1] &= 0xbf;
            }
        }
        if quant == QuantType::Iq1M && block[55] & 0x70 == 0x70 {
            block[55] &= 0xbf;
        }
    }
}

/// What a code stands for, in scales: those beyond 127 are signed where products are added up by twos.
fn value(form: Form, isa: Isa, code: u8) -> f32 {
    if isa.name() == "avx2" && form.pairs() == 0 {
        f32::from(code as i8)
    } else {
        f32::from(code) - f32::from(form.zero)
    }
}

/// Holds an unpacked run against the reference, row by row.
fn check(quant: QuantType, isa: Isa, unpacked: &Unpacked, row: usize, bytes: &[u8], numbers: usize, what: &str) {
    let form = form(quant).expect("multiplied in integers");
    let mut wanted = vec![0.0; numbers];
    reference::dequantize(quant, bytes, &mut wanted);
    for (i, wanted) in wanted.into_iter().enumerate() {
        let code = unpacked.codes[i / 4].0[row][i % 4];
        let part = unpacked.scales[i / form.group].0[row] * value(form, isa, code);
        let (value, largest) = if form.minima {
            let minimum = unpacked.minima[i / form.group].0[row];
            (part - minimum, part.abs().max(minimum.abs()))
        } else {
            (part, wanted.abs())
        };
        // Infinite where the scale is 2^127.
        let near = value == wanted || (value - wanted).abs() <= 2.0 * f32::EPSILON * largest;
        assert!(near, "{what}: number {i} of row {row} is {value}, not {wanted}");
    }
}

#[test]
fn unpacked_numbers_are_the_references() {
    for quant in QuantType::ALL.iter().copied() {
        let Some(form) = form(quant) else { continue };
        assert!(256 % form.group == 0 && form.zero <= form.largest, "{quant}");
        for elements in (quant.block_elements()..=256).step_by(quant.block_elements()) {
            let bytes = elements / quant.block_elements() * quant.block_bytes();
            // A row begins anywhere.
            for (seed, (lead, gap)) in (0..).zip([(0, 0), (1, 3), (3, 34)]) {
                let stride = bytes + gap;
                let mut all = vec![0; lead + ROWS * stride];
                for (row, room) in all[lead..].chunks_exact_mut(stride).enumerate() {
                    blocks(quant, 100 * seed + row as u64, &mut room[..bytes]);
                }
                // As many bytes as a matrix that ends here has.
                let all = &all[lead..lead + (ROWS - 1) * stride + bytes];
                let mut first: Option<Box<Unpacked>> = None;
                for isa in Isa::all() {
                    let what = format!("{quant}, {elements} numbers, {}", isa.name());
                    let mut out = Box::new(Unpacked::ZERO);
                    let rows = Rows::new(all, stride, bytes);
                    let source = &Source { quant, rows, groups: elements / form.group };
                    isa.run_wide(Unpack { source, out: &mut out });
                    for row in 0..ROWS {
                        check(quant, isa, &out, row, &all[row * stride..][..bytes], elements, &what);
                    }
                    let plain = first.get_or_insert_with(|| Box::new(Unpacked::ZERO));
                    if isa == Isa::PORTABLE {
                        *plain = out;
                        continue;
                    }
                    let groups = elements / form.group;
                    for (i, row) in (0..elements).flat_map(|i| (0..ROWS).map(move |row| (i, row))) {
                        let [a, b] =
                            [&out, &*plain].map(|x| (x.codes[i / 4].0[row][i % 4], x.scales[i / form.group].0[row]));
                        let within = isa.name() != "avx2" || form.pairs() == 0 || a.0 <= form.largest;
                        assert!(within, "{what}: code {} of number {i} of row {row}", a.0);
                        // Codes may stand at other bits, by as much as scales are smaller.
                        let [a, b] = [a.1 * value(form, isa, a.0), b.1 * value(form, Isa::PORTABLE, b.0)];
                        assert_eq!(a, b, "{what}: number {i} of row {row}");
                    }
                    for (a, b) in out.minima.iter().zip(&plain.minima).take(groups) {
                        assert_eq!(a.0, b.0, "{what}: minima");
                    }
                }
            }
        }
    }
}

#[test]
fn last_rows_are_unpacked_from_a_copy() {
    for quant in QuantType::ALL.iter().copied() {
        let Some(form) = form(quant) else { continue };
        for count in [1, 2, 7, 15] {
            let (elements, stride) = (256, 256 / quant.block_elements() * quant.block_bytes());
            let mut all = vec![0; count * stride];
            blocks(quant, count as u64, &mut all);
            for isa in Isa::all() {
                let (mut tail, mut out) = (Tail::EMPTY, Box::new(Unpacked::ZERO));
                let rows = tail.fill(&all, stride, count, stride);
                let source = &Source { quant, rows, groups: elements / form.group };
                isa.run_wide(Unpack { source, out: &mut out });
                for row in 0..count {
                    let what = format!("{quant}, {count} rows, {}", isa.name());
                    check(quant, isa, &out, row, &all[row * stride..][..stride], elements, &what);
                }
            }
        }
    }
}
