//! The choice among plans: the planner's own way of placing, and the simple ones that it must never be worse than.
//!
//! Owns the candidates. First the planner's own way settles the context: where a profile states an aim and leaves it open it is the longest that holds
//! the conversation and costs no more than a twentieth; where it leaves the type of keys and values open they are kept in 8 bits if that makes
//! a plan possible, its context longer, or the conversation a twentieth faster. Then, with that context, come the planner's own ways, on all GPUs and on
//! each of several by itself, where there is an aim with every micro-batch that it may choose, with and without streaming; the best of them with longer rings; and in any case the simple ways. The candidate with the fewest seconds for the aim is
//! taken, the planner's own where nothing is faster.

use super::settings::Fixed;
use super::{Copies, Given, Planner, Refusal, Way, describe, settings, way_planner};
use crate::gpu::Abilities;
use crate::profile::{Choice, Profile};
use crate::streaming::SLOTS_LONGER;
use crate::{Bytes, ExpertUse, Inventory, KvType, Machine, Plan, Role, Scheme, Tier, cost, forecast, gpu};

/// How much faster a candidate must be to be taken: sums in another order differ by less.
const GAIN: f64 = 1.0 - 1e-9;

/// How much faster a plan must be for what it gives up: tokens of context, or the last bits of keys and values.
const WORTH: f64 = 0.95;

/// Shares of a GPU's room for experts that are tried for those that come and go.
const KEPT_SHARES: [f64; 4] = [0.98, 0.9, 0.5, 0.25];

/// One way of placing, as `plan --compare` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The way; of the planner's choice the one that it took.
    pub scheme: Scheme,
    /// Its plan; none where it does not fit under the ceilings.
    pub plan: Option<Plan>,
    /// Seconds of the conversation that the profile names, by its aim.
    pub seconds: f64,
    /// Whether this is the planner's choice.
    pub chosen: bool,
}

/// The planner's choice, and beside it every simple way with the same context.
///
/// # Errors
/// As [`plan_with`](crate::plan_with).
pub fn compare(
    profile: &Profile,
    inventory: &Inventory,
    machine: &Machine,
    experts: Option<&ExpertUse>,
) -> Result<Vec<Compared>, Refusal> {
    compare_for(profile, inventory, machine, experts, &gpu::NOW)
}

/// The same for an engine whose GPUs compute so much.
///
/// # Errors
/// As [`compare`].
pub fn compare_for(
    profile: &Profile,
    inventory: &Inventory,
    machine: &Machine,
    experts: Option<&ExpertUse>,
    abilities: &Abilities,
) -> Result<Vec<Compared>, Refusal> {
    let chosen = super::plan_for(profile, inventory, machine, experts, abilities)?;
    let given = Given::new(inventory, machine, abilities, experts);
    let seconds = |plan: &Plan| seconds(plan, profile, given);
    let kv = profile.context.types_open.then_some(chosen.kv.k_type);
    let fixed = Fixed { context: Some(chosen.kv.tokens), kv, ..Fixed::default() };
    let mut rows =
        vec![Compared { scheme: chosen.scheme, seconds: seconds(&chosen), plan: Some(chosen), chosen: true }];
    let mut planner = way_planner(profile, given)?;
    for scheme in simple(inventory) {
        let plan = planner.plan(scheme, fixed).ok();
        let seconds = plan.as_ref().map_or(f64::INFINITY, seconds);
        rows.push(Compared { scheme, plan, seconds, chosen: false });
    }
    Ok(rows)
}

/// The simple ways that differ for this model.
fn simple(inventory: &Inventory) -> impl Iterator<Item = Scheme> {
    let mixture = inventory.shape.experts > 0;
    let by_layer = Scheme::ALL.into_iter().filter(|scheme| scheme.is_by_layer());
    by_layer.filter(move |scheme| mixture || *scheme != Scheme::ExpertsOnCpu)
}

