//! What would make a plan possible: each way is tried on the whole planner before it is offered.

use super::refusal::{DoesNotFit, Refusal};
use super::{Given, choose};
use crate::profile::{Choice, Origin, Profile, TierLimit};
use crate::{Bytes, Inventory, KvType, Machine, Tier, cost};

/// A profile with one thing changed, and how a user writes that change.
struct Way {
    text: String,
    profile: Profile,
}

/// Changes of which each alone gives a plan, the gentlest first; where no gentle one does, all of them together.
pub(super) fn ways_out(profile: &Profile, refusal: &DoesNotFit, given: Given<'_>) -> Vec<String> {
    let inventory = given.inventory;
    let fits = |profile: &Profile| choose::is_possible(profile, given);
    let first = |ways: Vec<Way>| ways.into_iter().find(|way| fits(&way.profile));
    let gentle = [
        quantized_cache(profile).into_iter().collect(),
        fewer_tokens(profile, inventory, 8),
        smaller_batches(profile),
        overflow(profile, refusal.tier).into_iter().collect(),
        open_default(profile).into_iter().collect(),
        disk(profile).into_iter().collect(),
    ];
    let mut ways: Vec<String> = gentle.into_iter().filter_map(first).map(|way| way.text).collect();
    if ways.is_empty()
        && let Some(way) = first(together(profile, inventory))
    {
        ways.push(way.text);
    }
    ways.extend(raise(profile, refusal, fits));
    ways
}

fn quantized_cache(profile: &Profile) -> Option<Way> {
    let mut changed = profile.clone();
    if (changed.context.k_type, changed.context.v_type) == (KvType::Q8_0, KvType::Q8_0) {
        return None;
    }
    (changed.context.k_type, changed.context.v_type) = (KvType::Q8_0, KvType::Q8_0);
    Some(Way { text: "`context: { kv_type: q8_0 }` (-ctk q8_0 -ctv q8_0)".to_owned(), profile: changed })
}

/// Halves of the context that is asked for, down to 256 and to the part that is still of use.
fn fewer_tokens(profile: &Profile, inventory: &Inventory, part: u32) -> Vec<Way> {
    let Some(asked) = profile.context.tokens.value() else { return Vec::new() };
    let halves = std::iter::successors(Some(asked / 2), |tokens| Some(tokens / 2))
        .take_while(|tokens| *tokens >= (asked / part).max(256));
    let way = |tokens: u32| {
        let mut changed = profile.clone();
        changed.context.tokens = Choice::asked(tokens, Origin::Automatic);
        let context = &profile.context;
        let cache = |tokens: u32| cost::kv_cache(&inventory.shape, tokens, context.k_type, context.v_type);
        let saved = cache(*asked).saturating_sub(cache(tokens));
        Way { text: format!("`context: {{ tokens: {tokens} }}` (-c {tokens}), which saves {saved}"), profile: changed }
    };
    halves.map(way).collect()
}

fn smaller_batches(profile: &Profile) -> Vec<Way> {
    let Some(asked) = profile.prefill.micro_batch.value() else { return Vec::new() };
    let smaller = cost::MICRO_BATCHES.into_iter().filter(|tokens| tokens < asked);
    let way = |tokens: u32| {
        let mut changed = profile.clone();
        changed.prefill.micro_batch = Choice::asked(tokens, Origin::Automatic);
        Way { text: format!("`prefill: {{ micro_batch: {tokens} }}` (-ub {tokens})"), profile: changed }
    };
    smaller.map(way).collect()
}

/// The rules that fill this tier, told where to put what does not fit.
fn overflow(profile: &Profile, tier: Tier) -> Option<Way> {
    let beyond = match tier {
        Tier::Gpu(_) => Tier::Ram,
        Tier::Ram | Tier::Disk => profile.tier(Tier::Disk)?.tier,
    };
    let mut changed = profile.clone();
    let mut last = None;
    for rule in changed.rules.iter_mut().filter(|rule| rule.home == tier && rule.overflow.is_none()) {
        rule.overflow = Some(beyond);
        last = Some(rule.origin.short());
    }
    let text = format!("`overflow: {beyond}` in the rules for {tier}, such as the {}", last?);
    Some(Way { text, profile: changed })
}

