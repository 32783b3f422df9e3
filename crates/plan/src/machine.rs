//! What a machine has and how fast it is, as `probe` measured it or as an estimate that says so.

use serde::{Deserialize, Serialize};

use crate::card::CardKernels;
use crate::processor::Processor;
use crate::{Bytes, BytesPerSecond};

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Measured on this machine with the code that will run.
    Measured,
    /// A cautious guess, said to be one wherever it is used.
    Estimated,
    /// Of a machine that is not this one: what a data sheet says, times what kernels reach of that elsewhere.
    Catalogue,
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
    /// How fast it reaches pinned RAM; as fast as `link` where nobody knows.
    #[serde(default)]
    pub link_back: Option<Rate>,
    /// Seconds until a few numbers have crossed between it and the processor; 0 where nobody knows, and then 12 µs.
    #[serde(default)]
    pub crossing_s: f64,
    /// Seconds until the driver has taken a kernel, among many; 0 where nobody knows, and then 3 µs.
    #[serde(default)]
    pub launch_s: f64,
    /// What its kernels do one by one; an H100's where nobody measured them.
    #[serde(default)]
    pub kernels: CardKernels,
    /// What a context with all kernels takes of its memory; 0 where nobody knows.
    #[serde(default)]
    pub context: Bytes,
}

/// Whether a machine may do so many bytes or operations a second: from one to 10^18. What is beyond is a damaged file, and would turn sums of seconds
/// into no numbers.
#[must_use]
pub fn is_rate(per_second: f64) -> bool {
    (1.0..=1e18).contains(&per_second)
}

/// Whether a step may take so many seconds: up to a quarter of an hour.
#[must_use]
pub fn is_time(seconds: f64) -> bool {
    (0.0..=1e3).contains(&seconds)
}

/// What a drive gives beside busy cores where nobody measured it: what it gives otherwise.
const fn undisturbed() -> f64 {
    1.0
}

/// Seconds of a crossing where nobody measured them: twice what an H100 takes for 7,168 numbers.
pub(crate) const CROSSING_S: f64 = 12e-6;
/// Seconds of a launch where nobody measured them: 2.9 to 3.6 µs on machines with an H100.
pub(crate) const LAUNCH_S: f64 = 3e-6;

impl Gpu {
    /// Seconds of a crossing, measured or not.
    #[must_use]
    pub fn crossing_seconds(&self) -> f64 {
        if self.crossing_s > 0.0 { self.crossing_s } else { CROSSING_S }
    }

    /// Seconds of a launch, measured or not.
    #[must_use]
    pub fn launch_seconds(&self) -> f64 {
        if self.launch_s > 0.0 { self.launch_s } else { LAUNCH_S }
    }
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
    /// How it is read.
    #[serde(default)]
    pub disk_reads: Reads,
    /// The share of `disk_read` that is left while all cores compute with weights from RAM: from above 0 to 1.
    #[serde(default = "undisturbed")]
    pub disk_beside: f64,
    /// GPUs, by number.
    pub gpus: Vec<Gpu>,
    /// What the processor's kernels were measured to do, one by one; where nobody measured them the two rates above stand for all.
    #[serde(default)]
    pub processor: Option<Processor>,
    /// How many times longer work took in recorded runs than its rates say.
    #[serde(default)]
    pub calibration: Calibration,
}

/// How a drive is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// As many reads are under way at once, at most.
    pub at_once: u32,
    /// Bytes of one, at most: whole pages.
    pub bytes: Bytes,
}

impl Reads {
    /// For a drive that nobody measured: long enough to cost the processor little, and enough of them that a drive is not out of work while the thread
    /// that asks for them waits for its turn on a busy processor. 8 MiB are 1.3 to 3 ms of an `NVMe` drive.
    pub const USUAL: Self = Self { at_once: 16, bytes: Bytes(512 << 10) };
}

impl Default for Reads {
    fn default() -> Self {
        Self::USUAL
    }
}

/// How many times longer work took in recorded runs than measured rates say; 1 where nothing is corrected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calibration {
    /// The processor in decode.
    pub decode: f64,
    /// The processor in prompts.
    pub prompt: f64,
    /// The model's drive.
    pub disk: f64,
    /// GPUs.
    pub gpu: f64,
}

impl Calibration {
    /// No correction.
    pub const NONE: Self = Self { decode: 1.0, prompt: 1.0, disk: 1.0, gpu: 1.0 };
}

impl Default for Calibration {
    fn default() -> Self {
        Self::NONE
    }
}

/// The oldest compute capability that the GPU kernels are built for; older GPUs are refused by name.
pub const GPU_CAPABILITY_MIN: (u32, u32) = (8, 0);
