//! The keys `prefill` and `decode`: how prompts and single tokens are computed.

use super::prove::{Prover, did_you_mean, quoted};
use super::raw::{RawDecode, RawPrefill};
use super::{Choice, Decode, Prefill, Profile, ProfileError, StreamTo};
use crate::Tier;
use crate::expert_cache::Policy;

pub(super) const MICRO_BATCH_MAX: u32 = 1 << 16;
/// More experts than a layer of any model has.
const EXPERTS_MAX: u32 = 1 << 16;
/// More experts of a token than any model chooses.
const EXPERTS_USED_MAX: u32 = 1024;
/// More experts than all layers of any model have.
const KEPT_MAX: u32 = 1 << 20;
/// More layers than any model has.
const LAYERS_MAX: u32 = 1 << 16;

impl Prover<'_> {
    pub(super) fn prefill(&self, profile: &Profile, raw: &RawPrefill) -> Result<Prefill, ProfileError> {
        let stream_to = match &raw.stream_to {
            None => Choice::Auto,
            Some(text) => match text.value.as_str() {
                "auto" => Choice::Auto,
                "none" => Choice::asked(StreamTo::Nowhere, self.at(text)),
                _ => match self.named_tier(profile, text)? {
                    Tier::Gpu(number) => Choice::asked(StreamTo::Gpu(number), self.at(text)),
                    other => {
                        let message = format!("weights cannot be streamed to {other}");
                        return Err(self.bad(text, message, "write `auto`, `none` or a GPU, such as gpu:0"));
                    }
                },
            },
        };
        let micro_batch = match &raw.micro_batch {
            Some(text) => self.number(text, "tokens", 1..=MICRO_BATCH_MAX)?,
            None => Choice::Auto,
        };
        let cpu_experts = match &raw.cpu_experts {
            Some(text) => self.number(text, "experts", 0..=EXPERTS_MAX)?,
            None => Choice::Auto,
        };
        Ok(Prefill { stream_to, micro_batch, cpu_experts })
    }

    pub(super) fn decode(&self, raw: &RawDecode) -> Result<Decode, ProfileError> {
        let fetch_experts = match &raw.fetch_experts {
            Some(text) => self.number(text, "experts", 0..=EXPERTS_USED_MAX)?,
            None => Choice::Auto,
        };
        let stream_layers = match &raw.stream_layers {
            Some(text) => self.number(text, "layers", 0..=LAYERS_MAX)?,
            None => Choice::Auto,
        };
        let foresee_experts = match &raw.foresee_experts {
            Some(text) => self.number(text, "experts", 0..=EXPERTS_USED_MAX)?,
            None => Choice::Auto,
        };
        let keep_experts = match &raw.keep_experts {
            Some(text) => self.number(text, "experts", 0..=KEPT_MAX)?,
            None => Choice::Auto,
        };
        if let (Some(0), Some(1..), Some(text)) = (fetch_experts.value(), keep_experts.value(), &raw.keep_experts) {
            let message = "experts stay on a GPU that were fetched to it, and none are (`fetch_experts: 0`)".to_owned();
            return Err(self.bad(text, message, "leave `fetch_experts` out, or write 1 or more"));
        }
        let exchange_experts = match &raw.exchange_experts {
            Some(text) if text.value != "auto" => {
                let known = Policy::ALL.into_iter().find(|policy| policy.name() == text.value);
                let policy = known.ok_or_else(|| {
                    let message = format!("experts do not change places by {}", quoted(&text.value));
                    self.bad(text, message, did_you_mean(&text.value, &Policy::ALL.map(Policy::name)))
                })?;
                Choice::asked(policy, self.at(text))
            }
            _ => Choice::Auto,
        };
        Ok(Decode { fetch_experts, keep_experts, stream_layers, foresee_experts, exchange_experts })
    }
}
