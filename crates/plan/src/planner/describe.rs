//! From the draft that was chosen to the plan: devices, reasons, loads, notes.

use super::rules::Wish;
use super::settings::within;
use super::{Draft, Planner};
use crate::profile::Choice;
use crate::traffic::Traffic;
use crate::{Bytes, Device, Inventory, LayerDevices, Placement, Plan, Role, Tier, TierPlan, Unit, cost, forecast};

pub(super) fn finish(planner: &Planner, draft: Draft, mut notes: Vec<String>) -> Plan {
    let Draft { setup, homes, loads, .. } = draft;
    let placements: Vec<Placement> = homes
        .iter()
        .enumerate()
        .map(|(index, home)| {
            let decode = match home {
                Tier::Gpu(number) => Device::Gpu(*number),
                Tier::Ram | Tier::Disk => Device::Cpu,
            };
            let prefill = match setup.stream {
                Some(number) if planner.is_streamed(index, *home) => Device::Gpu(number),
                _ => decode,
            };
            Placement { home: *home, decode, prefill, reason: reason(planner, index, *home) }
        })
        .collect();
    let mut read = vec![0.0; planner.limits.len()];
    for (unit, home) in planner.inventory.units.iter().zip(&homes) {
        if let Some(place) = planner.limits.iter().position(|limit| limit.tier == *home) {
            read[place] += planner.traffic.read_per_token(unit);
        }
    }
    let tiers: Vec<TierPlan> = planner
        .limits
        .iter()
        .zip(loads)
        .zip(read)
        .map(|((limit, loads), read)| TierPlan {
            tier: limit.tier,
            ceiling: limit.ceiling,
            loads,
            read_per_token: Bytes(read as u64),
        })
        .filter(|tier| tier.tier != Tier::Disk || tier.bytes() > Bytes::ZERO)
        .collect();
    say_settings(planner, &setup, &mut notes);
    say_memory(planner, &tiers, &mut notes);
    let (blocks, output) = devices(planner.inventory, &homes);
    let mut plan = Plan {
        tiers,
        placements,
        blocks,
        output,
        kv: setup.kv,
        staging: setup.staging,
        device_staging: Vec::new(),
        stream_from: None,
        micro_batch: setup.micro_batch,
        threads: planner.threads,
        forecast: forecast::NONE,
        notes,
    };
    let (forecast, estimates) = forecast::forecast(&plan, planner.inventory, planner.machine, planner.traffic);
    plan.forecast = forecast;
    plan.notes.extend(estimates);
    plan
}

/// What computes each block in decode: the GPU on which one of its matrices lives, else the CPU.
fn devices(inventory: &Inventory, homes: &[Tier]) -> (Vec<LayerDevices>, Device) {
    let cpu = LayerDevices { attention: Device::Cpu, ffn: Device::Cpu };
    let (mut blocks, mut output) = (vec![cpu; inventory.shape.layers as usize], Device::Cpu);
    let tied = inventory.tied_output();
    for (unit, home) in inventory.units.iter().zip(homes) {
        let Tier::Gpu(number) = home else { continue };
        if inventory.is_vector(unit) {
            continue;
        }
        let block = unit.layer.and_then(|layer| blocks.get_mut(layer as usize));
        match (unit.role, block) {
            (Role::Output, _) => output = Device::Gpu(*number),
            (Role::Embedding, _) if tied => output = Device::Gpu(*number),
            (Role::Attention, Some(block)) => block.attention = Device::Gpu(*number),
            (Role::DenseFfn | Role::SharedExpert | Role::RoutedExpert | Role::Router, Some(block)) => {
                block.ffn = Device::Gpu(*number);
            }
            _ => {}
        }
    }
    (blocks, output)
}

