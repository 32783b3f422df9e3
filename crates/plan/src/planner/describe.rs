//! From the draft that was chosen to the plan: devices, reasons, loads, notes.

use std::borrow::Cow;

use super::Planner;
use super::draft::Draft;
use super::rules::Wish;
use super::settings::{Setup, within};
use crate::blocks::Devices;
use crate::cost::HostTokens;
use crate::expert_cache::{HitRates, KeptRates, Policy};
use crate::profile::{Choice, StreamTo};
use crate::traffic::Traffic;
use crate::{Bytes, Device, Fetch, Placement, Plan, Role, Tier, TierPlan, Unit, cost, forecast};

pub(super) fn finish(planner: &Planner, draft: Draft, mut notes: Vec<String>) -> Plan {
    let placements = placements(planner, &draft);
    let Draft { setup, homes, devices, loads, .. } = draft;
    let exchange = planner.exchange();
    let hits = HitRates::new(planner.inventory, &placements, exchange, planner.traffic.counted());
    let fetch = setup.fetch.map(|gpu| Fetch {
        gpu,
        experts: planner.fetch_most(),
        of: planner.inventory.shape.experts_used.max(1),
        kept: planner.keeps(),
        slot: planner.on_card.fetch_slot,
    });
    let kept = KeptRates::new(planner.inventory, (&placements, &devices.layers), fetch, planner.traffic.counted());
    let mut read = vec![0.0; planner.limits.len()];
    for (unit, home) in planner.inventory.units.iter().zip(&homes) {
        let (bytes, from_disk) = (planner.traffic.read_per_token(unit), hits.share_on_disk(unit, *home));
        let near = if *home == Tier::Disk { Tier::Ram } else { *home };
        let (gpu, there) = (fetch.map_or(near, |fetch| Tier::Gpu(fetch.gpu)), kept.share(unit, *home));
        let away = 1.0 - there;
        for (tier, share) in [(Tier::Disk, from_disk * away), (near, (1.0 - from_disk) * away), (gpu, there)] {
            if let Some(place) = planner.limits.iter().position(|limit| limit.tier == tier) {
                read[place] += bytes * share;
            }
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
        .filter(|tier| tier.tier == Tier::Ram || tier.bytes() > Bytes::ZERO)
        .collect();
    say_settings(planner, &setup, &mut notes);
    say_gpus(planner, &devices, &mut notes);
    let ring = planner.stream_ring();
    let mut device_staging: Vec<_> = setup.stream.iter().map(|number| (*number, ring)).collect();
    device_staging.sort_unstable_by_key(|(number, _)| *number);
    let foresee = planner.foresees(&placements);
    let mut plan = Plan {
        tiers,
        placements,
        blocks: devices.layers,
        output: devices.output,
        kv: setup.kv,
        staging: setup.staging,
        disk_reads: planner.machine.disk_reads,
        device_staging,
        stream_from: None,
        cpu_experts: 0,
        fetch,
        foresee,
        exchange,
        micro_batch: setup.micro_batch,
        logits: planner.profile.logits,
        threads: planner.threads,
        scheme: planner.way.scheme,
        forecast: forecast::NONE,
        notes,
    };
    let asked = (&planner.profile.prefill, &planner.profile.decode);
    forecast::fill(&mut plan, planner.inventory, planner.machine, planner.traffic, asked);
    leave_out_unused(planner, &mut plan);
    say_memory(planner, &plan.tiers, &mut plan.notes);
    plan.notes.extend(forecast::forecast_notes(&plan, planner.machine));
    plan
}

/// Counts the processor's rooms for as many tokens as it computes, now that devices and streaming are known.
fn leave_out_unused(planner: &Planner, plan: &mut Plan) {
    let gpus = plan.tiers.iter().filter(|tier| matches!(tier.tier, Tier::Gpu(_))).count();
    let tokens = HostTokens::of(plan, planner.inventory);
    let bytes = planner.activations(tokens, plan.kv.tokens, gpus as u64);
    let ram = plan.tiers.iter_mut().filter(|tier| tier.tier == Tier::Ram).flat_map(|tier| &mut tier.loads);
    ram.filter(|load| load.what == "activations").for_each(|load| load.bytes = bytes);
}

/// Each unit's home with the devices that compute with it. A matrix that lives outside the memory of its block's GPU is the processor's in
/// decode, and may be streamed for prompts.
fn placements(planner: &Planner, draft: &Draft) -> Vec<Placement> {
    let rings = draft.rings_of_layers();
    let placement = |(index, home): (usize, &Tier)| {
        let decode = match home {
            Tier::Gpu(number) => Device::Gpu(*number),
            Tier::Ram | Tier::Disk => Device::Cpu,
        };
        let unit = &planner.inventory.units[index];
        let prefill = planner.stream_of(&rings, index, *home).map_or(decode, Device::Gpu);
        // A bias is one row, read by itself; what a GPU computes with, or is handed, is where the plan says.
        let open = unit.role == Role::RoutedExpert && unit.rows > 1 && planner.wishes.wish[index] == Wish::Open;
        let exchanges = open && planner.gpus().is_empty() && planner.exchange() != Policy::Fixed;
        Placement { home: *home, decode, prefill, exchanges, reason: reason(planner, index, *home) }
    };
    draft.homes.iter().enumerate().map(placement).collect()
}

/// Notes about GPUs that do less than they might.
fn say_gpus(planner: &Planner, devices: &Devices, notes: &mut Vec<String>) {
    let gpus = planner.limits.iter().filter_map(|limit| match limit.tier {
        Tier::Gpu(number) => Some(number),
        Tier::Ram | Tier::Disk => None,
    });
    let idle: Vec<u32> = gpus.clone().filter(|number| !devices.uses(*number)).collect();
    let used = gpus.clone().count() - idle.len();
    for number in idle {
        if planner.way.fixed.alone.is_some() {
            notes.push(format!("gpu:{number} is not used: fewer GPUs are as fast by the forecast"));
        } else if used >= planner.abilities.gpus {
            notes.push(format!("gpu:{number} is not used: this version computes on {used} of several GPUs"));
        } else {
            notes.push(format!("gpu:{number} is not used: nothing that it could compute fits, or is left to it"));
        }
    }
    if gpus.count() > 0 {
        notes.extend(
            planner
                .cards
                .kept_off()
                .into_iter()
                .map(|(obstacle, blocks)| format!("{blocks} on the CPU: no GPU computes {obstacle} yet")),
        );
    }
    if let (Choice::Asked(asked), false) = (&planner.profile.prefill.stream_to, planner.abilities.streams)
        && asked.value != StreamTo::Nowhere
    {
        let origin = &asked.origin;
        notes.push(format!("{origin}: prompts are computed where weights live: this version streams none"));
    }
}

/// Notes about every setting that differs from what was asked or from the usual.
fn say_settings(planner: &Planner, setup: &Setup, notes: &mut Vec<String>) {
    let (profile, shape) = (planner.profile, &planner.inventory.shape);
    let tokens = setup.kv.tokens;
    let usual =
        if planner.stream_wished().is_empty() { cost::MICRO_BATCHES[0] } else { cost::MICRO_BATCHES_STREAMED[0] };
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
    if profile.context.types_open && setup.kv.k_type != profile.context.k_type {
        let (kept, usual) = (setup.kv.k_type.name(), profile.context.k_type.name());
        notes.push(format!(
            "keys and values in {kept} instead of {usual}: the ceiling leaves more to weights and context"
        ));
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
fn reason(planner: &Planner, index: usize, home: Tier) -> Cow<'static, str> {
    let unit = &planner.inventory.units[index];
    match planner.wishes.wish[index] {
        Wish::NotRun => "not run: stays in the file".into(),
        Wish::Open => open_reason(unit, home, planner.traffic).into(),
        Wish::Pinned(_) | Wish::InTurn => asked(planner, index).into(),
        Wish::Either(first, _) if first == home => asked(planner, index).into(),
        Wish::Either(first, _) => match planner.obstacle(index).filter(|_| matches!(first, Tier::Gpu(_))) {
            Some(obstacle) => format!("{}: no {obstacle} there yet", asked(planner, index)).into(),
            None => format!("{}: {first} is full", asked(planner, index)).into(),
        },
    }
}

fn asked(planner: &Planner, index: usize) -> String {
    match planner.wishes.rule[index] {
        Some(rule) => planner.profile.rules[rule as usize].origin.short(),
        None if planner.profile.default.value().is_none() => "beside the KV cache, as asked".to_owned(),
        None => "default of the profile".to_owned(),
    }
}

fn open_reason(unit: &Unit, home: Tier, traffic: Traffic<'_>) -> &'static str {
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
}
