//! The plan as a value: for each unit its home, the device that computes it, and why.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::expert_cache::Policy;
use crate::{Bytes, Logits, Reads, Scheme, UnitId};

/// A place for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Tier {
    /// The memory of the GPU with this number.
    Gpu(u32),
    /// System memory.
    Ram,
    /// The drive that holds the model.
    Disk,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpu(number) => f.pad(&format!("gpu:{number}")),
            Self::Ram => f.pad("ram"),
            Self::Disk => f.pad("disk"),
        }
    }
}

/// A name that is no tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tier\n\nhint: tiers are ram, disk and gpu:0, gpu:1, …")]
pub struct NotATier(pub String);

impl FromStr for Tier {
    type Err = NotATier;

    fn from_str(text: &str) -> Result<Self, NotATier> {
        match text {
            "ram" => Ok(Self::Ram),
            "disk" => Ok(Self::Disk),
            _ => text
                .strip_prefix("gpu:")
                .and_then(|number| number.parse().ok())
                .map(Self::Gpu)
                .ok_or_else(|| NotATier(text.to_owned())),
        }
    }
}

impl From<Tier> for String {
    fn from(tier: Tier) -> Self {
        tier.to_string()
    }
}

impl TryFrom<String> for Tier {
    type Error = NotATier;
    fn try_from(text: String) -> Result<Self, NotATier> {
        text.parse()
    }
}

/// What computes with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU with this number.
    Gpu(u32),
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, the usual choice.
    #[default]
    F16,
    /// 8-bit blocks of 32 with a 16-bit scale.
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl KvType {
    /// Bytes of `elements` numbers. A row of `q8_0` is padded to whole blocks of 32.
    #[must_use]
    pub const fn bytes(self, elements: u64) -> Bytes {
        Bytes(match self {
            Self::F32 => elements * 4,
            Self::F16 => elements * 2,
            Self::Q8_0 => elements.div_ceil(32) * 34,
        })
    }

    /// The name in profiles and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// The KV cache of one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvPlan {
    /// Tokens it can hold: the context.
    pub tokens: u32,
    /// How keys are kept.
    pub k_type: KvType,
    /// How values are kept.
    pub v_type: KvType,
    /// Where each layer's part lives, or its state: where the layer's attention is computed in decode.
    pub homes: Vec<Tier>,
    /// Its size when full, over all layers.
    pub bytes: Bytes,
}

impl KvPlan {
    /// The tiers that hold parts of it, nearest to compute first, for people: `gpu:0`, or `gpu:0 and ram`.
    #[must_use]
    pub fn home_names(&self) -> String {
        let tiers: BTreeSet<Tier> = self.homes.iter().copied().collect();
        let names: Vec<String> = tiers.iter().map(Tier::to_string).collect();
        match names.as_slice() {
            [most @ .., last] if !most.is_empty() => format!("{} and {last}", most.join(", ")),
            names => names.concat(),
        }
    }
}

/// What computes the two blocks of a layer in decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDevices {
    /// Attention, with the layer's part of the KV cache or its state.
    pub attention: Device,
    /// The feed-forward part: of a mixture the router and what every token passes, and those experts that live there.
    pub ffn: Device,
}

/// A bounded ring through which units pass that live elsewhere: from disk to RAM, or to a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staging {
    /// Bytes of one slot: at least the longest row of any unit that passes.
    pub slot: Bytes,
    /// Slots; 0 where nothing passes.
    pub slots: u32,
}

impl Staging {
    /// Bytes of the whole ring: a read takes the whole pages of 4 KiB around what is wanted.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.slot.0.next_multiple_of(4096) + 4096).times(self.slots as u64)
    }
}

/// Chosen experts that are copied to a GPU when a token needs them: it computes them while the processor computes the others of the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The GPU: the one that has the routers.
    pub gpu: u32,
    /// How many come of a token's whole choice, where all of it lives elsewhere; there is room for as many.
    pub experts: u32,
    /// Experts of a token's whole choice.
    pub of: u32,
    /// Experts that stay where they came to until others take their rooms, of all layers together. Rooms beside those of a token's.
    #[serde(default)]
    pub kept: u32,
    /// Bytes of the room of one.
    pub slot: Bytes,
}

impl Fetch {
    /// Rooms for experts, of both kinds.
    #[must_use]
    pub const fn rooms(&self) -> u32 {
        self.experts.saturating_add(self.kept)
    }

    /// Experts that each of so many layers keeps.
    #[must_use]
    pub const fn kept_by_each(&self, layers: u32) -> u32 {
        match self.kept.checked_div(layers) {
            Some(each) => each,
            None => 0,
        }
    }

    /// How many of `away` experts come that were chosen, live elsewhere and were not kept: the same share of them, rounded, as far as there is
    /// room. One at least where experts are kept, or none would ever be.
    #[must_use]
    pub const fn share(&self, away: u32) -> u32 {
        let share = (2 * away * self.experts + self.of) / (2 * self.of);
        let share = if share == 0 && self.kept > 0 && away > 0 { 1 } else { share };
        if share < self.experts { share } else { self.experts }
    }
}

