//! Each operation as its definition reads: scalar, one value at a time, sums in `f64`.
//!
//! This is what the fast operations are tested against, and the first place to read what an operation means. The files
//! have the same names as those in [`cpu`](crate::cpu). It must never grow fast.

mod activation;
mod attention;
mod delta;
mod dequantize;
mod matmul;
mod norm;
mod rope;
mod route;
mod select;

pub use activation::{gate_rows, gelu_tanh_mul, sigmoid, silu_mul, softmax, swiglu_clamped_mul};
pub use attention::attention;
pub use delta::{decays, gated_delta, short_conv};
pub use dequantize::{dequantize, supports, value};
pub use matmul::{matmul, matmul_jobs, matmul_transposed, matmul_weighted, rounded};
pub use norm::{l2_norm, layer_norm, rms_norm};
pub use rope::rope;
pub use route::route;
pub use select::select;