/// Notes about every setting that differs from what was asked or from the usual.
fn say_settings(planner: &Planner, setup: &super::Setup, notes: &mut Vec<String>) {
    let (profile, shape) = (planner.profile, &planner.inventory.shape);
    let tokens = setup.kv.tokens;
    let usual =
        if planner.stream_wished().is_some() { cost::MICRO_BATCHES_STREAMED[0] } else { cost::MICRO_BATCHES[0] };
    let (batch, usual) = (setup.micro_batch, within(usual, tokens));
    match &profile.prefill.micro_batch {
        Choice::Auto if batch < usual => {
            notes.push(format!("micro-batch {batch} instead of {usual}: the ceiling leaves more to weights"));
        }
        Choice::Asked(asked) if batch < asked.value => {
            let (origin, asked) = (&asked.origin, asked.value);
            notes.push(format!("{origin}: micro-batch {batch} instead of {asked}: the context holds no more tokens"));
        }
        _ => {}
    }
    match profile.context.tokens.value() {
        None if tokens < cost::CONTEXTS[0].min(shape.context_train) => {
            let usual = cost::CONTEXTS[0].min(shape.context_train);
            notes.push(format!("context of {tokens} tokens instead of {usual}: the ceiling leaves more to weights"));
        }
        Some(_) if tokens > shape.context_train => {
            let trained = shape.context_train;
            notes.push(format!("context of {tokens} tokens, and the model was trained for only {trained}"));
        }
        _ => {}
    }
    if let (Some(gpu), None, Tier::Ram) =
        (planner.first_gpu(), profile.context.kv_home.value(), setup.kv.homes.first().copied().unwrap_or(Tier::Ram))
    {
        notes.push(format!("the KV cache of {} is in ram: it would take more than half of gpu:{gpu}", setup.kv.bytes));
    }
    if planner.threads > planner.machine.cores {
        notes.push(format!("{} threads on {} cores", planner.threads, planner.machine.cores));
    }
}

/// Notes about memory that the plan takes and the machine does not have free now.
fn say_memory(planner: &Planner, tiers: &[TierPlan], notes: &mut Vec<String>) {
    for tier in tiers {
        let free = match tier.tier {
            Tier::Ram => planner.machine.ram_available,
            Tier::Gpu(number) => match planner.machine.gpus.get(number as usize) {
                Some(gpu) => gpu.memory_free,
                None => continue,
            },
            Tier::Disk => continue,
        };
        let needed = tier.bytes();
        if needed > free {
            notes.push(format!("{}: {needed} planned, and only {free} are free now: close other programs", tier.tier));
        }
    }
}

/// Why a unit lives where it lives.
fn reason(planner: &Planner, index: usize, home: Tier) -> String {
    let unit = &planner.inventory.units[index];
    match planner.wishes.wish[index] {
        Wish::NotRun => "not run: stays in the file".to_owned(),
        Wish::Open => open_reason(unit, home, planner.traffic),
        Wish::Pinned(_) => asked(planner, index),
        Wish::Either(first, _) if first == home => asked(planner, index),
        Wish::Either(first, _) => format!("{}: {first} is full", asked(planner, index)),
    }
}

fn asked(planner: &Planner, index: usize) -> String {
    match planner.wishes.rule[index] {
        Some(rule) => planner.profile.rules[rule as usize].origin.short(),
        None => "default of the profile".to_owned(),
    }
}

fn open_reason(unit: &Unit, home: Tier, traffic: Traffic<'_>) -> String {
    let rows_only = unit.role == Role::Embedding && !traffic.tied();
    let counted = traffic.counted().is_some();
    match (home, unit.role) {
        (Tier::Disk, _) if rows_only => "only single rows are read",
        (_, _) if rows_only => "only single rows are read; room left",
        (Tier::Disk, Role::RoutedExpert) if counted => "fewer uses counted; the rest is full",
        (Tier::Disk, Role::RoutedExpert) => "few tokens read it; the rest is full",
        (Tier::Disk, _) => "nearer tiers are full",
        (_, Role::RoutedExpert) if unit.rows == 1 => "small, and read by itself",
        (_, Role::RoutedExpert) if counted => "most uses counted; room left",
        (_, Role::RoutedExpert) => "room left after the rest",
        (_, Role::Norm | Role::Router) => "small, and every token reads it",
        (_, Role::Attention) => "every token reads it, beside the KV",
        _ => "every token reads it",
    }
    .to_owned()
}
