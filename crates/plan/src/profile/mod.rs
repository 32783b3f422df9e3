//! What the user allows and asks: the YAML profile, the automatic profile, and the flags that change either.
//!
//! A profile is typed twice: as written (`raw`) and as proved ([`Profile`]), where every value has been checked and
//! remembers who asked for it. Must never know a file: texts come in, with a name for messages.

mod aim;
mod automatic;
mod computing;
mod error;
mod overrides;
mod prove;
mod ranges;
mod raw;
mod write;
mod yaml;

pub use error::{Fault, Mark, Origin, ProfileError};
pub use overrides::Overrides;
pub(crate) use prove::compile;
pub use ranges::{NotARange, Range, Ranges};
pub use write::to_yaml;

use crate::expert_cache::Policy;
use crate::{Aim, Bytes, KvType, Lengths, Logits, Role, Tier};

/// A value that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<T> {
    /// The value.
    pub value: T,
    /// Who asked for it.
    pub origin: Origin,
}

/// A value that somebody asked for, or one that the planner is to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice<T> {
    /// The planner chooses, and says what it chose.
    #[default]
    Auto,
    /// Asked for: kept, or refused where it cannot be.
    Asked(Asked<T>),
}

impl<T> Choice<T> {
    /// A value with who asked for it.
    pub const fn asked(value: T, origin: Origin) -> Self {
        Self::Asked(Asked { value, origin })
    }

    /// The value, where it was asked for.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Auto => None,
            Self::Asked(asked) => Some(&asked.value),
        }
    }
}

/// A tier that may be used, up to its ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierLimit {
    /// Which tier.
    pub tier: Tier,
    /// The line it is never loaded over. Every tier but disk has one.
    pub ceiling: Option<Bytes>,
    /// Who set it.
    pub origin: Origin,
}

/// The context that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Tokens that a session can hold.
    pub tokens: Choice<u32>,
    /// How keys are kept.
    pub k_type: KvType,
    /// How values are kept.
    pub v_type: KvType,
    /// Whether the planner may keep both in [`KvType::Q8_0`] instead, where that serves.
    pub types_open: bool,
    /// The tier that holds the cache: never disk.
    pub kv_home: Choice<Tier>,
}

/// Where weights go to be multiplied with a large batch of prompt tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamTo {
    /// Nowhere: the CPU computes with what lives in RAM and on disk.
    Nowhere,
    /// To the GPU with this number.
    Gpu(u32),
}

/// How prompts are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefill {
    /// Where weights are streamed.
    pub stream_to: Choice<StreamTo>,
    /// Prompt tokens computed in one pass.
    pub micro_batch: Choice<u32>,
    /// How many experts of each layer the processor computes while the others are streamed to a GPU.
    pub cpu_experts: Choice<u32>,
}

/// How single tokens are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decode {
    /// How many of a token's chosen experts are copied to the GPU that has their router, where they live elsewhere.
    pub fetch_experts: Choice<u32>,
    /// How many of those stay there until others take their rooms, of all layers together.
    pub keep_experts: Choice<u32>,
    /// Layers outside a GPU whose feed-forward matrices are copied to it for each token, which it computes between the processor's blocks.
    pub stream_layers: Choice<u32>,
    /// How many experts on disk are read that the next layer's router will likely choose.
    pub foresee_experts: Choice<u32>,
    /// Which expert leaves RAM where another one comes from disk.
    pub exchange_experts: Choice<Policy>,
}

/// Which layers a rule is about. Units without a layer, such as the embedding, match only [`Layers::Any`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// All, and the units without a layer.
    #[default]
    Any,
    /// Those with these numbers; numbers that the model lacks are an error.
    Within(Ranges),
    /// The first so many, or all where there are fewer (`-ncmoe`).
    First(u32),
    /// The last so many, or all where there are fewer (`-ngl`).
    Last(u32),
}

/// Which units a rule is about: those that meet every condition. `None` is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// What the unit does.
    pub role: Option<Role>,
    /// Its layer.
    pub layers: Layers,
    /// Its expert; only routed experts match.
    pub experts: Option<Ranges>,
    /// A regular expression, proved to compile, that matches anywhere in the tensor's name.
    pub tensors: Option<String>,
}

/// A placement rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which units.
    pub selector: Selector,
    /// Where they live.
    pub home: Tier,
    /// Where those live that do not fit; without it they must fit.
    pub overflow: Option<Tier>,
    /// Whether a model without such units is an error. Flags that peers accept for any model are not.
    pub must_match: bool,
    /// Whether any GPU of the profile may stand for the home: they get whole layers in turn.
    pub in_turn: bool,
    /// Who asked for it.
    pub origin: Origin,
}

/// What the user allows and asks, checked: every tier that is used is named, every pattern compiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The file it comes from, or `automatic`.
    pub name: String,
    /// The tiers that may be used, nearest to compute first. `ram` is always among them.
    pub tiers: Vec<TierLimit>,
    /// CPU threads.
    pub threads: Choice<u32>,
    /// The context.
    pub context: Context,
    /// Rules; the first that matches a unit gives it its home.
    pub rules: Vec<Rule>,
    /// Where units go that no rule names.
    pub default: Choice<Tier>,
    /// How prompts are computed.
    pub prefill: Prefill,
    /// What is to be fast. Where nobody says, plans are compared by both, and settings are not searched for it.
    pub aim: Choice<Aim>,
    /// The conversation by which that is measured.
    pub lengths: Lengths,
    /// How single tokens are computed.
    pub decode: Decode,
    /// What logits are made for: the command's choice, and no key of a profile.
    pub logits: Logits,
    /// What was left out or changed on the way here, to be said in the plan.
    pub notes: Vec<String>,
}

impl Profile {
    /// The limit of this tier, where it may be used.
    #[must_use]
    pub fn tier(&self, tier: Tier) -> Option<&TierLimit> {
        self.tiers.iter().find(|limit| limit.tier == tier)
    }

    /// The names of the tiers that may be used, for messages.
    pub(crate) fn tier_names(&self) -> String {
        let names: Vec<String> = self.tiers.iter().map(|limit| limit.tier.to_string()).collect();
        names.join(", ")
    }
}

/// Reads a profile. `file_name` is only for messages.
///
/// # Errors
/// [`ProfileError`] with line, column and a hint, for everything that can be seen without the model: YAML that is none,
/// unknown keys, values of the wrong form, tiers that are used and not named.
pub fn parse(text: &str, file_name: &str) -> Result<Profile, ProfileError> {
    prove::parse(text, file_name)
}

/// The JSON Schema of profiles, for editors.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::RawProfile).to_value()
}
