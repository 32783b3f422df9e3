//! Mixtures of experts that a GPU and the processor compute together: experts, routers and networks on either side.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use engine::Engine;
use plan::cost::{self, Widths};
use plan::{Bytes, Fetch, Inventory, Load, Role, Tier, Unit, streaming};

use crate::gpu::{all_logits, engines_agree, gpu, mean_divergence};
use crate::oracle::{MIXTURES, ROUNDING_DIVERGENCE};
use crate::placement::{GPU, random_homes, with_homes};
use crate::support::{ALL_IN_RAM, all_fixtures, json, open, open_plan, own_fixture, planned, profile};

/// Fixtures of the repository besides: a shared expert with a gate of its own, routers of other kinds.
const OWN: [(&str, &str, &str); 3] = [
    ("qwen2_moe", "model-bf16.gguf", "golden.json"),
    ("dots1", "model-bf16.gguf", "golden.json"),
    ("hunyuan_moe", "model-bf16.gguf", "golden.json"),
];

/// Where units live: a name, and the home of each.
type Homes = (&'static str, fn(&Unit, &str) -> Tier);

const EVERYWHERE: [Homes; 9] = [
    ("all on the card", |_, _| GPU),
    ("experts in RAM", |unit, _| if is_expert(unit) { Tier::Ram } else { GPU }),
    ("experts on disk", |unit, _| if is_expert(unit) { Tier::Disk } else { GPU }),
    ("every second expert in RAM", |unit, _| if is_expert(unit) && number(unit) % 2 == 1 { Tier::Ram } else { GPU }),
    ("experts by turns", |unit, _| if is_expert(unit) { [GPU, Tier::Ram, Tier::Disk][number(unit) % 3] } else { GPU }),
    ("experts' last matrices in RAM", |_, name| if name.contains("_down_exps") { Tier::Ram } else { GPU }),
    ("experts' first matrices on disk", |_, name| if name.contains("_gate_exps") { Tier::Disk } else { GPU }),
    ("experts on the card alone", |unit, _| if is_expert(unit) { GPU } else { Tier::Ram }),
    ("networks in RAM", |unit, _| if unit.role == Role::Attention { GPU } else { Tier::Ram }),
];

fn is_expert(unit: &Unit) -> bool {
    unit.role == Role::RoutedExpert
}

fn number(unit: &Unit) -> usize {
    unit.expert.unwrap_or(0) as usize
}

/// The fixtures that are here, with their names.
fn fixtures(test: &str) -> Vec<(String, PathBuf, serde_json::Value)> {
    let Some(folder) = gpu(test).then(|| all_fixtures(test)).flatten() else { return Vec::new() };
    let all = MIXTURES.iter().map(|m| (folder.join(m.0), m)).chain(OWN.iter().map(|m| (own_fixture(m.0), m)));
    let mut found = Vec::new();
    for (folder, (name, file, golden)) in all {
        if folder.join(file).exists() {
            found.push((format!("{name}/{file}"), folder.join(file), json(&folder.join(golden))));
        } else {
            println!("{name}/{file}: not here");
        }
    }
    found
}

/// Homes where each unit of attention that no card computes stays with the processor.
fn homes_of(path: &Path, home: fn(&Unit, &str) -> Tier) -> Vec<Tier> {
    let model = gguf::open(path).unwrap();
    let home = |(_, unit): (_, &Unit)| home(unit, &model.inventory.tensor_of(unit).name);
    possible(&model, model.inventory.iter().map(home).collect())
}

/// The homes, with attention in RAM where no card computes it yet.
fn possible(model: &gguf::Model, mut homes: Vec<Tier>) -> Vec<Tier> {
    let plan = |homes: &[Tier]| with_homes(planned(model, &profile("f32", 8)), &model.inventory, homes);
    if engine::check_plan(model, &plan(&homes)).is_err() {
        for (home, unit) in homes.iter_mut().zip(&model.inventory.units) {
            if unit.role == Role::Attention && *home == GPU {
                *home = Tier::Ram;
            }
        }
    }
    homes
}

fn opened(path: &Path, micro_batch: usize, homes: &[Tier]) -> Engine {
    let model = gguf::open(path).unwrap();
    let plan = with_homes(planned(&model, &profile("f32", micro_batch)), &model.inventory, homes);
    open_plan(&model, plan)
}

fn every_fixture(test: &str, check: impl Fn(&str, &Path, &serde_json::Value)) {
    let mut failed = Vec::new();
    for (name, path, golden) in fixtures(test) {
        let agree = std::panic::AssertUnwindSafe(|| check(&name, &path, &golden));
        if std::panic::catch_unwind(agree).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn experts_live_anywhere() {
    every_fixture("experts_live_anywhere", |name, path, golden| {
        for (what, home) in EVERYWHERE {
            let (homes, what) = (homes_of(path, home), format!("{name}, {what}"));
            if name.contains("mxfp4") {
                // Its golden is of exact arithmetic, and has no word of what rounding costs.
                let mean = mean_divergence(&bits_of(&mut open(path, ALL_IN_RAM)), &bits(path, 8, &homes));
                assert!(mean <= ROUNDING_DIVERGENCE, "{what}: {mean:.1e}");
                continue;
            }
            engines_agree(path, golden, &what, &mut |micro_batch| opened(path, micro_batch, &homes));
        }
    });
}

/// Twenty tokens, so that micro-batches of 8 end with 4, and those of 64 are a list.
fn bits(path: &Path, micro_batch: usize, homes: &[Tier]) -> Vec<Vec<f32>> {
    bits_of(&mut opened(path, micro_batch, homes))
}

fn bits_of(engine: &mut Engine) -> Vec<Vec<f32>> {
    let prompt: Vec<u32> = (0..20).map(|i| 5 + i * 11 % 190).collect();
    all_logits(engine, &prompt, &[5, 6, 7, 8])
}

/// The plan for homes with so many of a token's experts fetched, of which some stay.
fn fetching(path: &Path, micro_batch: usize, homes: &[Tier], (experts, kept): (u32, u32)) -> Engine {
    let model = gguf::open(path).unwrap();
    let inventory = &model.inventory;
    let mut plan = with_homes(planned(&model, &profile("f32", micro_batch)), inventory, homes);
    let of = inventory.shape.experts_used;
    let fetch = Fetch { gpu: 0, experts: experts.min(of), of, kept, slot: streaming::fetch_slot(inventory) };
    plan.fetch = Some(fetch);
    let rooms =
        fetch.slot.times(u64::from(fetch.rooms())) + cost::gpu::fetched(&Widths::of(inventory), u64::from(kept));
    let card = plan.tiers.iter_mut().find(|tier| tier.tier == GPU).unwrap();
    card.loads.push(Load { what: "fetched experts".to_owned(), bytes: rooms });
    open_plan(&model, plan)
}

#[test]
fn fetched_experts_agree_and_disk_changes_no_bit() {
    fetched_from("fetched_experts_agree_and_disk_changes_no_bit", EVERYWHERE[1]);
}

#[test]
fn experts_fetched_from_disk_agree_and_ram_changes_no_bit() {
    fetched_from("experts_fetched_from_disk_agree_and_ram_changes_no_bit", EVERYWHERE[2]);
}

#[test]
fn experts_fetched_beside_a_cards_own_agree_and_disk_changes_no_bit() {
    fetched_from("experts_fetched_beside_a_cards_own_agree_and_disk_changes_no_bit", EVERYWHERE[3]);
}

/// Checks every fixture with such homes, as one, two or all of a token's experts are fetched.
fn fetched_from(test: &str, (what, home): Homes) {
    every_fixture(test, |name, path, golden| {
        let homes = homes_of(path, home);
        let moved: Vec<Tier> = homes.iter().map(|home| moved(*home)).collect();
        let all = |homes: &[Tier], experts| {
            let mut engine = fetching(path, 8, homes, (experts, 0));
            let bits = bits_of(&mut engine);
            (bits, engine.stats(Bytes(0)).links.iter().map(|link| link.bytes).sum::<u64>())
        };
        let (apart, crossed) = all(&homes, 0);
        for experts in [1, 2, 99] {
            let what = format!("{name}, {what}, {experts} fetched");
            if !name.contains("mxfp4") {
                engines_agree(path, golden, &what, &mut |micro_batch| {
                    fetching(path, micro_batch, &homes, (experts, 0))
                });
            }
            let (first, fetched) = all(&homes, experts);
            assert!(mean_divergence(&apart, &first) <= ROUNDING_DIVERGENCE, "{what}");
            assert!(first == all(&homes, experts).0, "{what}: a second run differs");
            assert!(first == all(&moved, experts).0, "{what}: moving experts changed the answer");
            println!("{what}: {fetched} bytes over links, {crossed} without");
            // Experts with biases, or of floats, do not come.
            let comes = ["kq", "mixtral/", "qwen3_moe/"].iter().any(|known| name.contains(known));
            assert!(!name.contains("_moe-kq") || !comes || fetched > crossed, "{what}: nothing came");
        }
    });
}

#[test]
fn experts_that_stay_agree_and_a_conversation_finds_none_of_another() {
    every_fixture("experts_that_stay_agree_and_a_conversation_finds_none_of_another", |name, path, golden| {
        let homes = homes_of(path, EVERYWHERE[1].1);
        let on_disk = homes_of(path, EVERYWHERE[2].1);
        let all = |engine: &mut Engine| {
            let before = engine.stats(Bytes(0)).links.iter().map(|link| link.bytes).sum::<u64>();
            let bits = bits_of(engine);
            (bits, engine.stats(Bytes(0)).links.iter().map(|link| link.bytes).sum::<u64>() - before)
        };
        let layers = gguf::open(path).unwrap().inventory.shape.layers;
        for (experts, each) in [(1, 2), (99, 3)] {
            let (what, kept) = (format!("{name}, {experts} fetched, {each} stay"), each * layers);
            if !name.contains("mxfp4") {
                let open = &mut |micro_batch| fetching(path, micro_batch, &homes, (experts, kept));
                engines_agree(path, golden, &what, open);
            }
            let (_, fetched) = all(&mut fetching(path, 8, &homes, (experts, 0)));
            let mut engine = fetching(path, 8, &homes, (experts, kept));
            let (first, crossed) = all(&mut engine);
            assert!(first == all(&mut engine).0, "{what}: a second conversation differs");
            assert!(
                first == all(&mut fetching(path, 8, &on_disk, (experts, kept))).0,
                "{what}: disk changed the answer"
            );
            println!("{what}: {crossed} bytes over links, {fetched} where none stay");
            let comes = name.contains("_moe-kq");
            assert!(!comes || experts == 1 || crossed < fetched, "{what}: nothing was found");
        }
    });
}

#[test]
fn a_mixture_on_a_card_repeats_itself_and_disk_changes_no_bit() {
    every_fixture("a_mixture_on_a_card_repeats_itself_and_disk_changes_no_bit", |name, path, _| {
        let model = gguf::open(path).unwrap();
        for seed in 0..2 {
            let homes = possible(&model, random_homes(model.inventory.units.len(), seed));
            let moved: Vec<Tier> = homes.iter().map(|home| moved(*home)).collect();
            for micro_batch in [8, 64] {
                let first = bits(path, micro_batch, &homes);
                assert!(first == bits(path, micro_batch, &homes), "{name}, seed {seed}: a second run differs");
                let there = bits(path, micro_batch, &moved);
                assert!(first == there, "{name}, seed {seed}: moving units between RAM and disk changed the answer");
            }
        }
        let whole = homes_of(path, EVERYWHERE[4].1);
        assert!(bits(path, 8, &whole) == bits(path, 8, &whole), "{name}: a second run differs");
        let moved: Vec<Tier> = whole.iter().map(|home| moved(*home)).collect();
        assert!(bits(path, 8, &whole) == bits(path, 8, &moved), "{name}: moving experts changed the answer");
    });
}

fn moved(home: Tier) -> Tier {
    match home {
        Tier::Ram => Tier::Disk,
        Tier::Disk => Tier::Ram,
        Tier::Gpu(_) => home,
    }
}

/// Choices, and experts that were at hand: the same wherever experts live.
fn chosen(inventory: &Inventory, engine: &mut Engine) -> (u64, u64) {
    let mut session = engine.session().unwrap();
    engine.prefill(&mut session, &(3..40).collect::<Vec<u32>>()).unwrap();
    for token in [5, 6, 7] {
        engine.decode(&mut session, token).unwrap();
    }
    let uses = engine.expert_use().layers().map(|(_, counts)| counts.iter().sum::<u64>()).sum();
    let cache = engine.stats(Bytes(0)).expert_cache;
    assert!(inventory.shape.experts > 0);
    (uses, cache.hits + cache.misses)
}

#[test]
fn choices_are_counted_wherever_experts_live_and_a_failed_pass_leaves_nothing() {
    let test = "choices_are_counted_wherever_experts_live_and_a_failed_pass_leaves_nothing";
    let Some(folder) = gpu(test).then(|| all_fixtures(test)).flatten() else { return };
    let path = folder.join("qwen3_moe-kq/model-q4_k_m.gguf");
    let inventory = gguf::open(&path).unwrap().inventory;
    let tokens = 37 + 3;
    for (what, home) in EVERYWHERE {
        let mut engine = opened(&path, 8, &homes_of(&path, home));
        let (uses, computed) = chosen(&inventory, &mut engine);
        let each = u64::from(inventory.shape.layers * inventory.shape.experts_used);
        assert_eq!(uses, tokens * each, "{what}");
        assert!(computed > 0 && computed <= uses, "{what}: {computed} of {uses}");
        // An interrupted pass leaves the card waiting for nothing.
        let mut session = engine.session().unwrap();
        let first = engine.prefill(&mut session, &[9, 8, 7]).unwrap().to_vec();
        let interrupt = engine.interrupt();
        engine.trace_experts(Some(Box::new(move |choice| interrupt.store(choice.layer == 0, Ordering::Relaxed))));
        let interrupted = engine.decode(&mut session, 5).is_err();
        println!("{what}: interrupted: {interrupted}");
        drop(session);
        engine.trace_experts(None);
        engine.interrupt().store(false, Ordering::Relaxed);
        let mut session = engine.session().unwrap();
        assert_eq!(engine.prefill(&mut session, &[9, 8, 7]).unwrap(), first, "{what}");
    }
}
