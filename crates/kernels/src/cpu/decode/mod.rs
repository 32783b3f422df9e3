//! Quantized blocks to exact `f32`, sixteen numbers at a time: the table of types and their decoders.
//!
//! A decoder gives each group of sixteen numbers to a [`Sink`] while it is in a register. What becomes of it (stored,
//! or multiplied with activations at once) is the sink's affair, so a type is described once. The results are those of
//! [`reference::value`](crate::reference::value) to the bit: where a multiply-add stands for a product and a sum, the
//! product is exact (an 11-bit scale times a scale and a number of few bits), so that both round once.

pub(super) mod codebook;
mod k;
mod plain;

use plan::QuantType;

use super::Isa;
use super::isa::Kernel;
use super::simd::{LANES, Lanes, Simd};
use crate::reference;

/// Takes groups of sixteen numbers as they are decoded.
pub(super) trait Sink<S: Simd> {
    /// The `group`-th sixteen numbers of the run that is decoded. Groups come in ascending order: sums depend on it.
    fn put(&mut self, s: S, group: usize, numbers: S::F);
}

/// How blocks of one type are decoded.
pub(super) trait Block {
    /// Bytes of one block.
    const BYTES: usize;
    /// Numbers of one block: a multiple of sixteen. Types without blocks are taken by sixteen.
    const ELEMENTS: usize;

    /// Gives the numbers of one block to `sink`, as groups from `first` on.
    fn decode<S: Simd>(s: S, block: &[u8], first: usize, sink: &mut impl Sink<S>);
}

/// Code that is compiled for each type of blocks.
pub(super) trait ForBlock {
    /// What it gives.
    type Output;

    /// Computes with blocks of type `B`.
    fn run<S: Simd, B: Block>(self, s: S) -> Self::Output;

    /// Computes with a type that has no fast decoder.
    fn run_slow<S: Simd>(self, s: S, quant: QuantType) -> Self::Output;
}

/// The table: which decoder each type has.
#[inline(always)]
pub(super) fn for_block<S: Simd, F: ForBlock>(s: S, quant: QuantType, f: F) -> F::Output {
    match quant {
        QuantType::F32 => f.run::<S, plain::F32>(s),
        QuantType::F16 => f.run::<S, plain::F16>(s),
        QuantType::Bf16 => f.run::<S, plain::Bf16>(s),
        QuantType::Q1_0 => f.run::<S, plain::Q1_0>(s),
        QuantType::Q2_0 => f.run::<S, plain::Q2_0>(s),
        QuantType::Q4_0 => f.run::<S, plain::Q4_0>(s),
        QuantType::Q4_1 => f.run::<S, plain::Q4_1>(s),
        QuantType::Q5_0 => f.run::<S, plain::Q5_0>(s),
        QuantType::Q5_1 => f.run::<S, plain::Q5_1>(s),
        QuantType::Q8_0 => f.run::<S, plain::Q8_0>(s),
        QuantType::Q8K => f.run::<S, k::Q8K>(s),
        QuantType::Q2K => f.run::<S, k::Q2K>(s),
        QuantType::Q3K => f.run::<S, k::Q3K>(s),
        QuantType::Q4K => f.run::<S, k::Q4K>(s),
        QuantType::Q5K => f.run::<S, k::Q5K>(s),
        QuantType::Q6K => f.run::<S, k::Q6K>(s),
        QuantType::Tq1_0 => f.run::<S, k::Tq1_0>(s),
        QuantType::Tq2_0 => f.run::<S, k::Tq2_0>(s),
        QuantType::Iq4Nl => f.run::<S, codebook::Iq4Nl>(s),
        QuantType::Iq4Xs => f.run::<S, codebook::Iq4Xs>(s),
        QuantType::Mxfp4 => f.run::<S, codebook::Mxfp4>(s),
        QuantType::Nvfp4 => f.run::<S, codebook::Nvfp4>(s),
        QuantType::Iq2Xxs => f.run::<S, codebook::Iq2Xxs>(s),
        QuantType::Iq2Xs => f.run::<S, codebook::Iq2Xs>(s),
        QuantType::Iq2S => f.run::<S, codebook::Iq2S>(s),
        QuantType::Iq3Xxs => f.run::<S, codebook::Iq3Xxs>(s),
        QuantType::Iq3S => f.run::<S, codebook::Iq3S>(s),
        QuantType::Iq1S => f.run::<S, codebook::Iq1S>(s),
        QuantType::Iq1M => f.run::<S, codebook::Iq1M>(s),
        // `F64` only: no model's matrices are stored so.
        slow => f.run_slow::<S>(s, slow),
    }
}

