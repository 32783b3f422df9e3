//! What it would cost or gain to have a tensor elsewhere.

use std::fmt::Write as _;

use super::figure;
use crate::blocks::Devices;
use crate::{Bytes, Device, ExpertUse, Forecaster, Inventory, Machine, Plan, Tier, UnitId, cost, forecast};

/// Lines about each other tier of the plan: tokens per second of both phases with these units there, everything else being as it is, and
/// what would have to make room.
pub(super) fn moving(
    plan: &Plan,
    inventory: &Inventory,
    machine: &Machine,
    counts: Option<&ExpertUse>,
    units: &[UnitId],
) -> String {
    let now = speeds(plan, inventory, machine, counts);
    let mut tiers: Vec<Tier> = plan.tiers.iter().map(|tier| tier.tier).collect();
    if !tiers.contains(&Tier::Disk) {
        tiers.push(Tier::Disk);
    }
    let mut out = String::new();
    for tier in tiers {
        let moved: Vec<UnitId> = units.iter().copied().filter(|unit| plan.home(*unit) != tier).collect();
        if moved.is_empty() {
            continue;
        }
        let bytes: Bytes = moved.iter().map(|unit| cost::resident(inventory.unit(*unit))).sum();
        let there = speeds(&with_home(plan, inventory, &moved, tier), inventory, machine, counts);
        let place = if tier == Tier::Disk { "on disk".to_owned() } else { format!("in {tier}") };
        let _ = writeln!(
            out,
            "  {place:<10} decode {} → {} tokens/s, prompt {} → {} tokens/s{}",
            figure(now.0),
            figure(there.0),
            figure(now.1),
            figure(there.1),
            room(plan, tier, bytes)
        );
    }
    out
}

/// What the plan says of decode and of prompts.
fn speeds(plan: &Plan, inventory: &Inventory, machine: &Machine, counts: Option<&ExpertUse>) -> (f64, f64) {
    let forecaster = Forecaster::new(plan, inventory, machine, counts);
    let per_second = |tokens: u32, seconds: f64| f64::from(tokens) / seconds.max(f64::MIN_POSITIVE);
    let (decode, prompt) = (forecaster.decode(forecast::depth(plan), 1), forecaster.prompt(0, plan.micro_batch));
    (per_second(1, decode.seconds), per_second(plan.micro_batch, prompt.seconds))
}

fn room(plan: &Plan, tier: Tier, bytes: Bytes) -> String {
    let Some((used, ceiling)) = plan.tier(tier).and_then(|tier| Some((tier.bytes(), tier.ceiling?))) else {
        return String::new();
    };
    let over = (used + bytes).saturating_sub(ceiling);
    if over == Bytes::ZERO { String::new() } else { format!("; {over} would have to leave") }
}

/// The plan with these units elsewhere; nothing else moves.
fn with_home(plan: &Plan, inventory: &Inventory, units: &[UnitId], tier: Tier) -> Plan {
    let (before, mut plan) = (&plan.placements, plan.clone());
    let device = match tier {
        Tier::Gpu(number) => Device::Gpu(number),
        Tier::Ram | Tier::Disk => Device::Cpu,
    };
    for unit in units {
        let place = &mut plan.placements[unit.0 as usize];
        (place.home, place.decode, place.prefill) = (tier, device, device);
    }
    let on_gpu = |unit: &UnitId| matches!(before[unit.0 as usize].home, Tier::Gpu(_));
    // Else every block stays whose it is, those too whose weights are copied to a GPU.
    if device != Device::Cpu || units.iter().any(on_gpu) {
        let homes: Vec<Tier> = plan.placements.iter().map(|place| place.home).collect();
        let devices = Devices::of(inventory, &homes);
        (plan.blocks, plan.output) = (devices.layers, devices.output);
    }
    plan
}
