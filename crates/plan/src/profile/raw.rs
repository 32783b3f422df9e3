//! The profile as it is written: every key optional, every value a text with its place.
//!
//! Scalars are kept as texts so that `memory: 12` and `layers: 5` meet the same checks, and the same messages, as
//! `memory: 12GiB` and `layers: 3..`. The types also give the JSON Schema that editors use.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_saphyr::Spanned;

use crate::expert_cache::Policy;

/// A scalar with its place.
pub(super) type Text = Spanned<String>;

/// Placement profile of plimsoll: what may be used, what is asked for, and where units of the model live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Plimsoll placement profile")]
pub(super) struct RawProfile {
    /// The version of this format: 1.
    #[schemars(with = "u32", range(min = 1, max = 1), required)]
    pub(super) version: Option<Text>,
    /// Ceilings of the tiers that may be used: `gpu:0`, `gpu:1`, …, `ram`, `disk`. What is not named is not used.
    #[schemars(schema_with = "tiers", required)]
    pub(super) tiers: Option<Spanned<RawTiers>>,
    /// The context and how its keys and values are kept.
    pub(super) context: Option<RawContext>,
    /// Rules; the first that matches a unit gives it its home.
    #[schemars(with = "Option<Vec<RawRule>>")]
    pub(super) placement: Option<Vec<Spanned<RawRule>>>,
    /// Where units go that no rule names: `auto`, `ram`, `disk` or `gpu:N`.
    #[schemars(with = "Option<String>")]
    pub(super) default: Option<Text>,
    /// How prompts are computed.
    pub(super) prefill: Option<RawPrefill>,
    /// How single tokens are computed.
    pub(super) decode: Option<RawDecode>,
    /// What is to be fast: `decode` (answers), `prefill` (prompts) or `balanced` (a prompt and its answer).
    #[schemars(with = "Option<crate::Aim>")]
    pub(super) aim: Option<Text>,
    /// The lengths of prompt and answer by which that is measured: 512 and 128 tokens where they are not given.
    pub(super) lengths: Option<RawLengths>,
}

/// A conversation.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Lengths")]
pub(super) struct RawLengths {
    /// Tokens of a prompt.
    #[schemars(schema_with = "auto_or_number")]
    #[serde(default)]
    pub(super) prompt: Option<Text>,
    /// Tokens of an answer.
    #[schemars(schema_with = "auto_or_number")]
    #[serde(default)]
    pub(super) answer: Option<Text>,
}

/// One tier's ceiling.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Tier")]
pub(super) struct RawTier {
    /// Bytes that plimsoll may occupy there, with a unit: `11.5GiB`.
    #[schemars(with = "Option<String>", regex(pattern = r"^[0-9.]+ ?([KMGTkmgt]([iI]?[bB])?|[bB])$"))]
    pub(super) memory: Option<Text>,
    /// CPU threads (`ram` only): `auto` or a number.
    #[schemars(schema_with = "auto_or_number")]
    #[serde(default)]
    pub(super) threads: Option<Text>,
}

/// The context.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Context")]
pub(super) struct RawContext {
    /// Tokens that a session can hold: `auto` or a number.
    #[schemars(schema_with = "auto_or_number")]
    #[serde(default)]
    pub(super) tokens: Option<Text>,
    /// How keys and values are kept: `f32`, `f16` or `q8_0`; `auto` is f16, or `q8_0` where the planner finds that it serves.
    #[schemars(schema_with = "auto_or_kv_type")]
    #[serde(default)]
    pub(super) kv_type: Option<Text>,
    /// How keys are kept, where that differs.
    #[schemars(with = "Option<crate::KvType>")]
    pub(super) k_type: Option<Text>,
    /// How values are kept, where that differs.
    #[schemars(with = "Option<crate::KvType>")]
    pub(super) v_type: Option<Text>,
    /// The tier that holds the KV cache: `auto`, `ram` or `gpu:N`.
    #[schemars(with = "Option<String>")]
    pub(super) kv_home: Option<Text>,
}

