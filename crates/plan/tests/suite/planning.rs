//! What the planner decides, over recorded inventories: rules, order, settings, refusals.

use std::collections::{BTreeMap, BTreeSet};

use plan::profile::parse;
use plan::{Bytes, Device, Inventory, Machine, Plan, Profile, Refusal, Role, Tier, Unit, plan, plan_for};

use crate::common;

/// The plan of this profile, which must be possible.
fn planned(model: &Inventory, text: &str, machine: &Machine) -> Plan {
    let profile = parse(text, "p.yaml").unwrap_or_else(|error| panic!("{error}"));
    plan(&profile, model, machine).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn refused(model: &Inventory, text: &str, machine: &Machine) -> String {
    let profile = parse(text, "p.yaml").unwrap_or_else(|error| panic!("{error}"));
    plan(&profile, model, machine).unwrap_err().to_string()
}

fn smollm2() -> Inventory {
    common::inventory("smollm2-135m-q4_1")
}

/// The homes of the units that meet a condition.
fn homes(plan: &Plan, model: &Inventory, condition: impl Fn(&Unit) -> bool) -> Vec<Tier> {
    let units = model.iter().filter(|(_, unit)| condition(unit));
    units.map(|(id, _)| plan.home(id)).collect()
}

#[test]
fn attention_goes_to_ram_before_layers_and_what_is_left_on_disk_is_spread() {
    let model = smollm2();
    let plan = planned(&model, "version: 1\ntiers: { ram: { memory: 90MiB }, disk: {} }\n", &common::laptop());
    let home_of = |role: Role, layer: u32| homes(&plan, &model, |unit| unit.role == role && unit.layer == Some(layer));
    assert!(home_of(Role::Norm, 29).iter().all(|home| *home == Tier::Ram));
    assert!(home_of(Role::Attention, 29).iter().all(|home| *home == Tier::Ram));
    let on_disk = |layers: std::ops::Range<u32>| {
        layers.flat_map(|layer| home_of(Role::DenseFfn, layer)).filter(|home| *home == Tier::Disk).count()
    };
    let all = on_disk(0..30);
    assert!(all > 20, "{all} of 90 matrices");
    for first in (0..30).step_by(10) {
        assert!(on_disk(first..first + 10).abs_diff(all / 3) <= 3, "layers from {first} of {all}");
    }
}

#[test]
fn experts_come_after_everything_that_each_token_reads() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let plan = planned(
        &model,
        "version: 1\ntiers: { ram: { memory: 24GiB }, disk: {} }\ncontext: { tokens: 2048 }\n",
        &common::desktop(Bytes(64 << 30)),
    );
    let read_by_all = |unit: &Unit| !matches!(unit.role, Role::RoutedExpert | Role::Embedding);
    assert!(homes(&plan, &model, read_by_all).iter().all(|home| *home == Tier::Ram));
    let experts = homes(&plan, &model, |unit| unit.role == Role::RoutedExpert);
    assert!(experts.contains(&Tier::Ram) && experts.contains(&Tier::Disk));
    // A matrix of an expert lives where its other two live, but for the one expert at the border.
    let mut homes_of: BTreeMap<(Option<u32>, u32), BTreeSet<Tier>> = BTreeMap::new();
    for (id, unit) in model.iter() {
        if let Some(expert) = unit.expert {
            homes_of.entry((unit.layer, expert)).or_default().insert(plan.home(id));
        }
    }
    assert!(homes_of.values().filter(|homes| homes.len() > 1).count() <= 1);
}

#[test]
fn the_first_rule_that_matches_has_the_unit() {
    let model = smollm2();
    let text = "version: 1\ntiers: { ram: { memory: 1GiB }, disk: {} }\nplacement:\n\
                - { tensors: 'blk\\.3\\.ffn_up', home: ram }\n\
                - { role: dense_ffn, layers: '3, 7..=8', home: disk }\n";
    let plan = planned(&model, text, &common::laptop());
    let reason = |name: &str| {
        let placement = &plan.placements[model.find(name).unwrap().0 as usize];
        (placement.home, placement.reason.to_string())
    };
    assert_eq!(reason("blk.3.ffn_up.weight"), (Tier::Ram, "rule in line 4".to_owned()));
    assert_eq!(reason("blk.3.ffn_down.weight"), (Tier::Disk, "rule in line 5".to_owned()));
    assert_eq!(reason("blk.8.ffn_up.weight"), (Tier::Disk, "rule in line 5".to_owned()));
    assert_eq!(reason("blk.9.ffn_up.weight").0, Tier::Ram);
}

