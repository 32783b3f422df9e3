//! The story of one tensor, or of one of its experts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::experts::grouped;
use super::moving::moving;
use super::{cut, wrapped};
use crate::profile::Ranges;
use crate::suggest::closest;
use crate::traffic::Traffic;
use crate::{Device, ExpertUse, Inventory, Machine, Plan, Role, Tier, Unit, UnitId};

/// A tensor that the model does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{model} has no tensor {name:?}\n\nhint: {hint}")]
pub struct UnknownTensor {
    /// The model's name.
    pub model: String,
    /// The name that was asked for.
    pub name: String,
    /// Names that it has.
    pub hint: String,
}

/// The story of one tensor: what it is, where it lives, why, and what to write to have it elsewhere. The name may be
/// followed by an expert: `blk.3.ffn_up_exps.weight[17]`.
///
/// # Errors
/// [`UnknownTensor`] with the names that are meant, where the model has none of that name.
pub fn explain(plan: &Plan, inventory: &Inventory, name: &str) -> Result<String, UnknownTensor> {
    explain_with(plan, inventory, name, None)
}

/// The same of a plan that was made with these counts ([`plan_with`](crate::plan_with)).
///
/// # Errors
/// As [`explain`].
pub fn explain_with(
    plan: &Plan,
    inventory: &Inventory,
    name: &str,
    counts: Option<&ExpertUse>,
) -> Result<String, UnknownTensor> {
    let Some((first, expert)) = find(inventory, name) else { return Err(unknown(inventory, name)) };
    let unit = inventory.unit(first);
    let tensor = inventory.tensor_of(unit);
    let traffic = Traffic::new(inventory, counts);
    let mut out = format!("{name}\n  is         ");
    let layer = unit.layer.map_or(String::new(), |layer| format!(" of layer {layer}"));
    let (what, dims, bytes) = match expert {
        Some(expert) => (format!("expert {expert}"), &tensor.dims[..tensor.dims.len() - 1], unit.bytes),
        None => (unit.role.to_string(), tensor.dims.as_slice(), tensor.bytes),
    };
    let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
    let _ = writeln!(out, "{what}{layer}: {} {}, {bytes}", tensor.quant, dims.join(" × "));
    for place in homes(plan, inventory, unit, expert) {
        let mut text = if place.home == Tier::Disk { "on disk".to_owned() } else { format!("in {}", place.home) };
        if let (None, Some(experts)) = (expert, Ranges::of(place.experts.iter().copied())) {
            text = format!("experts {experts} {text}");
        }
        let text = format!("{text}: {}", place.reason);
        wrapped(&mut out, "  lives      ", "             ", text.split(' '), " ");
    }
    let computed = devices(plan, inventory, unit, expert);
    for (home, (decode, prefill)) in &computed {
        let of = if computed.len() > 1 { format!("from {home} ") } else { String::new() };
        let (decode, prefill) = (device(*decode), device(*prefill));
        let _ = writeln!(out, "  computed   {of}by {decode} in decode, by {prefill} for prompts");
    }
    let _ = writeln!(out, "  read       {}", reading(unit, inventory, expert, traffic));
    if let (Some(counts), Role::RoutedExpert) = (traffic.counted(), unit.role) {
        let text = use_of(unit, expert, counts);
        wrapped(&mut out, "  counted    ", "             ", text.split(' '), " ");
    }
    let pattern = format!("^{}$", regex::escape(&tensor.name)).replace('\'', "''");
    let experts = expert.map_or(String::new(), |expert| format!(", experts: {expert}"));
    let other = if computed.keys().all(|home| *home == Tier::Ram) { Tier::Disk } else { Tier::Ram };
    let _ = writeln!(
        out,
        "  to move it - {{ tensors: '{pattern}'{experts}, home: {other} }}   as the first rule under `placement`"
    );
    Ok(out)
}

/// [`explain_with`] for a plan of this machine: with what it would cost or gain to have the tensor elsewhere.
///
/// # Errors
/// As [`explain`].
pub fn explain_on(
    plan: &Plan,
    inventory: &Inventory,
    machine: &Machine,
    name: &str,
    counts: Option<&ExpertUse>,
) -> Result<String, UnknownTensor> {
    let story = explain_with(plan, inventory, name, counts)?;
    let Some((first, expert)) = find(inventory, name) else { return Err(unknown(inventory, name)) };
    let tensor = inventory.unit(first).tensor;
    let asked = |unit: &Unit| unit.tensor == tensor && (expert.is_none() || unit.expert == expert);
    let units: Vec<UnitId> = inventory.iter().filter(|(_, unit)| asked(unit)).map(|(id, _)| id).collect();
    Ok(story + &moving(plan, inventory, machine, counts, &units))
}

/// The first unit of the tensor with this name, or the expert that is asked for behind it.
fn find(inventory: &Inventory, name: &str) -> Option<(UnitId, Option<u32>)> {
    if let Some(first) = inventory.find(name) {
        return Some((first, None));
    }
    let (tensor, expert) = name.strip_suffix(']')?.rsplit_once('[')?;
    let (expert, first) = (expert.parse().ok()?, inventory.find(tensor)?);
    let tensor = inventory.unit(first).tensor;
    let found = inventory.iter().find(|(_, unit)| unit.tensor == tensor && unit.expert == Some(expert));
    found.map(|(id, _)| (id, Some(expert)))
}