/// The planner's own ways that differ for this model and machine.
fn own(given: Given<'_>) -> &'static [Scheme] {
    let dense = given.inventory.shape.experts == 0;
    if dense && !given.machine.gpus.is_empty() { &[Scheme::ByUse, Scheme::AttentionFirst] } else { &[Scheme::ByUse] }
}

/// GPUs that may be better by themselves than all together, where there are several: of equal ones the first.
fn alone(planner: &Planner<'_>) -> Vec<u32> {
    let gpus = planner.gpus();
    let is_like = |a: u32, b: u32| {
        let gpu = |number: u32| (planner.machine.gpus.get(number as usize), planner.ceiling(Tier::Gpu(number)));
        gpu(a) == gpu(b)
    };
    let first = |(place, gpu): &(usize, &u32)| !gpus[..*place].iter().any(|before| is_like(*before, **gpu));
    let different = gpus.iter().enumerate().filter(first).map(|(_, gpu)| *gpu);
    if gpus.len() > 1 { different.collect() } else { Vec::new() }
}

/// Seconds of the conversation that a profile names, by its aim.
fn seconds(plan: &Plan, profile: &Profile, given: Given<'_>) -> f64 {
    let aim = profile.aim.value().copied().unwrap_or_default();
    forecast::seconds(plan, given.inventory, given.machine, given.traffic, aim, profile.lengths)
}

/// The best plan so far.
struct Best {
    plan: Plan,
    seconds: f64,
    scheme: Scheme,
    fixed: Fixed,
}

/// The best of all candidates.
pub(super) fn best(profile: &Profile, given: Given<'_>) -> Result<Plan, Refusal> {
    let mut ways = way_planner(profile, given)?;
    let has_aim = matches!(profile.aim, Choice::Asked(_));
    let mut plan = usual(&mut ways, profile, given)?;
    if has_aim && profile.context.tokens.value().is_none() {
        plan = shorter(&mut ways, plan, profile, given);
    }
    let kv = profile.context.types_open.then_some(plan.kv.k_type);
    let fixed = Fixed { context: Some(plan.kv.tokens), kv, ..Fixed::default() };
    let mut best = Best { seconds: seconds(&plan, profile, given), plan, scheme: Scheme::ByUse, fixed };
    let consider = |ways: &mut Ways<'_>, best: &mut Best, scheme: Scheme, fixed: Fixed| {
        let Ok(plan) = ways.plan(scheme, fixed) else { return };
        let seconds = seconds(&plan, profile, given);
        if seconds < best.seconds * GAIN {
            *best = Best { plan, seconds, scheme, fixed };
        }
    };
    for (scheme, fixed) in candidates(&ways.planner, given, fixed, has_aim) {
        consider(&mut ways, &mut best, scheme, fixed);
    }
    // More slots bridge what a prompt computes between weights that come.
    for slots in SLOTS_LONGER {
        let (before, scheme, fixed) = (best.seconds, best.scheme, Fixed { slots: Some(slots), ..best.fixed });
        match best.plan.device_staging.first() {
            None => break,
            Some((_, ring)) if slots <= ring.slots => {}
            Some(_) => {
                consider(&mut ways, &mut best, scheme, fixed);
                if best.seconds >= before {
                    break;
                }
            }
        }
    }
    ways.planner.way.fixed = best.fixed;
    for kept in keepable(&best.plan, &ways.planner, given) {
        let (scheme, fixed) = (best.scheme, Fixed { kept, ..best.fixed });
        consider(&mut ways, &mut best, scheme, fixed);
    }
    for scheme in simple(given.inventory) {
        consider(&mut ways, &mut best, scheme, fixed);
    }
    Ok(best.plan)
}

/// How many experts the GPU that fetches might keep as they are chosen, instead of the same ones for good: as many as it has room for, and shares of
/// them. None where no trace tells what that would find.
fn keepable(plan: &Plan, planner: &Planner<'_>, given: Given<'_>) -> Vec<u32> {
    let traced = given.traffic.counted().is_some_and(|counts| !counts.trace().is_empty());
    let asked = &planner.profile.decode;
    let open = matches!(asked.keep_experts, Choice::Auto) && asked.fetch_experts.value() != Some(&0);
    let gpu = planner.gpus().first().and_then(|number| plan.tier(Tier::Gpu(*number)));
    let Some(gpu) = gpu.filter(|_| traced && open && given.abilities.fetches) else { return Vec::new() };
    let experts = given.inventory.units.iter().zip(&plan.placements);
    let there = experts.filter(|(unit, placement)| unit.role == Role::RoutedExpert && placement.home == gpu.tier);
    let free = gpu.ceiling.unwrap_or_default().saturating_sub(gpu.bytes());
    let room = there.map(|(unit, _)| unit.bytes).sum::<Bytes>() + free;
    let slot = planner.on_card.fetch_slot;
    let most = u32::try_from(room.0 / slot.0.max(1)).unwrap_or(u32::MAX);
    KEPT_SHARES.iter().map(|share| (f64::from(most) * share) as u32).filter(|kept| *kept > 0).collect()
}