#[test]
fn what_no_longer_fits_overflows() {
    let model = smollm2();
    let text = |mib: u64| {
        format!(
            "version: 1\ntiers: {{ ram: {{ memory: {mib}MiB }}, disk: {{}} }}\ncontext: {{ tokens: 512 }}\nplacement:\n\
             - {{ role: dense_ffn, home: ram, overflow: disk }}\n- {{ role: embedding, home: ram }}\n"
        )
    };
    // The ceiling under which this happens depends on what the process takes; that there is one does not.
    let plans = (60..300).step_by(5).filter_map(|mib| {
        let profile = parse(&text(mib), "p.yaml").unwrap();
        plan(&profile, &model, &common::laptop()).ok()
    });
    let torn = plans.filter(|plan| {
        let layers = homes(plan, &model, |unit| unit.role == Role::DenseFfn);
        layers.contains(&Tier::Ram) && layers.contains(&Tier::Disk)
    });
    let torn: Vec<Plan> = torn.collect();
    assert!(!torn.is_empty());
    for plan in torn {
        let full = plan.placements.iter().find(|placement| placement.home == Tier::Disk).unwrap();
        assert_eq!(full.reason, "rule in line 5: ram is full");
    }
}

#[test]
fn a_table_on_disk_needs_no_ring_unless_it_makes_the_logits() {
    let text =
        "version: 1\ntiers: { ram: { memory: 48GiB }, disk: {} }\nplacement: [{ role: embedding, home: disk }]\n";
    let machine = common::desktop(Bytes(64 << 30));
    let own_output = planned(&common::inventory("llama-70b-q4_k_m"), text, &machine);
    assert_eq!(own_output.staging.slots, 0);
    let tied = planned(&smollm2(), text, &machine);
    assert!(tied.staging.slots > 0);
}

#[test]
fn vectors_may_live_on_disk_too() {
    let model = smollm2();
    let text = "version: 1\ntiers: { ram: { memory: 1GiB }, disk: {} }\nplacement: [{ role: norm, home: disk }]\n";
    let plan = planned(&model, text, &common::laptop());
    assert!(homes(&plan, &model, |unit| unit.role == Role::Norm).iter().all(|home| *home == Tier::Disk));
    assert!(plan.staging.slots > 0);
}

#[test]
fn tight_ceilings_lower_what_nobody_asked_for_and_say_so() {
    let model = smollm2();
    let roomy = planned(&model, "version: 1\ntiers: { ram: { memory: 2GiB } }\n", &common::laptop());
    assert_eq!((roomy.kv.tokens, roomy.micro_batch, roomy.staging.slots), (4096, 512, 0));
    let larger = common::inventory("llama-1b-q4_k_m");
    let tight = planned(&larger, "version: 1\ntiers: { ram: { memory: 256MiB }, disk: {} }\n", &common::laptop());
    assert!(tight.kv.tokens < 4096 && tight.micro_batch < 512 && tight.staging.slots > 0);
    assert!(tight.notes.iter().any(|note| note.starts_with("micro-batch ")), "{:?}", tight.notes);
    assert!(tight.notes.iter().any(|note| note.starts_with("context of ")), "{:?}", tight.notes);
    let asked = "version: 1\ntiers: { ram: { memory: 90MiB }, disk: {} }\n\
                 context: { tokens: 1500 }\nprefill: { micro_batch: 200 }\n";
    let kept = planned(&model, asked, &common::laptop());
    assert_eq!((kept.kv.tokens, kept.micro_batch), (1500, 200));
}

#[test]
fn a_machine_with_less_than_allowed_is_planned_for_what_it_has() {
    let model = smollm2();
    let mut machine = common::laptop();
    (machine.ram_total, machine.ram_available) = (Bytes(120 << 20), Bytes(100 << 20));
    let plan = planned(&model, "version: 1\ntiers: { ram: { memory: 8GiB }, disk: {} }\n", &machine);
    assert_eq!(plan.tier(Tier::Ram).unwrap().ceiling, Some(Bytes(120 << 20)));
    assert!(plan.notes.iter().any(|note| note.contains("the machine has 120.00 MiB")), "{:?}", plan.notes);
    assert!(plan.notes.iter().any(|note| note.contains("free now")), "{:?}", plan.notes);
}

