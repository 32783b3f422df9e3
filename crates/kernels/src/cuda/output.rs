//! Where the result of an operation goes, so that the next matrix finds it in the form that it reads.

use super::launch::Address;
use super::{Quantized, SliceMut};

/// A result as numbers, rounded to 8 bits, or both; what is written costs no second kernel.
#[derive(Debug, Default)]
pub struct Output<'a, 'b> {
    /// As numbers.
    pub numbers: Option<&'a mut SliceMut<'b, f32>>,
    /// Rounded, as columns of a row each. Rows are then multiples of 32 numbers.
    pub rounded: Option<&'a mut Quantized>,
}

/// The addresses of an [`Output`], none where nothing goes.
#[derive(Clone, Copy)]
pub(super) struct Targets {
    pub(super) numbers: Address,
    pub(super) codes: Address,
    pub(super) scales: Address,
}

impl<'a, 'b> Output<'a, 'b> {
    /// Numbers only.
    #[must_use]
    pub const fn numbers(numbers: &'a mut SliceMut<'b, f32>) -> Self {
        Self { numbers: Some(numbers), rounded: None }
    }

    /// Rounded columns only.
    #[must_use]
    pub const fn rounded(rounded: &'a mut Quantized) -> Self {
        Self { numbers: None, rounded: Some(rounded) }
    }

    /// Both.
    #[must_use]
    pub const fn both(numbers: &'a mut SliceMut<'b, f32>, rounded: &'a mut Quantized) -> Self {
        Self { numbers: Some(numbers), rounded: Some(rounded) }
    }

    /// Where `count` numbers in rows of `width` go.
    ///
    /// # Panics
    /// Where the numbers are not as many, there is no room for the columns, or rows that are rounded are not multiples of 32.
    pub(super) fn targets(self, count: usize, width: usize) -> Targets {
        let numbers = self.numbers.map_or(Address::NONE, |numbers| {
            assert_eq!(numbers.len(), count, "the output's length");
            numbers.address()
        });
        let (codes, scales) = self.rounded.map_or((Address::NONE, Address::NONE), |rounded| {
            assert!(width.is_multiple_of(32), "rows of {width} numbers are rounded by 32");
            rounded.resize(width, count / width);
            (rounded.codes().address(), rounded.scales().address())
        });
        Targets { numbers, codes, scales }
    }
}