/// What the planner tries beside its usual plan: its own ways with all GPUs and with single ones, and where a conversation is named, with each
/// micro-batch and with and without streaming.
fn candidates(planner: &Planner<'_>, given: Given<'_>, fixed: Fixed, has_aim: bool) -> Vec<(Scheme, Fixed)> {
    let alone = [None].into_iter().chain(alone(planner).into_iter().map(Some));
    let own = alone.flat_map(|alone| own(given).iter().map(move |scheme| (*scheme, Fixed { alone, ..fixed })));
    if !has_aim {
        return own.filter(|(scheme, fixed)| fixed.alone.is_some() || *scheme != Scheme::ByUse).collect();
    }
    let prompts = batches(planner, fixed.context).into_iter();
    let prompts: Vec<_> = prompts.flat_map(|batch| [(batch, false), (batch, true)]).collect();
    let with = |(scheme, fixed)| {
        prompts
            .iter()
            .map(move |(micro_batch, still)| (scheme, Fixed { micro_batch: *micro_batch, still: *still, ..fixed }))
    };
    own.flat_map(with).collect()
}

/// The planner's own way, with keys and values as they are asked, or in 8 bits where that is left open and serves.
fn usual(ways: &mut Ways<'_>, profile: &Profile, given: Given<'_>) -> Result<Plan, Refusal> {
    let asked = ways.plan(Scheme::ByUse, Fixed::default());
    if !profile.context.types_open {
        return asked;
    }
    let Ok(small) = ways.plan(Scheme::ByUse, Fixed { kv: Some(KvType::Q8_0), ..Fixed::default() }) else {
        return asked;
    };
    let serves = |plan: &Plan| {
        let faster = seconds(&small, profile, given) < seconds(plan, profile, given) * WORTH;
        small.kv.tokens > plan.kv.tokens || faster
    };
    Ok(asked.ok().filter(|plan| !serves(plan)).unwrap_or(small))
}

/// The same with the longest context that holds the conversation and takes at most a twentieth longer than the fastest one.
fn shorter(ways: &mut Ways<'_>, longest: Plan, profile: &Profile, given: Given<'_>) -> Plan {
    let holds = profile.lengths.prompt.saturating_add(profile.lengths.answer);
    let kv = profile.context.types_open.then_some(longest.kv.k_type);
    let tokens = cost::CONTEXTS.into_iter().filter(|tokens| (holds..longest.kv.tokens).contains(tokens));
    let fixed = tokens.map(|tokens| Fixed { context: Some(tokens), kv, ..Fixed::default() });
    let plans: Vec<Plan> = fixed.filter_map(|fixed| ways.plan(Scheme::ByUse, fixed).ok()).collect();
    let plans: Vec<Plan> = std::iter::once(longest.clone()).chain(plans).collect();
    let fastest = plans.iter().map(|plan| seconds(plan, profile, given)).fold(f64::INFINITY, f64::min);
    plans.into_iter().find(|plan| seconds(plan, profile, given) * WORTH <= fastest).unwrap_or(longest)
}

/// Micro-batches that the planner may choose; none is the one that was asked for.
fn batches(planner: &Planner<'_>, context: Option<u32>) -> Vec<Option<u32>> {
    if planner.profile.prefill.micro_batch.value().is_some() {
        return vec![None];
    }
    let within = |tokens: &&u32| context.is_none_or(|context| **tokens <= context);
    cost::MICRO_BATCHES_STREAMED.iter().filter(within).copied().map(Some).collect()
}

/// A planner that makes plans in several ways.
pub(super) struct Ways<'a> {
    pub(super) planner: Planner<'a>,
    pub(super) notes: Vec<String>,
}

impl Ways<'_> {
    /// The plan of one way, with what is fixed for it.
    pub(super) fn plan(&mut self, scheme: Scheme, fixed: Fixed) -> Result<Plan, Refusal> {
        let planner = &mut self.planner;
        let (able, asked) = (planner.abilities, &planner.profile.decode);
        let mut copies = Copies {
            prompts: able.streams && !fixed.still,
            layers: able.streams && asked.stream_layers.value() != Some(&0),
            experts: able.mixtures && (able.fetches || asked.fetch_experts.value().is_some()),
        };
        loop {
            planner.way = Way { scheme, fixed, copies };
            let plan = describe::finish(planner, settings::search(planner)?, self.notes.clone());
            let in_decode = plan.streams_in_decode();
            // Where no pass gains by copies, what they pass through makes room; without one kind another may gain no more.
            let serve = Copies {
                prompts: copies.prompts && (plan.device_staging.is_empty() || plan.stream_from.is_some() || in_decode),
                layers: copies.layers && in_decode,
                experts: copies.experts && plan.fetch.is_none_or(|fetch| fetch.experts > 0),
            };
            if serve == copies {
                return Ok(plan);
            }
            copies = serve;
        }
    }
}

/// Whether there is a plan at all.
pub(super) fn is_possible(profile: &Profile, given: Given<'_>) -> bool {
    way_planner(profile, given).and_then(|mut ways| usual(&mut ways, profile, given)).is_ok()
}