#[test]
fn the_automatic_profile_uses_all_that_a_desktop_has() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let machine = common::desktop(Bytes(64 << 30));
    let plan = plan_for(&Profile::automatic(&machine), &model, &machine, None, &common::ALL).unwrap();
    for tier in [Tier::Gpu(0), Tier::Ram, Tier::Disk] {
        assert!(plan.tier(tier).unwrap().bytes() > Bytes::ZERO, "{tier}");
    }
    assert!(plan.kv.homes.iter().all(|home| *home == Tier::Gpu(0)), "{:?}", plan.kv);
    // Experts in RAM are computed there for one token, and on the GPU for many.
    let expert = model.iter().position(|(id, unit)| unit.role == Role::RoutedExpert && plan.home(id) == Tier::Ram);
    let placement = &plan.placements[expert.unwrap()];
    assert_eq!((placement.decode, placement.prefill), (Device::Cpu, Device::Gpu(0)));
}

#[test]
fn old_gpus_are_left_out_by_name_or_refused() {
    let mut machine = common::desktop(Bytes(64 << 30));
    machine.gpus[0].capability = (7, 5);
    let profile = Profile::automatic(&machine);
    assert!(profile.tier(Tier::Gpu(0)).is_none());
    assert!(profile.notes[0].contains("sm_75 is older than sm_80"), "{:?}", profile.notes);
    let text = "version: 1\ntiers: { ram: { memory: 8GiB }, gpu:0: { memory: 8GiB } }\n";
    let message = refused(&smollm2(), text, &machine);
    assert!(message.contains("sm_75: too old"), "{message}");
}

#[test]
fn layers_that_predict_further_tokens_stay_in_the_file() {
    let mut model = smollm2();
    // As if the last layer were one of them.
    model.shape.layers = 29;
    model.shape.kv_per_token.pop();
    for unit in model.units.iter_mut().filter(|unit| unit.layer == Some(29)) {
        unit.role = Role::MultiToken;
    }
    let plan = planned(&model, "version: 1\ntiers: { ram: { memory: 1GiB } }\n", &common::laptop());
    assert!(homes(&plan, &model, |unit| unit.role == Role::MultiToken).iter().all(|home| *home == Tier::Disk));
    assert_eq!(plan.staging.slots, 0);
    let reason = &plan.placements[model.find("blk.29.attn_q.weight").unwrap().0 as usize].reason;
    assert_eq!(reason, "not run: stays in the file");
    assert_eq!(plan.notes, Vec::<String>::new());
}

#[test]
fn the_ceiling_that_a_refusal_names_is_enough() {
    let model = smollm2();
    for (ram, rest) in
        [(60, ""), (90, "context: { tokens: 8192 }"), (30, "placement: [{ role: dense_ffn, home: ram }]")]
    {
        let disk = if rest.is_empty() { "" } else { ", disk: {}" };
        let text = |mib: u64| format!("version: 1\ntiers: {{ ram: {{ memory: {mib}MiB }}{disk} }}\n{rest}\n");
        let profile = parse(&text(ram), "p.yaml").unwrap();
        let Err(Refusal::DoesNotFit(refusal)) = plan(&profile, &model, &common::laptop()) else {
            panic!("{} was planned", text(ram));
        };
        planned(&model, &text(refusal.needed().0.div_ceil(1 << 20)), &common::laptop());
    }
}

#[test]
fn refusals_read_well() {
    let model = smollm2();
    let laptop = common::laptop();
    let tiers =
        |ram: &str, rest: &str| format!("version: 1\ntiers: {{ ram: {{ memory: {ram} }}, disk: {{}} }}\n{rest}\n");
    let mut text = String::new();
    for (profile, model) in [
        ("version: 1\ntiers: { ram: { memory: 60MiB } }\n".to_owned(), &model),
        (tiers("90MiB", "context: { tokens: 8192 }"), &model),
        (tiers("70MiB", "placement: [{ role: dense_ffn, home: ram }]"), &model),
        (tiers("30MiB", "context: { tokens: 1024 }\nprefill: { micro_batch: 512 }"), &model),
        (tiers("1MiB", ""), &model),
        (tiers("75MiB", "context: { tokens: 6000 }\nprefill: { micro_batch: 600 }"), &model),
        ("version: 1\ntiers: { ram: { memory: 64GiB } }\n".to_owned(), &common::inventory("llama-70b-q4_k_m")),
    ] {
        text = format!("{text}{profile}---\n{}\n\n\n", refused(model, &profile, &laptop));
    }
    insta::assert_snapshot!("refusals", text);
}
