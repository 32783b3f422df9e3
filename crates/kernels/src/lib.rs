//! Arithmetic and memory, per device: the one room where unsafe code lives.
//!
//! - [`mod@reference`]: each operation as its definition reads, scalar, summed in `f64`. Slow and obviously right.
//! - [`cpu`]: the same operations, fast, on a [`cpu::Pool`] of threads.
//! - `cuda` (feature `cuda`): the same operations on NVIDIA cards, and their memory.
//! - [`memory`]: page-aligned buffers and the seam through which bytes of files come.
//!
//! Knows shapes, layouts and instructions. Must never know candle's tensors, a model's name, or why bytes lie where they
//! lie.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod memory;
pub mod reference;
mod tables;
