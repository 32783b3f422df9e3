//! The operations of a transformer on the CPU, on a [`Pool`] of threads.
//!
//! Each operation is written once over sixteen lanes of `f32` (`simd`) and compiled for portable code, AVX2 and
//! AVX-512; a [`Pool`] carries the instruction set that was chosen when it was made. For one instruction set, every
//! number that comes out depends on its own inputs only: not on the count of threads, on how many columns or rows were
//! asked for at once, or on how a matrix was cut. Between instruction sets results differ by rounding.
//!
//! Lengths that do not fit are mistakes of the caller and panic with both lengths; no content of a file can cause one.
//! Must never know a model, a plan or a tensor library.

mod activation;
mod attention;
mod decode;
mod delta;
mod elementwise;
mod integer;
mod isa;
mod kv;
mod matmul;
mod norm;
mod outputs;
mod pool;
mod room;
mod rope;
mod route;
mod select;
mod simd;

pub use activation::{OutputGate, gate_rows, gelu_tanh_mul, sigmoid, silu_mul, softmax, swiglu_clamped_mul};
pub use attention::{AttentionShape, Sight, attention, attention_with};
pub use decode::{dequantize, supports};
pub use delta::{DeltaInputs, DeltaShape, HeadOrder, TAPS_MAX, decays, gated_delta, short_conv};
pub use elementwise::{add, add_bias, scale, scale_rows};
pub use integer::Activations;
pub use isa::{Isa, IsaError};
pub use kv::KvStore;
pub use matmul::{
    Column, Columns, Input, Job, WeightedColumn, WeightedJob, in_integers, matmul, matmul_jobs, matmul_transposed,
    matmul_weighted,
};
pub use norm::{l2_norm_in_place, layer_norm_in_place, rms_norm, rms_norm_in_place};
pub use pool::{Awake, Pool};
pub use rope::{RopeShape, RopeStyle, RopeTable, rope};
#[cfg(feature = "cuda")]
#[cfg(feature = "cuda")]
pub(crate) use route::check as check_routing;
pub use route::{Gate, Routing, route};
pub use select::{SELECT_BLOCK, SELECT_DIM, SelectShape, select};
