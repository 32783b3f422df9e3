//! Quantized blocks to integer codes and scales, sixteen rows at a time: the table of types.
//!
//! Every type is `scale · code − minimum` over groups of 16 or 32 numbers, with codes from 0 up. Where zero has the same code
//! in every group of every block, the minimum is that code times the scale, and products take it off in integers.
//! The layouts are described in `reference::dequantize`; here is only how sixteen rows of them are taken apart at once.

mod bits;
mod codebook;
mod direct;
mod entries;
mod grids;
mod k;
mod plain;
mod small;
mod split;
mod ternary;
mod ternary_grids;
#[cfg(test)]
pub(super) mod tests;

use plan::QuantType;

pub(super) use self::direct::{Direct, Dots, direct};

use super::panel::{Rows, Unpacked};
use super::wide::Wide;
use crate::cpu::isa::WideKernel;

/// How the numbers of a type are made of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Numbers that share a scale: 16 or 32.
    pub(super) group: usize,
    /// The code of zero; unused with minima.
    pub(super) zero: u8,
    /// Whether groups have minima of their own.
    pub(super) minima: bool,
    /// The largest code.
    pub(super) largest: u8,
}

impl Form {
    const fn around(zero: u8, group: usize, largest: u8) -> Self {
        Self { group, zero, minima: false, largest }
    }

    const fn with_minima(group: usize, largest: u8) -> Self {
        Self { group, zero: 0, minima: true, largest }
    }

    /// How many products of codes with columns' codes, by twos, add up within 16 bits: none where two do not.
    pub(super) const fn pairs(&self) -> usize {
        i16::MAX as usize / (2 * 127 * self.largest as usize)
    }
}

/// The form of a type, if it is multiplied in integers.
pub(super) const fn form(quant: QuantType) -> Option<Form> {
    Some(match quant {
        QuantType::Q1_0 | QuantType::Tq1_0 => Form::around(1, 32, 2),
        QuantType::Q2_0 | QuantType::Tq2_0 => Form::around(1, 32, 3),
        QuantType::Q4_0 => Form::around(8, 32, 15),
        QuantType::Q5_0 | QuantType::Iq3S => Form::around(16, 32, 31),
        QuantType::Q8_0 => Form::around(128, 32, 255),
        QuantType::Q4_1 | QuantType::Q4K => Form::with_minima(32, 15),
        QuantType::Q5_1 | QuantType::Q5K => Form::with_minima(32, 31),
        QuantType::Q2K => Form::with_minima(16, 3),
        QuantType::Q3K => Form::around(4, 16, 7),
        QuantType::Q6K => Form::around(32, 16, 63),
        QuantType::Iq4Nl | QuantType::Iq4Xs => Form::around(codebook::IQ4_ZERO, 32, 240),
        QuantType::Mxfp4 => Form::around(codebook::E2M1_ZERO, 32, 24),
        QuantType::Nvfp4 => Form::around(codebook::E2M1_ZERO, 16, 24),
        QuantType::Iq1S => Form::around(9, 32, 18),
        QuantType::Iq1M => Form::around(9, 16, 18),
        QuantType::Iq2Xxs => Form::around(64, 32, 107),
        QuantType::Iq3Xxs => Form::around(64, 32, 126),
        QuantType::Iq2Xs | QuantType::Iq2S => Form::around(64, 16, 107),
        _ => return None,
    })
}

/// Up to how many columns a type's rows are better read as sixteen streams than as neighbours, as measured: nearly always where
/// they are read at the rate of memory, never where unpacking takes longer than reading.
pub(super) const fn streamed_columns(quant: QuantType) -> usize {
    match quant {
        QuantType::Q1_0
        | QuantType::Tq1_0
        | QuantType::Tq2_0
        | QuantType::Iq1S
        | QuantType::Iq1M
        | QuantType::Iq2Xxs
        | QuantType::Iq2Xs
        | QuantType::Iq2S
        | QuantType::Iq3Xxs
        | QuantType::Iq3S => 0,
        QuantType::Q2_0 | QuantType::Q2K | QuantType::Q3K => 1,
        QuantType::Mxfp4 => 4,
        _ => usize::MAX,
    }
}

/// The first `groups` groups of up to 256 numbers of sixteen rows.
pub(super) struct Source<'a> {
    pub(super) quant: QuantType,
    pub(super) rows: Rows<'a>,
    pub(super) groups: usize,
}

/// Unpacks them. A reference, since copies would cost more than it seems: a processor that loads together what was just stored in
/// pieces waits until all that came before is done, and with it the products of the block before.
pub(super) struct Unpack<'a, 'b> {
    pub(super) source: &'a Source<'a>,
    pub(super) out: &'b mut Unpacked,
}

impl WideKernel for Unpack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<W: Wide>(self, w: W) {
        let Self { source: &Source { quant, rows, groups }, out } = self;
        match quant {
            QuantType::Q1_0 => small::unpack::<W, plain::Q1_0>(w, rows, 32 * groups, out),
            QuantType::Q2_0 => small::unpack::<W, plain::Q2_0>(w, rows, 32 * groups, out),
            QuantType::Q4_0 => small::unpack::<W, plain::Q4_0>(w, rows, 32 * groups, out),
            QuantType::Q4_1 => small::unpack::<W, plain::Q4_1>(w, rows, 32 * groups, out),
            QuantType::Q5_0 => small::unpack::<W, plain::Q5_0>(w, rows, 32 * groups, out),
            QuantType::Q5_1 => small::unpack::<W, plain::Q5_1>(w, rows, 32 * groups, out),
            QuantType::Q8_0 => small::unpack::<W, plain::Q8_0>(w, rows, 32 * groups, out),
            QuantType::Iq4Nl => small::unpack::<W, codebook::Iq4Nl>(w, rows, 32 * groups, out),
            QuantType::Mxfp4 => small::unpack::<W, codebook::Mxfp4>(w, rows, 32 * groups, out),
            QuantType::Nvfp4 => small::unpack::<W, codebook::Nvfp4>(w, rows, 16 * groups, out),
            QuantType::Q2K => k::q2_k(w, rows, out),
            QuantType::Q3K => k::q3_k(w, rows, out),
            QuantType::Q4K => k::q4_k(w, rows, out),
            QuantType::Q5K => k::q5_k(w, rows, out),
            QuantType::Q6K => k::q6_k(w, rows, out),
            QuantType::Iq4Xs => codebook::iq4_xs(w, rows, out),
            QuantType::Tq1_0 => ternary::tq1_0(w, rows, out),
            QuantType::Tq2_0 => ternary::tq2_0(w, rows, out),
            QuantType::Iq1S => ternary_grids::iq1_s(w, rows, out),
            QuantType::Iq1M => ternary_grids::iq1_m(w, rows, out),
            QuantType::Iq2Xxs => grids::iq2_xxs(w, rows, out),
            QuantType::Iq2Xs => grids::iq2_xs(w, rows, out),
            QuantType::Iq2S => grids::iq2_s(w, rows, out),
            QuantType::Iq3Xxs => grids::iq3_xxs(w, rows, out),
            QuantType::Iq3S => grids::iq3_s(w, rows, out),
            _ => unreachable!("`form` says which types there are"),
        }
    }
}
