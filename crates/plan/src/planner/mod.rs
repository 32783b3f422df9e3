//! The decision: profile, inventory and machine in, a plan or a refusal out.
//!
//! [`plan`] proves the rules against the model, then searches the settings that the profile leaves open (context,
//! micro-batch, ring) for the first that fits, and fills what remains of each ceiling with weights.

mod blocks;
mod cards;
mod choose;
mod describe;
mod draft;
mod fill;
mod refusal;
mod rules;
mod settings;
mod ways_out;

pub use choose::{Compared, compare, compare_for};
pub use refusal::{DoesNotFit, Refusal};

use cards::Cards;
use choose::Ways;
use fill::Cargo;
use rules::Wishes;
use settings::Fixed;

use crate::cost::{self, Widths};
use crate::expert_cache::Policy;
use crate::gpu::{self, Abilities, Obstacles};
use crate::machine::GPU_CAPABILITY_MIN;
use crate::profile::{Fault, Origin, Profile, ProfileError, StreamTo};
use crate::streaming::{self, SLOTS, SLOTS_DECODE};
use crate::traffic::Traffic;
use crate::{Bytes, ExpertUse, Inventory, Machine, Placement, Plan, Role, Scheme, Staging, Tier, Unit};

/// Decides where every byte of the model lives.
///
/// Knows nothing that it is not told: no clock, no file, no device. The same inputs give the same plan.
///
/// # Errors
/// [`Refusal::Profile`] where the profile does not suit this model or machine, with its line;
/// [`Refusal::DoesNotFit`] where a ceiling is too low, with the sum and ways out.
pub fn plan(profile: &Profile, inventory: &Inventory, machine: &Machine) -> Result<Plan, Refusal> {
    plan_with(profile, inventory, machine, None)
}

/// The same, with counts of how often each expert was chosen: those that were chosen most are placed nearest (ties go by
/// number, then by layer, so that each layer has its part), and the forecast uses their shares. Without counts, or where they are of no token, every expert of
/// a layer is taken to be as likely as any other.
///
/// # Errors
/// As [`plan`], and [`Refusal::Experts`] where the counts are of another model.
pub fn plan_with(
    profile: &Profile,
    inventory: &Inventory,
    machine: &Machine,
    experts: Option<&ExpertUse>,
) -> Result<Plan, Refusal> {
    plan_for(profile, inventory, machine, experts, &gpu::NOW)
}

/// The same for an engine whose GPUs compute so much.
///
/// # Errors
/// As [`plan_with`].
pub fn plan_for(
    profile: &Profile,
    inventory: &Inventory,
    machine: &Machine,
    experts: Option<&ExpertUse>,
    abilities: &Abilities,
) -> Result<Plan, Refusal> {
    experts.map_or(Ok(()), |experts| experts.check(inventory))?;
    let given = Given::new(inventory, machine, abilities, experts);
    choose::best(profile, given).map_err(|refusal| ways_out::add(refusal, profile, given))
}

/// What a plan is made for, and no profile changes.
#[derive(Clone, Copy)]
struct Given<'a> {
    inventory: &'a Inventory,
    machine: &'a Machine,
    abilities: &'a Abilities,
    traffic: Traffic<'a>,
}

impl<'a> Given<'a> {
    fn new(
        inventory: &'a Inventory,
        machine: &'a Machine,
        abilities: &'a Abilities,
        experts: Option<&'a ExpertUse>,
    ) -> Self {
        Self { inventory, machine, abilities, traffic: Traffic::new(inventory, experts) }
    }
}

/// A planner for this profile, or a refusal that shows no ways out yet.
fn way_planner<'a>(profile: &'a Profile, given: Given<'a>) -> Result<Ways<'a>, Refusal> {
    let Given { inventory, machine, .. } = given;
    let mut notes = profile.notes.clone();
    let limits = limits(profile, machine, &mut notes)?;
    let mut wishes = rules::resolve(profile, inventory)?;
    blocks::check(&mut wishes, profile, inventory)?;
    notes.extend(rules::without_effect(profile, inventory));
    Ok(Ways { planner: Planner::new(profile, given, limits, wishes), notes })
}

