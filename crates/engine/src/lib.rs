//! Runs the model, samples, counts.
//!
//! Owns architectures, activations, sessions and the loop from a prompt to tokens. Weights come as leases from `tiers`,
//! arithmetic is done by `kernels` behind candle operations. Must never know files, arguments or standard output, nor
//! hold unsafe code.

mod arch;
mod blocks;
mod check;
mod claims;
mod devices;
mod engine;
mod error;
mod experts;
mod foresight;
mod generate;
#[cfg(feature = "cuda")]
mod gpu;
mod lookahead;
mod ops;
mod pairs;
mod rope;
mod rounded;
mod route;
mod sampler;
mod scratch;
mod selection;
mod session;
mod span;
mod spec;
mod state;
mod stats;
mod steps;

pub use check::{check_model, check_plan, unsupported_types};
pub use engine::Engine;
pub use error::EngineError;
pub use experts::{Choice, Trace};
pub use generate::{Finish, Generation, Request, generate};
pub use kernels::cpu::Isa;
pub use sampler::{Sampler, Sampling};
pub use session::Session;
pub use stats::{DiskStats, DriveStats, ExpertCacheStats, ForecastStats, LinkStats, PhaseStats, Stats, TierStats};
