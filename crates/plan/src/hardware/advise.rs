//! The cheapest machines of a catalogue that are fast enough for a model, and what bounds any machine.

use std::collections::BTreeSet;

use super::{Build, Card, Catalogue};
use crate::machine::GPU_CAPABILITY_MIN;
use crate::traffic::Traffic;
use crate::{Forecast, Inventory, Machine, Plan, Profile, Tier, plan};

/// A machine that is fast enough.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// The machine.
    pub build: Build,
    /// What its parts cost, about.
    pub price_usd: f64,
    /// What its plan expects.
    pub forecast: Forecast,
    /// What bounds its decode.
    pub limit: Limit,
}

/// Why there is no advice.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoAdvice {
    /// A rate that is none.
    #[error("{0} is no rate of tokens\n\nhint: write a number above 0, such as --budget-tps 5")]
    NotARate(f64),
    /// No machine of the catalogue is fast enough.
    #[error(
        "nothing in the catalogue decodes {} tokens/s of this model; the fastest is {best}\n\nhint: ask for less, or take a smaller quantization",
        if *asked < 1e9 { asked.to_string() } else { format!("{asked:e}") }
    )]
    Nothing {
        /// What was asked for.
        asked: f64,
        /// The fastest machine with its rate.
        best: String,
    },
}

/// The memory whose reading takes the largest part of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A GPU's memory.
    Card,
    /// RAM, or the cores that read it.
    Ram,
    /// The drive.
    Disk,
    /// None of them: launches and crossings.
    Latency,
}

impl Limit {
    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Card => "GPU memory",
            Self::Ram => "RAM",
            Self::Disk => "drive",
            Self::Latency => "launches and crossings",
        }
    }

    /// What bounds a plan's decode.
    #[must_use]
    pub fn of(plan: &Plan, machine: &Machine) -> Self {
        let mut parts = [(Self::Card, 0.0), (Self::Ram, 0.0), (Self::Disk, 0.0)];
        for tier in &plan.tiers {
            let (place, rate) = match tier.tier {
                Tier::Gpu(number) => {
                    (0, machine.gpus.get(number as usize).map_or(f64::INFINITY, |gpu| gpu.read.rate.0))
                }
                Tier::Ram => (1, machine.ram_read.rate.0),
                Tier::Disk => (2, machine.disk_read.rate.0),
            };
            parts[place].1 += tier.read_per_token.as_f64() / rate;
        }
        let reading: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let most = parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(Self::Latency, |(limit, _)| limit);
        if plan.forecast.decode_tokens_per_s * reading < 0.5 { Self::Latency } else { most }
    }
}

/// Tokens per second that no placement on this machine can exceed, experts being chosen evenly: what every token reads has the fastest memories
/// to itself, and then experts; all memories are read at the same time, at their data sheets' peaks. For each number k of fastest memories
///
/// ```text
/// seconds >= bytes read that have no room in those k / sum of the other memories' peaks
/// ```
#[must_use]
pub fn most_tokens_per_s(build: &Build, model: &Inventory) -> f64 {
    let traffic = Traffic::new(model, None);
    let mut units: Vec<(f64, f64)> =
        model.units.iter().map(|unit| (traffic.touched(unit, 1), unit.bytes.as_f64())).collect();
    units.sort_by(|a, b| b.0.total_cmp(&a.0));
    let cards = build.cards.iter().map(|card| (card.memory.value.as_f64(), card.bandwidth.value.0));
    let mut tiers: Vec<(f64, f64)> = cards.chain([(build.ram.as_f64(), build.memory.bandwidth.value.0)]).collect();
    tiers.sort_by(|a, b| b.1.total_cmp(&a.1));
    tiers.push((f64::INFINITY, build.drive.bandwidth.value.0));
    let (mut room, mut seconds) = (0.0, 0.0_f64);
    for (place, (size, _)) in tiers.iter().enumerate() {
        let others: f64 = tiers[place..].iter().map(|(_, rate)| rate).sum();
        seconds = seconds.max(read_beyond(&units, room) / others);
        room += size;
    }
    1.0 / seconds.max(f64::MIN_POSITIVE)
}

/// Bytes that a token reads of units, those read most first, that do not fit into this room.
fn read_beyond(units: &[(f64, f64)], mut room: f64) -> f64 {
    let beyond = |(share, bytes): &(f64, f64)| {
        let here = room.min(*bytes);
        room -= here;
        share * (bytes - here)
    };
    units.iter().map(beyond).sum()
}

