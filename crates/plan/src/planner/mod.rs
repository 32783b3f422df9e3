//! The decision: profile, inventory and machine in, a plan or a refusal out.
//!
//! [`plan`] proves the rules against the model, then searches the settings that the profile leaves open (context,
//! micro-batch, ring) for the first that fits, and fills what remains of each ceiling with weights.

mod describe;
mod fill;
mod refusal;
mod rules;
mod settings;
mod ways_out;

pub use refusal::{DoesNotFit, Refusal};

use fill::{Cargo, Rooms};
use rules::{Wish, Wishes};
use settings::Setup;

use crate::cost::{self, Widths};
use crate::machine::GPU_CAPABILITY_MIN;
use crate::profile::{Choice, Fault, Origin, Profile, ProfileError, StreamTo};
use crate::traffic::Traffic;
use crate::{Bytes, ExpertUse, Inventory, KvPlan, Load, Machine, Plan, Role, Staging, Tier, Unit};

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
    experts.map_or(Ok(()), |experts| experts.check(inventory))?;
    let given = Given { inventory, machine, traffic: Traffic::new(inventory, experts) };
    attempt(profile, given).map_err(|refusal| ways_out::add(refusal, profile, given))
}

/// What a plan is made for, and no profile changes.
#[derive(Clone, Copy)]
struct Given<'a> {
    inventory: &'a Inventory,
    machine: &'a Machine,
    traffic: Traffic<'a>,
}

/// The plan, or a refusal that shows no ways out yet.
fn attempt(profile: &Profile, given: Given<'_>) -> Result<Plan, Refusal> {
    let Given { inventory, machine, .. } = given;
    let mut notes = profile.notes.clone();
    let limits = limits(profile, machine, &mut notes)?;
    let wishes = rules::resolve(profile, inventory)?;
    notes.extend(rules::without_effect(profile, inventory));
    let planner = Planner::new(profile, given, limits, wishes);
    let draft = settings::search(&planner)?;
    Ok(describe::finish(&planner, draft, notes))
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

/// Everything that stays the same while settings are searched.
struct Planner<'a> {
    profile: &'a Profile,
    inventory: &'a Inventory,
    machine: &'a Machine,
    limits: Vec<Limit>,
    wishes: Wishes,
    cargo: Cargo,
    widths: Widths,
    traffic: Traffic<'a>,
    /// The longest row of any unit: a slot of the ring holds at least one.
    row_bytes_max: Bytes,
    /// The largest unit that a GPU can be handed for a batch of prompt tokens.
    streamed_bytes_max: Bytes,
    threads: u32,
}

/// One way to set what the profile leaves open, with the homes that follow from it.
struct Draft {
    setup: Setup,
    homes: Vec<Tier>,
    /// Each tier's loads, in the order of the limits.
    loads: Vec<Vec<Load>>,
    /// The first tier that is over its ceiling, by its place among the limits.
    over: Option<usize>,
}

impl<'a> Planner<'a> {
    fn new(profile: &'a Profile, given: Given<'a>, limits: Vec<Limit>, wishes: Wishes) -> Self {
        let Given { inventory, machine, traffic } = given;
        let row_bytes = |unit: &Unit| inventory.tensor_of(unit).row_bytes();
        let in_layer = |unit: &&Unit| unit.layer.is_some() && unit.role != Role::MultiToken;
        Self {
            profile,
            inventory,
            machine,
            limits,
            cargo: Cargo::new(inventory, &wishes.wish, traffic),
            wishes,
            widths: Widths::of(inventory),
            traffic,
            row_bytes_max: inventory.units.iter().map(row_bytes).max().unwrap_or_default(),
            streamed_bytes_max: inventory.units.iter().filter(in_layer).map(|u| u.bytes).max().unwrap_or_default(),
            threads: profile.threads.value().copied().unwrap_or(machine.cores).max(1),
        }
    }

    fn limit(&self, tier: Tier) -> Option<&Limit> {
        self.limits.iter().find(|limit| limit.tier == tier)
    }

    fn ceiling(&self, tier: Tier) -> Bytes {
        self.limit(tier).and_then(|limit| limit.ceiling).unwrap_or(Bytes(u64::MAX))
    }

    fn first_gpu(&self) -> Option<u32> {
        self.limits.iter().find_map(|limit| match limit.tier {
            Tier::Gpu(number) => Some(number),
            Tier::Ram | Tier::Disk => None,
        })
    }

    /// The GPU that weights are streamed to in prefill, where that is wanted.
    fn stream_wished(&self) -> Option<u32> {
        match self.profile.prefill.stream_to.value() {
            None => self.first_gpu(),
            Some(StreamTo::Nowhere) => None,
            Some(StreamTo::Gpu(number)) => Some(*number),
        }
    }

