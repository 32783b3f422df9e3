//! Arithmetic and memory on NVIDIA GPUs from `sm_80` up (feature `cuda`).
//!
//! [`Gpu`] opens a card under a ceiling of bytes, [`Arena`] takes memory there once, [`Stream`]s order copies and kernels, and each
//! operation is a function over [`Slice`]s of that memory. Kernels are written in `kernels/cuda/*.cu`, compiled by nvcc at build time and
//! embedded; the driver is looked up when the first card is asked for, so that a binary with this feature starts anywhere.
//!
//! Weights stay in the blocks of the GGUF file, byte for byte as RAM and disk hold them: a copy to the card is a copy.
//!
//! Work on a stream is asynchronous. What the device reads or writes stays allocated until it has finished: buffers wait for the device
//! when they are dropped. Two streams that touch the same memory are put in order by an [`Event`]; forgetting one gives wrong numbers,
//! never a wrong access. A failed launch or a lost card is a [`CudaError`] of the next call, never a panic.
//!
//! Must never know candle's tensors, a model's name, or why bytes lie where they lie.

mod attention;
mod crossing;
mod device;
mod driver;
mod elementwise;
mod error;
mod expand;
mod experts;
mod halves;
mod head_product;
mod heads;
mod host;
mod jobs;
mod kv;
mod kv_rows;
mod launch;
mod lookup;
mod matmul;
mod matvec;
mod memory;
mod module;
mod norm;
mod nvml;
mod output;
mod quantize;
mod rates;
mod recording;
mod registered;
mod route;
mod stream;

pub use attention::{AttentionForm, Sight, attention, attention_apart};
pub use crossing::Crossing;
pub use device::{Gpu, GpuInfo, count};
pub use elementwise::{Change, Rows, WeightedRows, add, add_weighted, change, gate_rows, gated, scale_rows};
pub use error::CudaError;
pub use expand::{Expansion, HeadRooms, expand};
pub use experts::{CHOICES_MAX, Chosen, ExpertTable, Joining, experts_down, experts_up};
pub use halves::HalvesRoom;
pub use head_product::{HeadMatrix, HeadSteps, head_product, head_product_transposed};
pub use heads::{Growth, HEAD_DIM_MAX, HeadNorm, HeadPart, HeadTurn, HeadsTo, RopeTable, advance, heads};
pub use host::{Download, Pinned, PinnedSlice};
pub use jobs::JobRoom;
pub use kv::{KvPart, KvStore};
pub use lookup::{lookup, unpack};
pub use matmul::{JOB_COLUMNS, JobList, MatrixJob, matmul, matmul_floats};
pub use matvec::{MATVEC_COLUMNS, Matrix, in_floats, in_integers, matvec, matvec_floats, supports};
pub use memory::{Arena, DeviceBuffer, Plain, Slice, SliceMut};
pub use norm::{Norm, NormKind, add_norm, norm, norm_in_place};
pub use output::Output;
pub use quantize::Quantized;
pub use rates::read_through;
pub use recording::{Recorder, Recording};
pub use registered::{Registered, RegisteredParts};
pub use route::{EXPERTS_MAX, RouteMail, SENT_TOKENS_MAX, route};
pub use stream::{Event, Stream};