/// A tier that may be used, with the ceiling that holds on this machine.
struct Limit {
    tier: Tier,
    ceiling: Option<Bytes>,
    origin: Origin,
    /// Whether the machine has less than was allowed.
    cut: bool,
}

/// The ceilings of the profile, or what the machine has where that is less.
fn limits(profile: &Profile, machine: &Machine, notes: &mut Vec<String>) -> Result<Vec<Limit>, ProfileError> {
    let limit = |limit: &crate::profile::TierLimit| {
        let has = match limit.tier {
            Tier::Disk => None,
            Tier::Ram => Some(machine.ram_total),
            Tier::Gpu(number) => {
                let missing = |message: String, hint: String| {
                    Err(ProfileError::new(Fault::NotOnMachine, &limit.origin, message, hint))
                };
                let Some(gpu) = machine.gpus.get(number as usize) else {
                    let count = machine.gpus.len();
                    let message = format!("this machine has {count} GPUs, and no {}", limit.tier);
                    return missing(
                        message,
                        "take the tier out of the profile, or plan on the machine that has it".into(),
                    );
                };
                if gpu.capability < GPU_CAPABILITY_MIN {
                    let (major, minor) = gpu.capability;
                    let (least, _) = GPU_CAPABILITY_MIN;
                    let message = format!("{} ({}) is sm_{major}{minor}: too old", limit.tier, gpu.name);
                    return missing(message, format!("GPUs from sm_{least}0 up are used; take the tier out"));
                }
                Some(gpu.memory_total)
            }
        };
        let (ceiling, cut) = match (limit.ceiling, has) {
            (Some(allowed), Some(has)) if has < allowed => {
                notes.push(format!("{}: {allowed} allowed, and the machine has {has}: planned for that", limit.tier));
                (Some(has), true)
            }
            (allowed, _) => (allowed, false),
        };
        Ok(Limit { tier: limit.tier, ceiling, origin: limit.origin.clone(), cut })
    };
    profile.tiers.iter().map(limit).collect()
}

/// One way of placing, chosen before settings are searched.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// How that is placed which no rule names.
    scheme: Scheme,
    /// What the settings' search may not choose.
    fixed: Fixed,
    /// What may be copied to a GPU.
    copies: Copies,
}

/// What may be copied to a GPU while a pass goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Copies {
    /// Weights, for prompts.
    prompts: bool,
    /// Feed-forward matrices of some layers, in decode.
    layers: bool,
    /// Chosen experts, in decode.
    experts: bool,
}

/// Everything that stays the same while settings are searched.
struct Planner<'a> {
    profile: &'a Profile,
    inventory: &'a Inventory,
    machine: &'a Machine,
    limits: Vec<Limit>,
    wishes: Wishes,
    abilities: &'a Abilities,
    obstacles: Obstacles,
    /// The way of placing that is tried.
    way: Way,
    cards: Cards,
    cargo: Cargo,
    widths: Widths,
    traffic: Traffic<'a>,
    /// The longest row of any unit: a slot of the ring holds at least one.
    row_bytes_max: Bytes,
    on_card: OnCard,
    threads: u32,
}

/// What a GPU holds for this model whatever the settings are: counted once, for large models have tens of thousands of units.
struct OnCard {
    /// A slot of the ring that weights are streamed through.
    slot: Bytes,
    /// The room of an expert that is fetched.
    fetch_slot: Bytes,
    /// Its copies of vectors.
    vectors: Bytes,
}

impl OnCard {
    fn of(inventory: &Inventory) -> Self {
        Self {
            slot: streaming::ring(inventory, 1).slot,
            fetch_slot: streaming::fetch_slot(inventory),
            vectors: cost::gpu::vectors(inventory),
        }
    }
}

