//! What the tests of operations share: numbers that look random and are the same at each run, and comparison.

#![allow(dead_code)] // Each test uses its part.

use kernels::cpu::{Isa, Pool};
use plan::QuantType;

/// A stream of well-mixed numbers (`SplitMix64`).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// From -1 to 1.
    pub(crate) fn number(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / f32::from(1_u16 << 15) / 256.0 - 1.0
    }

    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }

    /// Blocks whose scales, wherever they lie, are finite: no byte has the highest exponent bit.
    pub(crate) fn blocks(&mut self, quant: QuantType, elements: usize) -> Vec<u8> {
        let bytes = quant.bytes(elements as u64).unwrap().0;
        (0..bytes).map(|_| self.bits() as u8 & 0b1011_1111).collect()
    }
}

/// Pools that must all give the same bits, for each instruction set of this machine.
pub(crate) fn pools() -> Vec<(&'static str, Vec<Pool>)> {
    Isa::all().map(|isa| (isa.name(), [1, 3].map(|threads| Pool::new(threads, isa).unwrap()).into())).collect()
}

pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Every number within `tolerance` of its reference, relative to `size` (the magnitude that was rounded on the way).
pub(crate) fn assert_close(what: &str, found: &[f32], reference: &[f32], size: impl Fn(usize) -> f32, tolerance: f32) {
    assert_eq!(found.len(), reference.len(), "{what}");
    for (i, (found, reference)) in found.iter().zip(reference).enumerate() {
        let error = (found - reference).abs();
        assert!(
            error <= tolerance * size(i),
            "{what}[{i}]: {found}, not {reference}: off by {error:e}, size {}",
            size(i)
        );
    }
}

/// Runs `f` on each instruction set: all thread counts give the same bits, and those are near the reference.
pub(crate) fn on_every_pool(
    what: &str,
    reference: &[f32],
    size: impl Fn(usize) -> f32,
    tolerance: f32,
    f: impl Fn(&Pool, &mut [f32]),
) {
    for (isa, pools) in pools() {
        let mut first = vec![f32::NAN; reference.len()];
        f(&pools[0], &mut first);
        assert_close(&format!("{isa} {what}"), &first, reference, &size, tolerance);
        for pool in &pools[1..] {
            let mut other = vec![f32::NAN; reference.len()];
            f(pool, &mut other);
            assert_eq!(bits(&other), bits(&first), "{isa} {what} on {} threads", pool.threads());
        }
    }
}
