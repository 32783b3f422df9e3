//! The engine on two cards, against the references and the processor as on one. Runs where `PLIMSOLL_GPU` is set and two cards are there.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use engine::{Engine, EngineError};
use plan::{Bytes, Device, Plan, Role, Staging, Tier, Unit};

use super::streaming::{MIXED, VARIED, slot};
use crate::gpu::{all_logits, engines_agree, gpu};
use crate::placement::with_homes;
use crate::support::{all_fixtures, json, open_plan, with_gpu};

const FIRST: Tier = Tier::Gpu(0);
const SECOND: Tier = Tier::Gpu(1);

/// Where a unit of a layer lives, of a model with so many layers.
type Home = fn(&Unit, layer: u32, layers: u32) -> Tier;

/// Opens a model: the type of its cache, tokens of a micro-batch, homes.
type Way = fn(&Path, &str, usize, Home) -> Engine;

/// Dense layers.
const DENSE: [(&str, Home); 6] = [
    ("halves", |_, layer, layers| half(layer, layers)),
    ("halves the other way", |_, layer, layers| if half(layer, layers) == FIRST { SECOND } else { FIRST }),
    ("every second layer", |_, layer, _| Tier::Gpu(layer % 2)),
    ("attention and networks", |unit, _, _| if unit.role == Role::Attention { FIRST } else { SECOND }),
    ("RAM and disk between", |_, layer, _| [FIRST, Tier::Ram, SECOND, Tier::Disk][layer as usize % 4]),
    (
        "networks in RAM",
        |unit, layer, layers| if unit.role == Role::DenseFfn { Tier::Ram } else { half(layer, layers) },
    ),
];

/// Layers with experts.
const MIXTURES: [(&str, Home); 4] = [
    ("halves", |_, layer, layers| half(layer, layers)),
    ("experts in RAM", |unit, layer, layers| if is_expert(unit) { Tier::Ram } else { half(layer, layers) }),
    ("experts by turns", |unit, layer, layers| match unit.expert {
        Some(expert) => [half(layer, layers), Tier::Ram, Tier::Disk][expert as usize % 3],
        None => half(layer, layers),
    }),
    ("attention and networks", |unit, _, _| if unit.role == Role::Attention { FIRST } else { SECOND }),
];

fn half(layer: u32, layers: u32) -> Tier {
    if 2 * layer < layers { FIRST } else { SECOND }
}

fn is_expert(unit: &Unit) -> bool {
    unit.role == Role::RoutedExpert
}

/// Whether there are two cards to test, or a word that the test is skipped.
fn two(test: &str) -> Option<PathBuf> {
    if !gpu(test) {
        return None;
    }
    match kernels::cuda::count() {
        Ok(2..) => all_fixtures(test),
        found => {
            eprintln!("skipped: {test}, since it needs two cards, and the driver shows {found:?}");
            None
        }
    }
}

fn homes(model: &gguf::Model, home: Home) -> Vec<Tier> {
    let layers = model.inventory.shape.layers;
    let home = |unit: &Unit| match unit.layer {
        Some(layer) => home(unit, layer, layers),
        None if unit.role == Role::Embedding && !model.inventory.tied_output() => Tier::Ram,
        None => SECOND,
    };
    model.inventory.units.iter().map(home).collect()
}