impl<'a> Planner<'a> {
    fn new(profile: &'a Profile, given: Given<'a>, limits: Vec<Limit>, wishes: Wishes) -> Self {
        let Given { inventory, machine, abilities, traffic } = given;
        let row_bytes = |unit: &Unit| inventory.tensor_of(unit).row_bytes();
        let obstacles = Obstacles::of(inventory, abilities);
        let mut kept_off = obstacles.clone();
        if profile.context.kv_home.value() == Some(&Tier::Ram) {
            kept_off.layers.iter_mut().for_each(|(attention, _)| *attention = Some(gpu::CACHE_IN_RAM));
        }
        Self {
            profile,
            inventory,
            machine,
            limits,
            abilities,
            way: Way::default(),
            cards: Cards::new(inventory, &wishes.wish, traffic, &kept_off, abilities.gpus),
            obstacles,
            cargo: Cargo::new(inventory, &wishes.wish, traffic),
            wishes,
            widths: Widths::of(inventory),
            traffic,
            row_bytes_max: inventory.units.iter().map(row_bytes).max().unwrap_or_default(),
            on_card: OnCard::of(inventory),
            threads: profile.threads.value().copied().unwrap_or(machine.cores).max(1),
        }
    }

    fn limit(&self, tier: Tier) -> Option<&Limit> {
        self.limits.iter().find(|limit| limit.tier == tier)
    }

    fn ceiling(&self, tier: Tier) -> Bytes {
        self.limit(tier).and_then(|limit| limit.ceiling).unwrap_or(Bytes(u64::MAX))
    }

    /// The GPUs that the planner fills by itself, in the order in which they are filled, from the last layer down: the fastest first, of equal
    /// ones the last.
    fn gpus(&self) -> Vec<u32> {
        let alone = self.way.fixed.alone;
        let gpus = self.limits.iter().filter_map(|limit| match limit.tier {
            Tier::Gpu(number) if alone.is_none_or(|alone| alone == number) => Some(number),
            _ => None,
        });
        let rate = |number: &u32| self.machine.gpus.get(*number as usize).map_or(0.0, |gpu| gpu.read.rate.0);
        let mut gpus: Vec<u32> = gpus.collect();
        gpus.sort_by(|a, b| rate(b).total_cmp(&rate(a)).then(b.cmp(a)));
        gpus
    }

    /// The ring that weights are streamed through.
    fn stream_ring(&self) -> Staging {
        let usual = if self.way.copies.layers { SLOTS_DECODE } else { SLOTS };
        Staging { slot: self.on_card.slot, slots: self.way.fixed.slots.unwrap_or(usual) }
    }

    /// How many of a token's experts are copied to a GPU at most.
    fn fetch_most(&self) -> u32 {
        let used = self.inventory.shape.experts_used;
        self.profile.decode.fetch_experts.value().map_or(used, |asked| used.min(*asked))
    }

    /// How many fetched experts stay on their GPU.
    fn keeps(&self) -> u32 {
        self.profile.decode.keep_experts.value().copied().unwrap_or(self.way.fixed.kept)
    }

    /// How many experts that the next layer's router will likely choose are read ahead: as the profile asks; else all of a token where a run has seen
    /// that half of such guesses come true, since a wrong one costs up to a tenth of the speed.
    fn foresees(&self, placements: &[Placement]) -> u32 {
        let away =
            |(unit, placement): (&Unit, &Placement)| unit.role == Role::RoutedExpert && placement.home == Tier::Disk;
        if !self.inventory.units.iter().zip(placements).any(away) {
            return 0;
        }
        let used = self.inventory.shape.experts_used;
        let pays = self.traffic.counted().is_some_and(|counts| counts.foreseen().pays());
        let most = self.profile.decode.foresee_experts.value().copied();
        used.min(most.unwrap_or(if pays { used } else { 0 }))
    }

    /// Which expert leaves RAM where another one comes: as the profile asks.
    fn exchange(&self) -> Policy {
        self.profile.decode.exchange_experts.value().copied().unwrap_or_default()
    }

    /// The GPU that chosen experts are copied to in decode, where that may be.
    fn fetch_wished(&self) -> Option<u32> {
        self.gpus().first().copied().filter(|_| self.way.copies.experts && self.fetch_most() > 0)
    }

    /// The GPUs that weights are streamed to in prefill, where that is wanted: each those of its layers, and of the processor's those beside.
    fn stream_wished(&self) -> Vec<u32> {
        match self.profile.prefill.stream_to.value() {
            _ if !self.way.copies.prompts => Vec::new(),
            None => self.gpus(),
            Some(StreamTo::Nowhere) => Vec::new(),
            Some(StreamTo::Gpu(number)) => vec![*number],
        }
    }
}
