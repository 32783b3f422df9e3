//! What a machine has and how fast it is, as `probe` measured it or as an estimate that says so.

use serde::{Deserialize, Serialize};

use crate::{Bytes, BytesPerSecond};

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Measured on this machine with the code that will run.
    Measured,
    /// A cautious guess, said to be one wherever it is used.
    Estimated,
}

/// A rate with where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes per second.
    pub rate: BytesPerSecond,
    /// Measured or estimated.
    pub source: Source,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// The driver's name for it.
    pub name: String,
    /// All its memory.
    pub memory_total: Bytes,
    /// What was free when it was looked at.
    pub memory_free: Bytes,
    /// Compute capability, such as (8, 6).
    pub capability: (u32, u32),
    /// How fast kernels read its memory.
    pub read: Rate,
    /// How fast pinned RAM reaches it.
    pub link: Rate,
    /// How fast it multiplies in prefill, in operations (a multiply and an add are two) per second; 0 where nobody knows, and then
    /// they are not counted.
    #[serde(default)]
    pub ops_per_second: f64,
}

/// A machine: tiers, links and compute rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Physical cores that this process may use.
    pub cores: u32,
    /// All RAM, or the cgroup's limit where that is lower.
    pub ram_total: Bytes,
    /// RAM that can be used now without swapping.
    pub ram_available: Bytes,
    /// How fast the CPU kernels read weights from RAM in decode, with `cores` threads.
    pub ram_read: Rate,
    /// How fast the CPU multiplies in prefill, in operations (a multiply and an add are two) per second.
    pub cpu_ops_per_second: f64,
    /// How fast the model's drive is read.
    pub disk_read: Rate,
    /// GPUs, by number.
    pub gpus: Vec<Gpu>,
}

/// The oldest compute capability that the GPU kernels are built for; older GPUs are refused by name.
pub const GPU_CAPABILITY_MIN: (u32, u32) = (8, 0);
