//! The profiles in `configs/`, each planned against the recorded header of the model that it is for.

#![allow(clippy::disallowed_methods, reason = "tests read files and clocks; the crate does not")]

use std::collections::BTreeSet;
use std::time::Duration;

use plan::profile::{parse, to_yaml};
use plan::{Bytes, Machine, Plan, Role, Tier, plan_for, report};
use rustix::time::{ClockId, clock_gettime};

use crate::common;

/// (profile, recorded model, RAM of the machine in GiB or none for the laptop without a GPU)
const CASES: [(&str, &str, Option<u64>); 8] = [
    ("quickstart", "smollm2-135m-q4_1", None),
    ("cpu-only", "smollm2-135m-q4_1", None),
    ("cpu-only", "llama-1b-q4_k_m", None),
    ("cpu-2gib", "llama-1b-q4_k_m", None),
    ("cpu-2gib", "llama-70b-q4_k_m", None),
    ("rtx3060-12g-70b", "llama-70b-q4_k_m", Some(64)),
    ("rtx3060-12g-671b", "deepseek-r1-iq1_s", Some(64)),
    ("rtx3060-12g-671b", "deepseek-r1-q4_k_m", Some(64)),
];

fn folder() -> String {
    format!("{}/../../configs", env!("CARGO_MANIFEST_DIR"))
}

fn machine(ram: Option<u64>) -> Machine {
    ram.map_or_else(common::laptop, |gib| common::desktop(Bytes(gib << 30)))
}

fn planned(config: &str, model: &str, ram: Option<u64>) -> (Plan, plan::Inventory) {
    let text = std::fs::read_to_string(format!("{}/{config}.yaml", folder())).unwrap();
    let profile = parse(&text, &format!("configs/{config}.yaml")).unwrap_or_else(|error| panic!("{error}"));
    let inventory = common::inventory(model);
    let plan = plan_for(&profile, &inventory, &machine(ram), None, &common::ALL);
    let plan = plan.unwrap_or_else(|refusal| panic!("{refusal}"));
    (plan, inventory)
}

#[test]
fn every_profile_is_in_the_table() {
    let listed: BTreeSet<String> = CASES.iter().map(|(config, ..)| format!("{config}.yaml")).collect();
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> = entries.filter(|name| name.to_ascii_lowercase().ends_with(".yaml")).collect();
    assert_eq!(listed, found);
}

#[test]
fn every_profile_plans_its_model_as_recorded() {
    for (config, model, ram) in CASES {
        let (plan, inventory) = planned(config, model, ram);
        let text = report::text(&plan, &inventory);
        for line in text.lines() {
            assert!(line.chars().count() <= report::COLUMNS, "{line}");
        }
        insta::assert_snapshot!(format!("{config}__{model}"), text);
    }
}

#[test]
fn every_plan_written_down_gives_itself_again() {
    for (config, model, ram) in CASES {
        let (first, inventory) = planned(config, model, ram);
        let text = to_yaml(&first, &inventory);
        assert!(text.lines().count() < 40, "{text}");
        let profile = parse(&text, "written.yaml").unwrap_or_else(|error| panic!("{text}\n{error}"));
        let again = plan_for(&profile, &inventory, &machine(ram), None, &common::ALL);
        let again = again.unwrap_or_else(|refusal| panic!("{text}\n{refusal}"));
        let homes = |plan: &Plan| plan.placements.iter().map(|placement| placement.home).collect::<Vec<Tier>>();
        assert_eq!(homes(&first), homes(&again), "{text}");
        assert_eq!((first.tiers, first.kv, first.staging), (again.tiers, again.kv, again.staging), "{text}");
        assert_eq!(
            (first.micro_batch, first.threads, first.forecast),
            (again.micro_batch, again.threads, again.forecast)
        );
    }
}

#[test]
fn the_written_profile_is_readable() {
    let (plan, inventory) = planned("rtx3060-12g-671b", "deepseek-r1-iq1_s", Some(64));
    insta::assert_snapshot!("written", to_yaml(&plan, &inventory));
}

#[test]
fn a_tensor_is_explained() {
    let (plan, inventory) = planned("rtx3060-12g-671b", "deepseek-r1-iq1_s", Some(64));
    let torn = inventory.iter().filter(|(_, unit)| unit.role == Role::RoutedExpert);
    let torn = torn.map(|(id, unit)| (plan.home(id), unit)).collect::<Vec<_>>();
    let border = torn.windows(2).find(|pair| pair[0].1.tensor == pair[1].1.tensor && pair[0].0 != pair[1].0);
    let name = &inventory.tensor_of(border.expect("a tensor whose experts are torn")[0].1).name;
    let mut text = report::explain(&plan, &inventory, name).unwrap();
    text.push_str(&report::explain(&plan, &inventory, "token_embd.weight").unwrap());
    for unknown in ["blk.3.ffn_dwn_exps.weight", "shexp", "nothing like it", ""] {
        text = format!("{text}\n{}\n", report::explain(&plan, &inventory, unknown).unwrap_err());
    }
    insta::assert_snapshot!("explained", text);
}

#[test]
fn a_model_of_45_000_units_is_planned_at_once() {
    // This thread's own time: what others take of the processor meanwhile is not the planner's.
    let own = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time");
    let start = own();
    let (plan, inventory) = planned("rtx3060-12g-671b", "deepseek-r1-iq1_s", Some(64));
    assert!(inventory.units.len() > 45_000);
    assert_eq!(plan.placements.len(), inventory.units.len());
    let elapsed = own().saturating_sub(start);
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}
