//! Dot products with a single column straight from a block's bytes: there codes would be stored to be loaded but once.
//!
//! Of the types that gain by it, where products are added up by twos; the results are those of unpacked codes to the last bit.

use plan::QuantType;

use super::super::activations::Run;
use super::super::panel::Unpacked;
use super::super::wide::{Quad, ROWS, Wide};
use super::{Source, grids, k};
use crate::cpu::isa::WideKernel;

/// A dot product for each group.
pub(in super::super) type Dots = [Quad; ROWS];

/// The code of zero in products of a single column, where a type has such.
pub(in super::super) const fn direct(quant: QuantType) -> Option<u8> {
    match quant {
        // With minima, or with signs of their own.
        QuantType::Q4K | QuantType::Iq2Xxs => Some(0),
        QuantType::Q6K => Some(32),
        _ => None,
    }
}

/// The column's numbers that meet a block.
pub(super) struct Single<'a> {
    run: &'a Run,
    starts: &'a Quad,
}

impl Single<'_> {
    /// What the dot product of a group begins at.
    #[inline(always)]
    pub(super) fn start<W: Wide>(&self, w: W, group: usize) -> W::V {
        w.each(i32::from_le_bytes(self.starts.0[group % ROWS]))
    }

    /// Four of the column's codes for each row.
    #[inline(always)]
    pub(super) fn four<W: Wide>(&self, w: W, quad: usize) -> W::V {
        w.each(i32::from_le_bytes(self.run.codes[quad].map(|x| x as u8)))
    }

    /// The codes that meet 32 numbers.
    #[inline(always)]
    pub(super) fn group(&self, wide: usize) -> &[[i8; 4]; 8] {
        &self.run.codes.as_chunks::<8>().0[wide]
    }
}

/// The dot products of a block's groups, which begin at `starts`, and their scales and minima.
pub(in super::super) struct Direct<'a, 'b> {
    pub(in super::super) source: &'a Source<'a>,
    pub(in super::super) run: &'a Run,
    pub(in super::super) starts: &'a Quad,
    pub(in super::super) out: &'b mut Unpacked,
    pub(in super::super) dots: &'b mut Dots,
}

impl WideKernel for Direct<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<W: Wide>(self, w: W) {
        let Self { source: &Source { quant, rows, .. }, run, starts, out, dots } = self;
        let column = &Single { run, starts };
        match quant {
            QuantType::Q4K => k::q4_k_dots(w, rows, column, out, dots),
            QuantType::Q6K => k::q6_k_dots(w, rows, column, out, dots),
            QuantType::Iq2Xxs => grids::iq2_xxs_dots(w, rows, column, out, dots),
            _ => unreachable!("`direct` says which types there are"),
        }
    }
}
