//! Decides where every byte of a model lives and what a token will cost.
//!
//! Owns the project's nouns: [`Inventory`] and its [`Unit`]s and [`Role`]s, [`Machine`], [`Tier`], [`Plan`].
//! Pure: text in, values out. Must never know a file, clock, environment, thread, random number or device.

mod aim;
mod blocks;
mod bytes;
mod calibration;
pub mod card;
pub mod cost;
pub mod expert_cache;
pub mod expert_use;
mod forecast;
pub mod gpu;
pub mod hardware;
mod inventory;
mod logits;
mod machine;
mod placement;
mod planner;
pub mod prepared;
pub mod processor;
pub mod profile;
mod quant;
pub mod report;
pub mod streaming;
mod suggest;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod traffic;

pub use aim::{Aim, Lengths, Scheme};
pub use bytes::{Bytes, BytesPerSecond, NotASize};
pub use calibration::{DRIFT, Observation, Parts, Phase};
pub use expert_use::{ExpertTrace, ExpertUse, ExpertUseError, ExpertUseWriter, Foreseen};
pub use forecast::{Cost, Forecaster, TERMS, Term, forecast_notes};
pub use inventory::{DeltaSizes, Inventory, Latent, ModelFile, ModelShape, Role, Tensor, Unit, UnitId, VocabularySize};
pub use logits::Logits;
pub use machine::{Calibration, GPU_CAPABILITY_MIN, Gpu, Machine, Rate, Reads, Source, is_rate, is_time};
pub use placement::{
    Device, Fetch, Forecast, KvPlan, KvType, LayerDevices, Load, NotATier, Placement, Plan, Staging, Tier, TierPlan,
};
pub use planner::{Compared, DoesNotFit, Refusal, compare, compare_for, plan, plan_for, plan_with};
pub use profile::{Overrides, Profile, ProfileError};
pub use quant::{NotAQuantType, QuantType};