/// Whether the CPU kernels compute with weights of this type.
#[must_use]
pub fn supports(quant: QuantType) -> bool {
    reference::supports(quant)
}

/// All numbers of whole blocks, exactly.
///
/// # Panics
/// Where the type is not [supported](supports) or `bytes` are not those of `out.len()` numbers.
pub fn dequantize(quant: QuantType, bytes: &[u8], out: &mut [f32]) {
    assert!(supports(quant), "no kernel decodes {quant}: ask `supports` first");
    let fits = quant.bytes(out.len() as u64).is_some_and(|need| need.0 == bytes.len() as u64);
    assert!(fits, "{} bytes are not those of {} numbers in {quant}", bytes.len(), out.len());
    Isa::best().run(Dequantize { quant, bytes, out });
}

/// Decodes a run of blocks to memory.
pub(super) struct Dequantize<'a> {
    pub(super) quant: QuantType,
    pub(super) bytes: &'a [u8],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for_block(s, self.quant, self);
    }
}

impl ForBlock for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, B: Block>(self, s: S) {
        let blocks = self.bytes.chunks_exact(B::BYTES);
        let (lanes, tail) = self.out.as_chunks_mut();
        // Only types without blocks leave a tail: fewer than sixteen numbers.
        reference::dequantize(self.quant, blocks.remainder(), tail);
        for (block, out) in blocks.zip(lanes.chunks_exact_mut(B::ELEMENTS / LANES)) {
            B::decode(s, block, 0, &mut Memory(out));
        }
    }

    #[inline(always)]
    fn run_slow<S: Simd>(self, _: S, quant: QuantType) {
        reference::dequantize(quant, self.bytes, self.out);
    }
}

struct Memory<'a>(&'a mut [Lanes]);

impl<S: Simd> Sink<S> for Memory<'_> {
    #[inline(always)]
    fn put(&mut self, s: S, group: usize, numbers: S::F) {
        s.store(numbers, &mut self.0[group]);
    }
}

/// `N` bytes of a block from `at`.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block holds its parts")
}

/// The half at `at`.
#[inline(always)]
fn half<S: Simd>(s: S, block: &[u8], at: usize) -> f32 {
    s.half(crate::tables::u16_at(block, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decoder_gives_the_bits_of_the_reference() {
        let mut state = 1_u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The highest exponent bit of no scale is set, so that none is infinite.
            (state >> 56) as u8 & 0b1011_1111
        };
        for quant in QuantType::ALL.iter().copied().filter(|quant| supports(*quant)) {
            let elements = 40 * quant.block_elements();
            let blocks: Vec<u8> = (0..40 * quant.block_bytes()).map(|_| byte()).collect();
            let mut expected = vec![f32::NAN; elements];
            reference::dequantize(quant, &blocks, &mut expected);
            for isa in Isa::all() {
                let mut found = vec![f32::NAN; elements];
                isa.run(Dequantize { quant, bytes: &blocks, out: &mut found });
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert_eq!(found.to_bits(), expected.to_bits(), "{} {quant}[{i}]: {found} {expected}", isa.name());
                }
            }
        }
    }
}
