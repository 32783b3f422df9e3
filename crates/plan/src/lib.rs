//! Decides where every byte of a model lives and what a token will cost.
//!
//! Owns the project's nouns: [`Inventory`] and its [`Unit`]s and [`Role`]s, [`Machine`], [`Tier`], [`Plan`].
//! Pure: text in, values out. Must never know a file, clock, environment, thread, random number or device.

mod bytes;
mod inventory;
mod machine;
mod placement;
mod quant;

pub use bytes::{Bytes, BytesPerSecond, NotASize};
pub use inventory::{Inventory, ModelFile, ModelShape, Role, Tensor, Unit, UnitId, VocabularySize};
pub use machine::{Gpu, Machine, Rate, Source};
pub use placement::{Device, Forecast, KvPlan, KvType, Load, NotATier, Placement, Plan, Staging, Tier, TierPlan};
pub use quant::{NotAQuantType, QuantType};