fn device(device: Device) -> String {
    match device {
        Device::Cpu => "the CPU".to_owned(),
        Device::Gpu(number) => format!("gpu:{number}"),
    }
}

/// Units of one tensor that live in one tier for one reason.
struct Place<'a> {
    home: Tier,
    reason: &'a str,
    experts: Vec<u32>,
}

/// The homes of a tensor's units, or of the one expert that is asked for.
fn homes<'a>(plan: &'a Plan, inventory: &Inventory, of: &Unit, expert: Option<u32>) -> Vec<Place<'a>> {
    let mut homes: BTreeMap<(Tier, &str), Vec<u32>> = BTreeMap::new();
    let asked = |unit: &Unit| unit.tensor == of.tensor && (expert.is_none() || unit.expert == expert);
    for (unit, placement) in inventory.units.iter().zip(&plan.placements).filter(|(unit, _)| asked(unit)) {
        homes.entry((placement.home, &placement.reason)).or_default().extend(unit.expert);
    }
    homes.into_iter().map(|((home, reason), experts)| Place { home, reason, experts }).collect()
}

/// What computes with a tensor's units in decode and for prompts, by home; or with the one expert that is asked for.
fn devices(plan: &Plan, inventory: &Inventory, of: &Unit, expert: Option<u32>) -> BTreeMap<Tier, (Device, Device)> {
    let asked = |unit: &Unit| unit.tensor == of.tensor && (expert.is_none() || unit.expert == expert);
    let units = inventory.units.iter().zip(&plan.placements).filter(|(unit, _)| asked(unit));
    units.map(|(_, placement)| (placement.home, (placement.decode, placement.prefill))).collect()
}

fn reading(unit: &Unit, inventory: &Inventory, expert: Option<u32>, traffic: Traffic<'_>) -> String {
    let shape = &inventory.shape;
    match unit.role {
        Role::MultiToken => "never".to_owned(),
        Role::Embedding if !inventory.tied_output() => {
            format!("one row of {} for each token", inventory.tensor_of(unit).row_bytes())
        }
        Role::RoutedExpert if expert.is_some() => {
            format!("for {:.2} % of tokens", traffic.expert_share(unit) * 100.0)
        }
        Role::RoutedExpert => format!("{} of {} experts for each token", shape.experts_used, shape.experts),
        _ => "whole, for each decoded token".to_owned(),
    }
}

/// Experts that are named as those of a layer that were chosen most.
const HOTTEST_NAMED: usize = 4;

/// What was counted of an expert, or of all experts of its layer.
fn use_of(unit: &Unit, expert: Option<u32>, counts: &ExpertUse) -> String {
    let layer = counts.layers().find(|(layer, _)| Some(*layer) == unit.layer);
    let Some((layer, uses)) = layer.filter(|(_, uses)| uses.iter().any(|uses| *uses > 0)) else {
        return "nothing in this layer".to_owned();
    };
    let mut order: Vec<u32> = (0..uses.len() as u32).collect();
    order.sort_by_key(|expert| (Reverse(uses[*expert as usize]), *expert));
    let share = |expert: u32| counts.share(layer, expert).unwrap_or_default() * 100.0;
    if let Some(expert) = expert {
        let place = order.iter().position(|other| *other == expert).map_or(0, |place| place + 1);
        let times = uses.get(expert as usize).copied().unwrap_or_default();
        return format!(
            "chosen {} times, by {:.2} % of tokens: number {place} of {} in this layer",
            grouped(times),
            share(expert),
            uses.len()
        );
    }
    let hottest = order.iter().take(HOTTEST_NAMED).map(|expert| format!("{expert} ({:.1} %)", share(*expert)));
    let hottest: Vec<String> = hottest.collect();
    let never = uses.iter().filter(|uses| **uses == 0).count();
    let never = if never == 0 {
        "each of the others at least once".to_owned()
    } else {
        format!("{never} of {} never", uses.len())
    };
    format!("most: experts {} of tokens; {never}", hottest.join(", "))
}

/// The experts of a tensor that the model has.
fn of_experts(inventory: &Inventory, tensor: &str) -> String {
    let units = inventory.units.iter().filter(|unit| inventory.tensor_of(unit).name == tensor);
    match Ranges::of(units.filter_map(|unit| unit.expert)) {
        Some(experts) => format!("{tensor} has experts {experts}; one of them is asked for as {tensor}[0]"),
        None => format!("{tensor} has no experts: leave out what follows it"),
    }
}

fn unknown(inventory: &Inventory, name: &str) -> UnknownTensor {
    const EXAMPLES: usize = 4;
    let names = || inventory.tensors.iter().map(|tensor| tensor.name.as_str());
    let holding: Vec<&str> = names().filter(|known| !name.is_empty() && known.contains(name)).take(EXAMPLES).collect();
    // A tensor that is known, and an expert behind it that is not.
    let known = name.split_once('[').filter(|(tensor, _)| inventory.find(tensor).is_some());
    let hint = match closest(name, names()) {
        _ if known.is_some() => known.map(|(tensor, _)| of_experts(inventory, tensor)).unwrap_or_default(),
        Some(meant) => format!("did you mean {meant}?"),
        None if !holding.is_empty() => format!("names that hold it: {}", holding.join(", ")),
        None => {
            let some: Vec<&str> = names().take(EXAMPLES).collect();
            format!("`plimsoll inspect --tensors` lists them: {}, …", some.join(", "))
        }
    };
    UnknownTensor { model: cut(&inventory.name, 60), name: cut(name, 80), hint }
}
