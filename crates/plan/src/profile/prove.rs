//! From the profile as written to the profile as proved.

use std::ops::RangeInclusive;

use regex::RegexBuilder;

use super::error::Lines;
use super::raw::{RawContext, RawProfile, RawRule, RawTier, Text};
use super::{
    Choice, Context, Decode, Fault, Layers, Origin, Prefill, Profile, ProfileError, Ranges, Rule, Selector, TierLimit,
};
use crate::suggest::closest;
use crate::{Bytes, KvType, Logits, Role, Tier};

/// A profile is a page of text; this is a hundred of them.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// Bounds the work of matching: rules × tensors.
const RULES_MAX: usize = 1024;
/// A compiled pattern may take this much, so that a "regex bomb" is refused and not built.
const PATTERN_BYTES_MAX: usize = 256 << 10;
pub(super) const TOKENS_MAX: u32 = 1 << 24;
pub(super) const THREADS_MAX: u32 = 4096;

pub(super) fn parse(text: &str, file_name: &str) -> Result<Profile, ProfileError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ProfileError::new(
            Fault::Syntax,
            &Lines::new(file_name, "").at(1, 1),
            format!("{} of text, and a profile is at most {}", Bytes(text.len() as u64), Bytes(TEXT_BYTES_MAX as u64)),
            "is this the file you meant? `plimsoll plan -o` writes a compact profile",
        ));
    }
    let prover = Prover { lines: Lines::new(file_name, text) };
    prover.profile(file_name, prover.read(text)?)
}

/// Compiles a pattern within the bounds that every pattern of a profile keeps.
pub(crate) fn compile(pattern: &str) -> Result<regex::Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).nest_limit(64).build()
}

/// Refuses a pattern that does not compile within those bounds.
pub(super) fn check_pattern(pattern: &str, origin: &Origin) -> Result<(), ProfileError> {
    let Err(error) = compile(pattern) else { return Ok(()) };
    let (message, hint) = match error {
        regex::Error::CompiledTooBig(_) => (
            format!("the pattern grows over {} when it is compiled", Bytes(PATTERN_BYTES_MAX as u64)),
            "write fewer or smaller repetitions; `layers:` and `experts:` say ranges without a pattern".to_owned(),
        ),
        other => {
            // The crate's message is a drawing of several lines whose last says what is wrong.
            let text = other.to_string();
            let cause = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
            let hint = "patterns are regular expressions of Rust's regex crate, such as 'blk\\.1[0-9]\\.attn_.*'";
            (format!("{} is no regular expression: {cause}", quoted(pattern)), hint.to_owned())
        }
    };
    Err(ProfileError::new(Fault::BadPattern, origin, message, hint))
}

/// A text of the user's in quotes, cut to what a message can show.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    if text.chars().count() <= CHARS_MAX {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(CHARS_MAX).collect::<String>())
}

/// Lists words for a hint: `a, b or c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [only] => (*only).to_owned(),
        [front @ .., last] => format!("{} or {last}", front.join(", ")),
    }
}

pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    match closest(word, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`? Here stand {}", either(known)),
        None => format!("here stand {}", either(known)),
    }
}

pub(super) struct Prover<'a> {
    pub(super) lines: Lines<'a>,
}

impl Prover<'_> {
    pub(super) fn at(&self, text: &Text) -> Origin {
        self.lines.at(text.referenced.line(), text.referenced.column())
    }

    pub(super) fn bad(&self, text: &Text, message: impl Into<String>, hint: impl Into<String>) -> ProfileError {
        ProfileError::new(Fault::BadValue, &self.at(text), message, hint)
    }

    fn profile(&self, name: &str, raw: RawProfile) -> Result<Profile, ProfileError> {
        let top = self.lines.at(1, 1);
        match &raw.version {
            None => {
                let hint = "write `version: 1` as the first line";
                return Err(ProfileError::new(Fault::MissingKey, &top, "key `version` is missing", hint));
            }
            Some(version) if version.value != "1" => {
                let message = format!("version {} is not known", quoted(&version.value));
                return Err(self.bad(version, message, "this plimsoll reads `version: 1`"));
            }
            Some(_) => {}
        }
        let Some(raw_tiers) = raw.tiers else {
            let hint = "name what may be used, at least `tiers: { ram: { memory: 8GiB }, disk: {} }`";
            return Err(ProfileError::new(Fault::MissingKey, &top, "key `tiers` is missing", hint));
        };
        let origin = self.lines.at(raw_tiers.referenced.line(), raw_tiers.referenced.column());
        let (tiers, threads) = self.tiers(&raw_tiers.value.0, &origin)?;
        let mut profile = Profile {
            name: name.to_owned(),
            tiers,
            threads,
            context: Context::default(),
            rules: Vec::new(),
            default: Choice::Auto,
            prefill: Prefill::default(),
            aim: self
                .optional(raw.aim.as_ref(), Self::aim)?
                .map_or(Choice::Auto, |aim| Choice::asked(aim, Origin::Automatic)),
            lengths: self.lengths(&raw.lengths.unwrap_or_default())?,
            decode: Decode::default(),
            logits: Logits::Every,
            notes: Vec::new(),
        };
        profile.context = self.context(&profile, &raw.context.unwrap_or_default())?;
        profile.decode = self.decode(&raw.decode.unwrap_or_default())?;
        profile.prefill = self.prefill(&profile, &raw.prefill.unwrap_or_default())?;
        let rules = raw.placement.unwrap_or_default();
        if rules.len() > RULES_MAX {
            let place = &rules[RULES_MAX].referenced;
            return Err(ProfileError::new(
                Fault::BadValue,
                &self.lines.at(place.line(), place.column()),
                format!("{} rules, and a profile has at most {RULES_MAX}", rules.len()),
                "one rule can name several ranges: `layers: '0..4, 60'`",
            ));
        }
        for rule in rules {
            let origin = self.lines.at(rule.referenced.line(), rule.referenced.column());
            let rule = self.rule(&profile, &origin, rule.value)?;
            profile.rules.push(rule);
        }
        profile.default = match &raw.default {
            Some(text) if text.value != "auto" => Choice::asked(self.named_tier(&profile, text)?, self.at(text)),
            _ => Choice::Auto,
        };
        Ok(profile)
    }

    fn tiers(&self, raw: &[(Text, RawTier)], origin: &Origin) -> Result<(Vec<TierLimit>, Choice<u32>), ProfileError> {
        let mut threads = Choice::Auto;
        let mut tiers: Vec<TierLimit> = Vec::new();
        for (name, limits) in raw {
            let tier = self.tier(name)?;
            let origin = self.at(name);
            if tiers.iter().any(|known| known.tier == tier) {
                return Err(self.bad(name, format!("tier {tier} stands here a second time"), "keep one of them"));
            }
            if let (Some(text), true) = (&limits.threads, tier != Tier::Ram) {
                return Err(self.bad(text, format!("`threads` does not belong to {tier}"), "write it under `ram`"));
            }
            let ceiling = match (&limits.memory, tier) {
                (None, Tier::Disk) => None,
                (Some(text), Tier::Disk) => {
                    let hint = "write `disk: {}`: it holds the model's file, which is there already";
                    return Err(self.bad(text, "`memory` does not belong to disk", hint));
                }
                (None, _) => {
                    let hint = format!("write its ceiling: `{tier}: {{ memory: 8GiB }}`");
                    let message = format!("tier {tier} has no `memory`");
                    return Err(ProfileError::new(Fault::MissingKey, &origin, message, hint));
                }
                (Some(text), _) => Some(self.size(text)?),
            };
            // A refusal points at the number that is too low.
            let origin = limits.memory.as_ref().map_or(origin, |text| self.at(text));
            tiers.push(TierLimit { tier, ceiling, origin });
            if let Some(text) = &limits.threads {
                threads = self.number(text, "threads", 1..=THREADS_MAX)?;
            }
        }
        if !tiers.iter().any(|limit| limit.tier == Tier::Ram) {
            let hint = "the program itself lives there: add `ram: { memory: 8GiB }`";
            return Err(ProfileError::new(Fault::MissingKey, origin, "`tiers` does not name ram", hint));
        }
        tiers.sort_by_key(|limit| limit.tier);
        Ok((tiers, threads))
    }

    fn tier(&self, text: &Text) -> Result<Tier, ProfileError> {
        text.value.parse().map_err(|_| {
            let message = format!("{} is not a tier", quoted(&text.value));
            let hint = match closest(&text.value, ["ram", "disk", "gpu:0"]) {
                Some(meant) => format!("did you mean `{meant}`? Tiers are ram, disk and gpu:0, gpu:1, …"),
                None => "tiers are ram, disk and gpu:0, gpu:1, …".to_owned(),
            };
            self.bad(text, message, hint)
        })
    }

    pub(super) fn named_tier(&self, profile: &Profile, text: &Text) -> Result<Tier, ProfileError> {
        let tier = self.tier(text)?;
        named(profile, tier, &self.at(text))?;
        Ok(tier)
    }

    fn size(&self, text: &Text) -> Result<Bytes, ProfileError> {
        let hint = "write a number with a unit, such as 11.5GiB, 512MiB or 4GB";
        let value = text.value.trim();
        if !value.is_empty() && value.chars().all(|c| c.is_ascii_digit() || "._".contains(c)) {
            let message = format!("{} has no unit", quoted(value));
            return Err(self.bad(text, message, format!("write {value}MiB or {value}GiB")));
        }
        let not_a_size = || self.bad(text, format!("{} is not a size", quoted(value)), hint);
        let bytes: Bytes = value.parse().map_err(|_| not_a_size())?;
        if bytes == Bytes::ZERO {
            return Err(self.bad(text, "a ceiling of nothing", "leave out the tier, or give it some memory"));
        }
        Ok(bytes)
    }

    /// `auto`, or a whole number within `range`.
    pub(super) fn number(
        &self,
        text: &Text,
        what: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Choice<u32>, ProfileError> {
        if text.value == "auto" {
            return Ok(Choice::Auto);
        }
        match text.value.trim().parse::<u32>() {
            Ok(number) if range.contains(&number) => Ok(Choice::asked(number, self.at(text))),
            _ => {
                let message = format!("{} is no number of {what}", quoted(&text.value));
                let (min, max) = range.into_inner();
                Err(self.bad(text, message, format!("write `auto` or a whole number from {min} to {max}")))
            }
        }
    }

    fn kv_type(&self, text: &Text) -> Result<KvType, ProfileError> {
        let known = [KvType::F32, KvType::F16, KvType::Q8_0];
        known.into_iter().find(|kv| kv.name().eq_ignore_ascii_case(&text.value)).ok_or_else(|| {
            let message = format!("{} is no type for keys and values", quoted(&text.value));
            self.bad(text, message, did_you_mean(&text.value, &known.map(KvType::name)))
        })
    }

    fn context(&self, profile: &Profile, raw: &RawContext) -> Result<Context, ProfileError> {
        let types_open = raw.kv_type.as_ref().is_some_and(|text| text.value == "auto");
        let both = self.optional(raw.kv_type.as_ref().filter(|_| !types_open), Self::kv_type)?;
        if let (Some(_), Some(text)) = (&raw.kv_type, raw.k_type.as_ref().or(raw.v_type.as_ref())) {
            let hint = "write either `kv_type` or `k_type` and `v_type`";
            return Err(self.bad(text, "the type of keys and values is given twice", hint));
        }
        let kv_home = match &raw.kv_home {
            Some(text) if text.value != "auto" => {
                let home = self.named_tier(profile, text)?;
                if home == Tier::Disk {
                    let hint = "write `kv_home: ram` or a GPU; to save memory lower `tokens` or use `kv_type: q8_0`";
                    return Err(self.bad(text, "the KV cache cannot live on disk", hint));
                }
                Choice::asked(home, self.at(text))
            }
            _ => Choice::Auto,
        };
        Ok(Context {
            tokens: match &raw.tokens {
                Some(text) => self.number(text, "tokens", 1..=TOKENS_MAX)?,
                None => Choice::Auto,
            },
            k_type: self.optional(raw.k_type.as_ref(), Self::kv_type)?.or(both).unwrap_or_default(),
            v_type: self.optional(raw.v_type.as_ref(), Self::kv_type)?.or(both).unwrap_or_default(),
            types_open,
            kv_home,
        })
    }

    fn rule(&self, profile: &Profile, origin: &Origin, raw: RawRule) -> Result<Rule, ProfileError> {
        let Some(home) = &raw.home else {
            let hint = format!("add `home:` with one of {}", profile.tier_names());
            return Err(ProfileError::new(Fault::MissingKey, origin, "this rule has no `home`", hint));
        };
        if raw.role.is_none() && raw.layers.is_none() && raw.experts.is_none() && raw.tensors.is_none() {
            let hint = "add `role:`, `layers:`, `experts:` or `tensors:`; for everything else there is `default:`";
            return Err(ProfileError::new(Fault::BadValue, origin, "this rule has no condition", hint));
        }
        let overflow = self.optional(raw.overflow.as_ref(), |prover, text| prover.named_tier(profile, text))?;
        let home_tier = self.named_tier(profile, home)?;
        if let (Some(text), Some(overflow)) = (&raw.overflow, overflow)
            && (overflow == home_tier || home_tier == Tier::Disk)
        {
            let hint = "`overflow` names another tier, for units that no longer fit in `home`; disk is never full";
            return Err(self.bad(text, format!("units of {home_tier} cannot overflow to {overflow}"), hint));
        }
        if let Some(text) = &raw.tensors {
            check_pattern(&text.value, &self.at(text))?;
        }
        Ok(Rule {
            selector: Selector {
                role: self.optional(raw.role.as_ref(), Self::role)?,
                layers: self.optional(raw.layers.as_ref(), Self::ranges)?.map_or(Layers::Any, Layers::Within),
                experts: self.optional(raw.experts.as_ref(), Self::ranges)?,
                tensors: raw.tensors.map(|text| text.value),
            },
            home: home_tier,
            overflow,
            must_match: true,
            in_turn: false,
            origin: origin.clone(),
        })
    }

    fn role(&self, text: &Text) -> Result<Role, ProfileError> {
        Role::ALL.into_iter().find(|role| role.name() == text.value).ok_or_else(|| {
            let message = format!("{} is not a role", quoted(&text.value));
            self.bad(text, message, did_you_mean(&text.value, &Role::ALL.map(Role::name)))
        })
    }

    fn ranges(&self, text: &Text) -> Result<Ranges, ProfileError> {
        Ranges::parse(&text.value).map_err(|error| {
            self.bad(text, error.to_string(), "write 5, 3.., 0..=9, 3..10 or 0-9; several with commas, in quotes")
        })
    }

    fn optional<T>(
        &self,
        text: Option<&Text>,
        read: impl FnOnce(&Self, &Text) -> Result<T, ProfileError>,
    ) -> Result<Option<T>, ProfileError> {
        text.map(|text| read(self, text)).transpose()
    }
}

/// Refuses a tier that the profile does not name.
pub(super) fn named(profile: &Profile, tier: Tier, origin: &Origin) -> Result<(), ProfileError> {
    if profile.tier(tier).is_some() {
        return Ok(());
    }
    let example = if tier == Tier::Disk { "disk: {}".to_owned() } else { format!("{tier}: {{ memory: 8GiB }}") };
    Err(ProfileError::new(
        Fault::UnnamedTier,
        origin,
        format!("tier {tier} is not among the tiers that may be used ({})", profile.tier_names()),
        format!("add `{example}` under `tiers`, or use one that is there"),
    ))
}