fn open_default(profile: &Profile) -> Option<Way> {
    profile.default.value()?;
    let mut changed = profile.clone();
    changed.default = Choice::Auto;
    Some(Way { text: "`default: auto`: the planner uses every tier that is named".to_owned(), profile: changed })
}

fn disk(profile: &Profile) -> Option<Way> {
    if profile.tier(Tier::Disk).is_some() {
        return None;
    }
    let mut changed = profile.clone();
    changed.tiers.push(TierLimit { tier: Tier::Disk, ceiling: None, origin: Origin::Automatic });
    let text = "`disk: {}` under `tiers`: what does not fit is then read from the model's file".to_owned();
    Some(Way { text, profile: changed })
}

/// Disk, a quantized cache and small batches at once, with fewer and fewer tokens.
fn together(profile: &Profile, inventory: &Inventory) -> Vec<Way> {
    const SMALL_BATCH: u32 = 64;
    let mut base = disk(profile).map_or_else(|| profile.clone(), |way| way.profile);
    base = quantized_cache(&base).map_or(base, |way| way.profile);
    if base.prefill.micro_batch.value().is_some_and(|tokens| *tokens > SMALL_BATCH) {
        base.prefill.micro_batch = Choice::asked(SMALL_BATCH, Origin::Automatic);
    }
    let fewer = fewer_tokens(&base, inventory, u32::MAX).into_iter().map(|way| way.profile);
    let changed: Vec<Profile> = std::iter::once(base.clone()).chain(fewer).collect();
    changed
        .into_iter()
        .filter_map(|changed| Some(Way { text: differences(profile, &changed)?, profile: changed }))
        .collect()
}

/// What differs, as a user writes it; none where that is no more than one thing.
fn differences(from: &Profile, to: &Profile) -> Option<String> {
    let mut parts = Vec::new();
    if from.tiers.len() < to.tiers.len() {
        parts.push("`disk: {}`".to_owned());
    }
    if (from.context.k_type, from.context.v_type) != (to.context.k_type, to.context.v_type) {
        parts.push("`kv_type: q8_0`".to_owned());
    }
    for (key, from, to) in [
        ("tokens", &from.context.tokens, &to.context.tokens),
        ("micro_batch", &from.prefill.micro_batch, &to.prefill.micro_batch),
    ] {
        if let (true, Some(value)) = (from.value() != to.value(), to.value()) {
            parts.push(format!("`{key}: {value}`"));
        }
    }
    (parts.len() > 1).then(|| format!("{} together", parts.join(", ")))
}

/// The ceiling that is needed, said with whether the machine has it and whether it is enough alone.
fn raise(profile: &Profile, refusal: &DoesNotFit, fits: impl Fn(&Profile) -> bool) -> Option<String> {
    let mib = refusal.needed().0.div_ceil(1 << 20);
    let mut changed = profile.clone();
    for limit in changed.tiers.iter_mut().filter(|limit| limit.tier == refusal.tier) {
        limit.ceiling = Some(Bytes(mib << 20));
    }
    let tier = refusal.tier;
    let flag = if tier == Tier::Ram { "--ram" } else { "--gpu-mem" };
    fits(&changed).then(|| format!("`{tier}: {{ memory: {mib}MiB }}` ({flag} {mib}MiB)"))
}

/// Adds ways out to a refusal that shows a sum.
pub(super) fn add(refusal: Refusal, profile: &Profile, given: Given<'_>) -> Refusal {
    match refusal {
        Refusal::DoesNotFit(mut refusal) => {
            refusal.ways_out = ways_out(profile, &refusal, given);
            if refusal.ways_out.is_empty() {
                refusal.ways_out.push(last_resort(&refusal, given.machine));
            }
            Refusal::DoesNotFit(refusal)
        }
        other @ (Refusal::Profile(_) | Refusal::Experts(_)) => other,
    }
}

/// Where no single change helps.
fn last_resort(refusal: &DoesNotFit, machine: &Machine) -> String {
    if refusal.tier == Tier::Ram && refusal.needed() > machine.ram_total {
        return format!(
            "this machine has {} of RAM: take a smaller quantization of the model, or a smaller model",
            machine.ram_total
        );
    }
    "several ceilings are too low: raise each, ask for less context, or take a smaller quantization".to_owned()
}