/// The plan of a model on a machine of the catalogue, if there is one.
fn planned(build: &Build, model: &Inventory) -> Option<(Plan, Machine)> {
    let machine = build.machine(model);
    let plan = plan(&Profile::automatic(&machine), model, &machine).ok()?;
    Some((plan, machine))
}

/// The cheapest machines, at most so many, whose plans decode `tokens_per_s` or more: of each pair of GPU and memory the cheapest. Parts without a
/// price and GPUs that are too old are left out. Machines whose [`most_tokens_per_s`] is too low are not planned, nor are cheaper kinds of what was
/// too slow with its largest memory and fastest drive.
///
/// # Errors
/// [`NoAdvice`] where nothing is fast enough, with the fastest of what was planned or bounded.
pub fn advise(
    catalogue: &Catalogue,
    model: &Inventory,
    tokens_per_s: f64,
    most: usize,
) -> Result<Vec<Advice>, NoAdvice> {
    if !(tokens_per_s.is_finite() && tokens_per_s > 0.0) {
        return Err(NoAdvice::NotARate(tokens_per_s));
    }
    let mut builds: Vec<(f64, Build)> =
        builds(catalogue).filter_map(|build| Some((build.price_usd()?, build))).collect();
    builds.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.to_string().cmp(&b.1.to_string())));
    let (mut found, mut best) = (Vec::new(), (0.0, String::new()));
    // Pairs of GPU and memory that are done with, one way or the other; and those whose best kind is known to be fast enough.
    let (mut closed, mut open) = (BTreeSet::new(), BTreeSet::new());
    for (price_usd, build) in &builds {
        let key = pair(build);
        if closed.contains(&key) || most_tokens_per_s(build, model) < tokens_per_s {
            continue;
        }
        if open.insert(key.clone()) {
            let largest = builds.iter().map(|(_, other)| other).filter(|other| pair(other) == key);
            let largest = largest.max_by(|a, b| {
                (a.ram, a.drive.bandwidth.value.0)
                    .partial_cmp(&(b.ram, b.drive.bandwidth.value.0))
                    .unwrap_or(std::cmp::Ordering::Equal)
            });
            let rate = largest
                .and_then(|build| planned(build, model))
                .map_or(0.0, |(plan, _)| plan.forecast.decode_tokens_per_s);
            if let Some(build) = largest.filter(|_| rate > best.0) {
                best = (rate, format!("{build} with {rate:.2}"));
            }
            if rate < tokens_per_s {
                closed.insert(key);
                continue;
            }
        }
        let Some((plan, machine)) = planned(build, model) else { continue };
        if plan.forecast.decode_tokens_per_s < tokens_per_s {
            continue;
        }
        let limit = Limit::of(&plan, &machine);
        found.push(Advice { build: build.clone(), price_usd: *price_usd, forecast: plan.forecast, limit });
        closed.insert(key);
        if found.len() == most {
            break;
        }
    }
    if found.is_empty() {
        let best = if best.1.is_empty() { fastest(&builds, model) } else { best.1 };
        return Err(NoAdvice::Nothing { asked: tokens_per_s, best });
    }
    Ok(found)
}

fn pair(build: &Build) -> (String, String) {
    (build.cards.first().map(|card| card.name.clone()).unwrap_or_default(), build.memory.name.clone())
}

/// The machine with the highest bound, where all bounds are too low.
fn fastest(builds: &[(f64, Build)], model: &Inventory) -> String {
    let bound = |build: &Build| most_tokens_per_s(build, model);
    let best = builds.iter().map(|(_, build)| build).max_by(|a, b| bound(a).total_cmp(&bound(b)));
    best.map_or_else(|| "none".to_owned(), |build| format!("{build} with at most {:.2}", bound(build)))
}

/// Every machine of one GPU or none, a memory of a usual size, and a drive.
fn builds(catalogue: &Catalogue) -> impl Iterator<Item = Build> {
    let usable = |card: &&Card| card.capability.value >= GPU_CAPABILITY_MIN;
    let cards: Vec<Option<&Card>> =
        [None].into_iter().chain(catalogue.cards.values().filter(usable).map(Some)).collect();
    cards.into_iter().flat_map(move |card| {
        catalogue.memories.values().flat_map(move |memory| {
            memory.sizes.value.iter().flat_map(move |ram| {
                catalogue.drives.values().map(move |drive| Build {
                    cards: card.cloned().into_iter().collect(),
                    memory: memory.clone(),
                    ram: *ram,
                    drive: drive.clone(),
                    cores: memory.cores.value,
                })
            })
        })
    })
}