/// One rule: a unit must meet every condition that is given.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rule")]
pub(super) struct RawRule {
    /// What the unit does in the model.
    #[schemars(with = "Option<crate::Role>")]
    pub(super) role: Option<Text>,
    /// Layers from 0: `5`, `3..`, `0..=9`, `3..10`, or several with commas.
    #[schemars(schema_with = "ranges")]
    #[serde(default)]
    pub(super) layers: Option<Text>,
    /// Routed experts from 0, written as layers are: `0-31`.
    #[schemars(schema_with = "ranges")]
    #[serde(default)]
    pub(super) experts: Option<Text>,
    /// A regular expression that matches anywhere in the tensor's name.
    #[schemars(with = "Option<String>")]
    pub(super) tensors: Option<Text>,
    /// The tier these units live in.
    #[schemars(with = "String", required)]
    pub(super) home: Option<Text>,
    /// The tier for those that do not fit there any more.
    #[schemars(with = "Option<String>")]
    pub(super) overflow: Option<Text>,
}

/// How prompts are computed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Prefill")]
pub(super) struct RawPrefill {
    /// The GPU to which weights are streamed for large batches: `auto`, `none` or `gpu:N`.
    #[schemars(with = "Option<String>")]
    pub(super) stream_to: Option<Text>,
    /// Prompt tokens computed in one pass: `auto` or a number.
    #[schemars(schema_with = "auto_or_number")]
    #[serde(default)]
    pub(super) micro_batch: Option<Text>,
    /// Routed experts of each layer that the processor computes while the others are streamed to a GPU: `auto` or a number.
    #[schemars(schema_with = "auto_or_count")]
    #[serde(default)]
    pub(super) cpu_experts: Option<Text>,
}

/// How single tokens are computed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Decode")]
pub(super) struct RawDecode {
    /// How many of a token's chosen experts that live elsewhere are copied to the GPU with their router, which computes them while the
    /// processor computes the others: `auto` or a number.
    #[schemars(schema_with = "auto_or_count")]
    #[serde(default)]
    pub(super) fetch_experts: Option<Text>,
    /// How many experts that were copied stay on the GPU until others take their rooms, of all layers together: `auto`, which keeps some where a
    /// trace among the expert statistics says that it gains, or a number.
    #[schemars(schema_with = "auto_or_count")]
    #[serde(default)]
    pub(super) keep_experts: Option<Text>,
    /// Layers outside a GPU whose feed-forward matrices are copied to it for each token, while the processor computes other blocks: `auto` or a
    /// number.
    #[schemars(schema_with = "auto_or_count")]
    #[serde(default)]
    pub(super) stream_layers: Option<Text>,
    /// How many experts on disk that the next layer's router will likely choose are read before it has chosen: `auto`, which reads them where
    /// expert statistics say that half of such guesses come true, or a number.
    #[schemars(schema_with = "auto_or_count")]
    #[serde(default)]
    pub(super) foresee_experts: Option<Text>,
    /// Which expert leaves its place in RAM to one that was chosen and is on disk: `least_used`, which `auto` is, `least_recent`, or `none`, where those stay
    /// that the plan put there, by expert statistics the most used ones.
    #[schemars(schema_with = "exchange")]
    #[serde(default)]
    pub(super) exchange_experts: Option<Text>,
}

/// The tiers in the order in which they are written, with the places of their names.
#[derive(Debug, Default)]
pub(super) struct RawTiers(pub(super) Vec<(Text, RawTier)>);

impl<'de> Deserialize<'de> for RawTiers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = RawTiers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a mapping of tiers, such as `ram: {{ memory: 8GiB }}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTiers, A::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<Text>()? {
                    // `disk:` with nothing after it is as clear as `disk: {}`.
                    let tier = map.next_value::<Option<RawTier>>()?.unwrap_or_default();
                    pairs.push((name, tier));
                }
                Ok(RawTiers(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

fn tiers(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": "^(ram|disk|gpu:[0-9]+)$" },
        "additionalProperties": generator.subschema_for::<RawTier>(),
        "required": ["ram"],
    })
}

fn auto_or_number(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1 }] })
}

fn auto_or_kv_type(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "const": "auto" }, generator.subschema_for::<crate::KvType>()] })
}

fn auto_or_count(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 0 }] })
}

fn exchange(_: &mut SchemaGenerator) -> Schema {
    let [usual, recent, none] = Policy::ALL.map(Policy::name);
    json_schema!({ "enum": ["auto", usual, recent, none] })
}

fn ranges(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": r"^[0-9.,=\s-]+$" }] })
}
