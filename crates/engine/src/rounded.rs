//! The input of a group of matrices, rounded to 8 bits for those of them that are quantized.
//!
//! Owns the one copy of it. Must never know what the input is.

use kernels::cpu::{Activations, Pool, in_integers};
use plan::{Bytes, QuantType};

/// Columns in the form in which quantized matrices read them.
pub(crate) struct Rounded {
    columns: Activations,
    /// Whether nothing is rounded.
    exact: bool,
    made: bool,
}

impl Rounded {
    /// Room for the widest input of a pass.
    pub(crate) fn with_capacity(bytes: Bytes) -> Self {
        Self { columns: Activations::with_capacity(bytes), exact: false, made: false }
    }

    pub(crate) const fn set_exact(&mut self, exact: bool) {
        self.exact = exact;
    }

    /// Rounds `x`, columns of `width` numbers, if one of the matrices that read them is of a type that needs it.
    pub(crate) fn make(
        &mut self,
        pool: &Pool,
        x: &[f32],
        width: usize,
        mut types: impl Iterator<Item = QuantType>,
    ) -> Option<&Activations> {
        self.made = !self.exact && types.any(in_integers);
        if self.made {
            self.columns.quantize(pool, x, width);
        }
        self.last()
    }

    /// What was made last, if anything.
    pub(crate) fn last(&self) -> Option<&Activations> {
        self.made.then_some(&self.columns)
    }
}