/// Where one unit lives and what computes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The tier that holds its bytes between uses.
    pub home: Tier,
    /// The device that computes with it in decode. A GPU computes with feed-forward matrices that live elsewhere too, where the plan has them copied
    /// to it for each token.
    pub decode: Device,
    /// The device that computes with it in prefill.
    pub prefill: Device,
    /// Whether it is an expert that may leave its home for another of its layer: what routers choose comes to RAM, and what
    /// they choose no longer goes back to disk. Only where the profile leaves that open.
    #[serde(default)]
    pub exchanges: bool,
    /// Why it is there, for people.
    pub reason: Cow<'static, str>,
}

/// One item that occupies a tier besides weights, or the weights themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// What it is: `weights`, `KV cache`, `ring`, `activations`, `vocabulary`, `process`.
    pub what: String,
    /// Its size.
    pub bytes: Bytes,
}

/// A tier with its ceiling and what the plan puts there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierPlan {
    /// Which tier.
    pub tier: Tier,
    /// The line it is never loaded over; none for disk.
    pub ceiling: Option<Bytes>,
    /// Everything it holds.
    pub loads: Vec<Load>,
    /// Bytes of weights read from it for one decoded token.
    pub read_per_token: Bytes,
}

impl TierPlan {
    /// The sum of all loads: the peak that the plan promises.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.loads.iter().map(|load| load.bytes).sum()
    }
}

/// What the plan expects, before anything is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Prompt tokens per second for a prompt of one micro-batch.
    pub prompt_tokens_per_s: f64,
    /// Decoded tokens per second with 512 tokens in the context, or with as many as a shorter one holds.
    pub decode_tokens_per_s: f64,
    /// Seconds to the first token of a prompt of one micro-batch, the model being loaded.
    pub time_to_first_token_s: f64,
    /// Seconds to load resident units.
    pub load_s: f64,
    /// Whether every rate behind these figures was measured on this machine.
    pub measured: bool,
}

/// Where every byte lives and what a token will cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Every tier in use, nearest to compute first.
    pub tiers: Vec<TierPlan>,
    /// By [`UnitId`].
    pub placements: Vec<Placement>,
    /// What computes each layer in decode. A block is a GPU's where one of its matrices lives there, else the CPU's.
    pub blocks: Vec<LayerDevices>,
    /// What computes the last norm and the output matrix.
    pub output: Device,
    /// The KV cache.
    pub kv: KvPlan,
    /// The ring from disk.
    pub staging: Staging,
    /// How each drive is read, as far as the ring has slots.
    #[serde(default)]
    pub disk_reads: Reads,
    /// Rings in the memory of GPUs, through which units that live elsewhere pass in prefill; none where none do.
    pub device_staging: Vec<(u32, Staging)>,
    /// Tokens of a pass, two or more, from which on units of layers outside a GPU's memory are streamed to it and computed there; never if none.
    pub stream_from: Option<u32>,
    /// Routed experts of each layer that live in RAM and that the processor computes in such passes, while the others are streamed; as many as there are
    /// where a layer has fewer.
    #[serde(default)]
    pub cpu_experts: u32,
    /// Chosen experts that are copied to a GPU in decode; none where none are.
    pub fetch: Option<Fetch>,
    /// Experts that the next layer's router will likely choose and that are read from disk before it has, in decode; 0 where none are.
    #[serde(default)]
    pub foresee: u32,
    /// Which expert leaves RAM where another one comes, of those that may change places ([`Placement::exchanges`]).
    #[serde(default)]
    pub exchange: Policy,
    /// Prompt tokens computed in one pass.
    pub micro_batch: u32,
    /// What logits are made for.
    pub logits: Logits,
    /// CPU threads.
    pub threads: u32,
    /// The way in which that was placed which no rule names.
    #[serde(default)]
    pub scheme: Scheme,
    /// What it will cost.
    pub forecast: Forecast,
    /// What differs from what was asked, and every estimate used: nothing falls back silently.
    pub notes: Vec<String>,
}

impl Plan {
    /// Where this unit lives.
    #[must_use]
    pub fn home(&self, unit: UnitId) -> Tier {
        self.placements[unit.0 as usize].home
    }

    /// Whether this unit is copied to a GPU in every pass, to be computed with there.
    #[must_use]
    pub fn comes(&self, unit: UnitId) -> bool {
        let placement = &self.placements[unit.0 as usize];
        matches!(placement.decode, Device::Gpu(_)) && !matches!(placement.home, Tier::Gpu(_))
    }

    /// Whether any unit is.
    #[must_use]
    pub fn streams_in_decode(&self) -> bool {
        (0..self.placements.len()).any(|unit| self.comes(UnitId(unit as u32)))
    }

    /// The tier's part of the plan, if it is used.
    #[must_use]
    pub fn tier(&self, tier: Tier) -> Option<&TierPlan> {
        self.tiers.iter().find(|t| t.tier == tier)
    }
}
