//! Columns in 8 bits: the CPU's rule, code for code.

use kernels::cuda::{Arena, Quantized};
use kernels::reference;

use crate::card::{download, gpu, upload};
use crate::common::{Draw, bits};

#[test]
fn codes_times_scales_are_the_references_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    for (width, columns) in [(1, 1), (31, 2), (32, 1), (33, 3), (256, 8), (1000, 5), (7168, 2), (18_432, 1)] {
        let mut x = Draw(width as u64).numbers(width * columns);
        // A group of zeros, and one that is too small for an inverse.
        x[..width.min(32)].fill(0.0);
        x.iter_mut().skip(64).take(32).for_each(|x| *x = 1e-38);
        let mut arena = Arena::new(gpu, "a test", Quantized::bytes(width, columns)).unwrap();
        let mut quantized = Quantized::new(&mut arena, width, columns).unwrap();
        quantized.quantize(gpu.compute(), upload(gpu, &x).slice(), width).unwrap();

        let codes = download(gpu, quantized.codes());
        let scales = download(gpu, quantized.scales());
        let stride = quantized.stride();
        let mut found = Vec::new();
        for (column, codes) in codes.chunks(stride).enumerate() {
            for (group, codes) in codes.chunks(32).enumerate() {
                let packed = scales[column * stride / 32 + group];
                let scale = f32::from_bits(packed as u32);
                let sum = |codes: &[i8]| codes.iter().map(|code| i16::from(*code)).sum::<i16>();
                let sums = [sum(&codes[..16]), sum(&codes[16..])];
                assert_eq!([(packed >> 32) as i16, (packed >> 48) as i16], sums, "sums of group {group} of {width}");
                let numbers = codes.iter().map(|code| f32::from(*code) * scale);
                found.extend(numbers.take(width - (group * 32).min(width)));
            }
            assert!(codes[width..].iter().all(|code| *code == 0), "zeros behind {width}");
        }
        let mut expected = reference::rounded(&x, width);
        // The reference divides by what is too small for an inverse; and zeros may have signs.
        expected.iter_mut().zip(&x).filter(|(_, x)| x.abs() < 1e-36).for_each(|(expected, _)| *expected = 0.0);
        expected.iter_mut().chain(&mut found).filter(|x| **x == 0.0).for_each(|x| *x = 0.0);
        assert_eq!(bits(&found), bits(&expected), "{columns} columns of {width}");
    }
}

#[test]
fn what_is_not_finite_makes_its_group_nan_and_no_other() {
    let Some(gpu) = gpu() else { return };
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = Draw(1).numbers(96);
        x[40] = wrong;
        let mut arena = Arena::new(gpu, "a test", Quantized::bytes(96, 1)).unwrap();
        let mut quantized = Quantized::new(&mut arena, 96, 1).unwrap();
        quantized.quantize(gpu.compute(), upload(gpu, &x).slice(), 96).unwrap();
        let scales = download(gpu, quantized.scales());
        let nan: Vec<bool> = scales.iter().map(|packed| f32::from_bits(*packed as u32).is_nan()).collect();
        assert_eq!(nan, [false, true, false], "{wrong}");
    }
}
