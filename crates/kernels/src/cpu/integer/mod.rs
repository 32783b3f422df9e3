//! Quantized matrices times quantized columns, in integers.
//!
//! Sixteen rows × up to 256 numbers are unpacked at a time, from the file's own layout, to a block of codes in the first-level
//! cache whose lanes are rows (`lanes`, `panel`, `blocks`), which is multiplied with the columns' codes (`tile`); the columns
//! are quantized once for all matrices that read them (`activations`). The dot products of a group's codes are exact; scaling them is a sum of
//! floats in one order. So an output depends on its row and its column alone, as it does in `matmul`, and its bits are the same
//! whatever the instructions, but for portable code, which rounds products and sums separately.

mod activations;
mod blocks;
mod lanes;
mod panel;
mod product;
mod tile;
mod wide;

pub use self::activations::Activations;
pub(super) use self::product::{Finish, TASK_COLUMNS, TASK_ROWS, Task};
pub(super) use self::wide::Wide;
#[cfg(target_arch = "x86_64")]
pub(super) use self::wide::{Avx2, Avx512, AvxVnni};
pub(super) use self::wide::{Portable, ROWS};

/// Whether weights of this type are multiplied in integers.
pub(super) fn takes(quant: plan::QuantType) -> bool {
    blocks::form(quant).is_some()
}