    /// The KV cache of so many tokens. Its home is asked for, or the first GPU where it takes at most half of what a
    /// GPU has for it and weights, or RAM.
    fn kv(&self, tokens: u32) -> KvPlan {
        let context = &self.profile.context;
        let bytes = cost::kv_cache(&self.inventory.shape, tokens, context.k_type, context.v_type);
        let home = match &context.kv_home {
            Choice::Asked(asked) => asked.value,
            Choice::Auto => match self.first_gpu().map(Tier::Gpu) {
                Some(gpu) if bytes.0 <= self.ceiling(gpu).saturating_sub(cost::GPU_CONTEXT).0 / 2 => gpu,
                _ => Tier::Ram,
            },
        };
        let homes = vec![home; self.inventory.shape.layers as usize];
        KvPlan { tokens, k_type: context.k_type, v_type: context.v_type, homes, bytes }
    }

    /// What a tier holds besides weights.
    fn fixed(&self, setup: &Setup, tier: Tier) -> Vec<Load> {
        let load = |what: &str, bytes: Bytes| Load { what: what.to_owned(), bytes };
        let activations = cost::activations(&self.widths, setup.micro_batch, self.threads, setup.kv.tokens);
        let mut loads = match tier {
            Tier::Disk => return Vec::new(),
            Tier::Ram => vec![
                load("process", cost::process(self.inventory, self.first_gpu().is_some())),
                load("vocabulary", cost::vocabulary(self.inventory)),
                load("activations", activations),
            ],
            Tier::Gpu(_) => vec![
                load("process", cost::GPU_CONTEXT),
                load("activations", activations + cost::gpu_latent(&self.inventory.shape, setup.micro_batch)),
                load("vectors", cost::gpu_vectors(self.inventory)),
            ],
        };
        if setup.kv.homes.contains(&tier) {
            let here = |(_, home): &(usize, &Tier)| **home == tier;
            let layers = || setup.kv.homes.iter().enumerate().filter(here).map(|(layer, _)| layer);
            let (shape, kv) = (&self.inventory.shape, &setup.kv);
            let cache = layers().map(|layer| cost::kv_layer(shape, layer, kv.tokens, kv.k_type, kv.v_type)).sum();
            loads.push(load("KV cache", cache));
            let states = layers().map(|layer| cost::state_layer(shape, layer)).sum();
            if states > Bytes::ZERO {
                loads.push(load("states", states));
            }
        }
        let ring = match tier {
            Tier::Ram => setup.staging.bytes(),
            // Two slots: one is computed with while the other fills.
            Tier::Gpu(number) if setup.stream == Some(number) => Bytes(2 * self.streamed_bytes_max.0),
            Tier::Gpu(_) | Tier::Disk => Bytes::ZERO,
        };
        if ring > Bytes::ZERO {
            loads.push(load("ring", ring));
        }
        loads
    }

    /// Fills what the settings leave of each ceiling with weights.
    fn draft(&self, setup: Setup) -> Draft {
        let mut loads: Vec<Vec<Load>> = self.limits.iter().map(|limit| self.fixed(&setup, limit.tier)).collect();
        let sum = |loads: &[Load]| loads.iter().map(|load| load.bytes).sum::<Bytes>();
        let left = |(limit, loads): (&Limit, &Vec<Load>)| {
            (limit.tier, limit.ceiling.map(|ceiling| ceiling.saturating_sub(sum(loads)).0))
        };
        let rooms: Rooms = self.limits.iter().zip(&loads).map(left).collect();
        let homes = self.cargo.fill(rooms);
        let mut weights = vec![Bytes::ZERO; self.limits.len()];
        for (unit, home) in self.inventory.units.iter().zip(&homes) {
            // Few tiers: a search is as good as a table.
            if let Some(place) = self.limits.iter().position(|limit| limit.tier == *home) {
                weights[place] += if *home == Tier::Disk { unit.bytes } else { cost::resident(unit) };
            }
        }
        let mut over = None;
        for (place, (limit, bytes)) in self.limits.iter().zip(weights).enumerate() {
            loads[place].push(Load { what: "weights".to_owned(), bytes });
            if over.is_none() && limit.ceiling.is_some_and(|ceiling| sum(&loads[place]) > ceiling) {
                over = Some(place);
            }
        }
        Draft { setup, homes, loads, over }
    }

    /// Whether this unit passes through the ring when it is used: it lives on disk, is run, and is no table of which
    /// only rows are read.
    fn uses_ring(&self, index: usize, home: Tier) -> bool {
        let unit = &self.inventory.units[index];
        home == Tier::Disk
            && self.wishes.wish[index] != Wish::NotRun
            && (unit.role != Role::Embedding || self.traffic.tied())
    }

    /// Whether this unit is handed to a GPU for a batch of prompt tokens.
    fn is_streamed(&self, index: usize, home: Tier) -> bool {
        let unit = &self.inventory.units[index];
        !matches!(home, Tier::Gpu(_)) && unit.layer.is_some() && self.wishes.wish[index] != Wish::NotRun
    }

    fn any(&self, homes: &[Tier], what: impl Fn(&Self, usize, Tier) -> bool) -> bool {
        homes.iter().enumerate().any(|(index, home)| what(self, index, *home))
    }

    /// A ring with slots that hold the longest row.
    fn ring(&self, (slot, slots): (Bytes, u32)) -> Staging {
        Staging { slot: slot.max(Bytes(self.row_bytes_max.0.next_multiple_of(4096))), slots }
    }
}