/// A plan that opens both cards, with these homes.
fn planned(model: &gguf::Model, kv_type: &str, micro_batch: usize, homes: &[Tier]) -> Plan {
    let text = format!(
        "version: 1\ntiers:\n  gpu:0: {{ memory: 6GiB }}\n  gpu:1: {{ memory: 6GiB }}\n  ram: {{ memory: 8GiB, threads: 2 }}\n  disk: {{}}\n\
         context: {{ tokens: 256, kv_type: {kv_type} }}\n\
         placement: [{{ role: attention, layers: 0, home: gpu:0 }}, {{ role: attention, layers: 1, home: gpu:1 }}]\n\
         prefill: {{ micro_batch: {micro_batch}, stream_to: none }}\ndecode: {{ fetch_experts: 0, stream_layers: 0 }}\n"
    );
    let mut machine = with_gpu();
    machine.gpus.push(machine.gpus[0].clone());
    let profile = plan::profile::parse(&text, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
    let plan = plan::plan(&profile, &model.inventory, &machine).unwrap_or_else(|e| panic!("{e}"));
    assert!([FIRST, SECOND].iter().all(|card| plan.tier(*card).is_some()), "both cards are open");
    with_homes(plan, &model.inventory, homes)
}

fn opened(path: &Path, kv_type: &str, micro_batch: usize, home: Home) -> Engine {
    let model = gguf::open(path).unwrap();
    let plan = planned(&model, kv_type, micro_batch, &homes(&model, home));
    open_plan(&model, plan)
}

/// The same with a ring on each card: prompts come to the card of their block, and those of the processor's to that of its half.
fn streaming(path: &Path, kv_type: &str, micro_batch: usize, home: Home, slots: u32) -> Engine {
    let model = gguf::open(path).unwrap();
    let mut plan = planned(&model, kv_type, micro_batch, &homes(&model, home));
    let staging = Staging { slot: slot(&model.inventory, 0), slots };
    plan.device_staging = vec![(0, staging), (1, staging)];
    plan.stream_from = Some(2);
    for (placement, unit) in plan.placements.iter_mut().zip(&model.inventory.units) {
        let Some(layer) = unit.layer else { continue };
        let devices = plan.blocks[layer as usize];
        let device = if unit.role == Role::Attention { devices.attention } else { devices.ffn };
        let beside = Device::Gpu(u32::from(half(layer, model.inventory.shape.layers) == SECOND));
        placement.prefill = if device == Device::Cpu { beside } else { device };
    }
    open_plan(&model, plan)
}

/// Runs `check` with every fixture of a list in every placement of another.
fn each(
    test: &str,
    fixtures: &[(&str, &str, &str)],
    placements: &[(&str, Home)],
    check: impl Fn(&str, &Path, &serde_json::Value, Home),
) {
    let Some(folder) = two(test) else { return };
    let mut failed = Vec::new();
    for (name, file, golden) in fixtures {
        let path = folder.join(name).join(file);
        if !path.exists() {
            println!("{name}/{file}: not here");
            continue;
        }
        let golden = json(&folder.join(name).join(golden));
        for (what, home) in placements {
            let name = format!("{name}/{file}, {what}");
            let check = std::panic::AssertUnwindSafe(|| check(&name, &path, &golden, *home));
            if std::panic::catch_unwind(check).is_err() {
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn dense_fixtures_agree_on_two_cards() {
    each("dense_fixtures_agree_on_two_cards", &VARIED, &DENSE, |name, path, golden, home| {
        engines_agree(path, golden, name, &mut |micro_batch| opened(path, "f32", micro_batch, home));
    });
}

#[test]
fn mixtures_agree_on_two_cards() {
    each("mixtures_agree_on_two_cards", &MIXED, &MIXTURES, |name, path, golden, home| {
        engines_agree(path, golden, name, &mut |micro_batch| opened(path, "f32", micro_batch, home));
    });
}

#[test]
fn dense_prompts_that_are_streamed_to_two_cards_agree() {
    each("dense_prompts_that_are_streamed_to_two_cards_agree", &VARIED, &DENSE[4..], |name, path, golden, home| {
        engines_agree(path, golden, name, &mut |micro_batch| streaming(path, "f32", micro_batch, home, 2));
    });
}

#[test]
fn prompts_of_mixtures_that_are_streamed_to_two_cards_agree() {
    let test = "prompts_of_mixtures_that_are_streamed_to_two_cards_agree";
    each(test, &MIXED, &MIXTURES[1..3], |name, path, golden, home| {
        engines_agree(path, golden, name, &mut |micro_batch| streaming(path, "f32", micro_batch, home, 3));
    });
}

fn prompt() -> Vec<u32> {
    (0..100).map(|i| 3 + i * 7 % 190).collect()
}

#[test]
fn a_run_on_two_cards_repeats_itself_and_both_are_counted() {
    let test = "a_run_on_two_cards_repeats_itself_and_both_are_counted";
    each(test, &[VARIED[3]], &DENSE, |name, path, _, home| repeats(name, path, home));
    each(test, &[MIXED[1], MIXED[5]], &MIXTURES, |name, path, _, home| repeats(name, path, home));
}

fn repeats(name: &str, path: &Path, home: Home) {
    let ways: [Way; 2] = [opened, |path, kv_type, micro_batch, home| streaming(path, kv_type, micro_batch, home, 2)];
    for make in ways {
        let mut engine = make(path, "f16", 64, home);
        let first = all_logits(&mut engine, &prompt(), &[5, 6, 7]);
        assert!(all_logits(&mut engine, &prompt(), &[5, 6, 7]) == first, "{name}: the same again");
        assert!(all_logits(&mut make(path, "f16", 64, home), &prompt(), &[5, 6, 7]) == first, "{name}: another engine");
        // What is kept of a conversation lies on both.
        let mut session = engine.session().unwrap();
        engine.prefill(&mut session, &prompt()).unwrap();
        let next = engine.decode(&mut session, 5).unwrap().to_vec();
        session.truncate(prompt().len());
        assert!(engine.decode(&mut session, 5).unwrap() == next, "{name}: back by one token");
        let stats = engine.stats(Bytes(0));
        for card in ["gpu:0", "gpu:1"] {
            let tier = stats.tiers.iter().find(|tier| tier.name == card).unwrap();
            assert!(tier.read_bytes_per_token > 0.0 && tier.busy_ms_per_token > 0.0, "{name}: {tier:?}");
            assert!(tier.peak_bytes > 0 && tier.peak_bytes <= tier.limit_bytes.unwrap(), "{name}: {tier:?}");
            let crosses = |from: &str, to: &str| stats.links.iter().any(|link| link.from == from && link.to == to);
            assert!(crosses("ram", card) && crosses(card, "ram"), "{name}: {:?}", stats.links);
        }
    }
}

#[test]
fn a_pass_that_ends_early_leaves_nothing_on_either_card() {
    let test = "a_pass_that_ends_early_leaves_nothing_on_either_card";
    each(test, &[MIXED[1]], &MIXTURES, |name, path, _, home| {
        let layers = gguf::open(path).unwrap().inventory.shape.layers as usize;
        let mut engine = opened(path, "f32", 8, home);
        let first = all_logits(&mut engine, &[9, 8, 7], &[5, 6]);
        // On the first card, on its last layer before the other, and on the other.
        for last in [0, layers / 2 - 1, layers / 2, layers - 2] {
            let mut session = engine.session().unwrap();
            engine.prefill(&mut session, &[9, 8, 7]).unwrap();
            let interrupt = engine.interrupt();
            engine.trace_experts(Some(Box::new(move |choice| {
                interrupt.fetch_or(choice.layer == last, Ordering::Relaxed);
            })));
            match engine.decode(&mut session, 5) {
                // Choices that nobody waits for are told when their card is left.
                Ok(_) | Err(EngineError::Interrupted) => {}
                Err(error) => panic!("{name}: {error}"),
            }
            engine.trace_experts(None);
            engine.interrupt().store(false, Ordering::Relaxed);
            drop(session);
            assert!(all_logits(&mut engine, &[9, 8, 7], &[5, 6]) == first, "{name}, interrupted in layer {last}");
        }
    });
}

/// Needs no card: plans are judged before one is opened.
#[test]
fn any_card_may_have_any_layer_and_no_two_share_a_block() {
    let path = crate::support::own_fixture("qwen3-kq").join("model-q4_k_m.gguf");
    let model = gguf::open(&path).unwrap();
    for (what, home) in DENSE {
        let plan = planned(&model, "f16", 8, &homes(&model, home));
        engine::check_plan(&model, &plan).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let mut plan = planned(&model, "f16", 8, &homes(&model, DENSE[0].1));
    let unit = model.inventory.find("blk.0.ffn_up.weight").unwrap();
    plan.placements[unit.0 as usize].home = SECOND;
    let error = engine::check_plan(&model, &plan).unwrap_err();
    assert!(matches!(error, EngineError::NotOnGpu { tier: FIRST, .. }), "{error}");
    assert!(error.to_string().contains("blk.0.ffn_up.weight lives in gpu:1"), "{error}");
}
