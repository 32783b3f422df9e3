//! Quantized blocks to `f32`.

use plan::QuantType;

use super::simd::Simd;
use crate::reference;

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
    reference::dequantize(quant, bytes, out);
}

#[inline(always)]
pub(super) fn decode<S: Simd>(_: S, quant: QuantType, bytes: &[u8], out: &mut [f32]) {
    reference::dequantize(quant, bytes, out);
}
