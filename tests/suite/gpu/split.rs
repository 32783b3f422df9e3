//! Models that a GPU and the processor compute together: layers, blocks and single matrices on either side.

use std::path::Path;

use engine::Engine;
use plan::{Inventory, Role, Tier, Unit};

use crate::gpu::{all_logits, engines_agree, gpu};
use crate::oracle::DENSE;
use crate::placement::{GPU, random_homes, with_homes};
use crate::support::{all_fixtures, json, open_plan, planned, profile};

/// Dense fixtures with what others lack: fused matrices, biases, tied outputs, norms behind blocks, windows, integers.
const VARIED: [(&str, &str, &str); 6] = [
    ("phi3", "model-bf16.gguf", "golden.json"),
    ("qwen2", "model-f32.gguf", "golden.json"),
    ("llama-rope3-tied", "model-bf16.gguf", "golden.json"),
    ("gemma3", "model-f32.gguf", "golden.json"),
    ("llama-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("qwen3-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
];

fn opened(path: &Path, micro_batch: usize, homes: &[Tier]) -> Engine {
    let model = gguf::open(path).unwrap();
    let plan = with_homes(planned(&model, &profile("f32", micro_batch)), &model.inventory, homes);
    open_plan(&model, plan)
}

/// Layers from `first` on and the output on the GPU, or all others.
fn cut(inventory: &Inventory, first: u32, last_on_gpu: bool) -> Vec<Tier> {
    let is_last = |unit: &Unit| match unit.layer {
        Some(layer) => layer >= first,
        None => unit.role != Role::Embedding || inventory.find("output.weight").is_none(),
    };
    inventory.units.iter().map(|unit| if is_last(unit) == last_on_gpu { GPU } else { Tier::Ram }).collect()
}

#[test]
fn layers_are_cut_anywhere_between_the_processor_and_a_gpu() {
    let test = "layers_are_cut_anywhere_between_the_processor_and_a_gpu";
    let Some(fixtures) = gpu(test).then(|| all_fixtures(test)).flatten() else { return };
    let mut failed = Vec::new();
    for (folder, file, golden) in DENSE {
        let path = fixtures.join(folder).join(file);
        if !path.exists() || file.contains("tq2_0") {
            println!("{folder}/{file}: not here, or not for GPUs");
            continue;
        }
        let golden = json(&fixtures.join(folder).join(golden));
        let inventory = gguf::open(&path).unwrap().inventory;
        for first in 0..=inventory.shape.layers {
            for last_on_gpu in [true, false] {
                let name = format!("{folder}/{file}, cut at {first}, last on gpu: {last_on_gpu}");
                let homes = cut(&inventory, first, last_on_gpu);
                let agree =
                    || engines_agree(&path, &golden, &name, &mut |micro_batch| opened(&path, micro_batch, &homes));
                if std::panic::catch_unwind(agree).is_err() {
                    failed.push(name);
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_unit_lives_anywhere_and_disk_changes_no_bit() {
    let test = "every_unit_lives_anywhere_and_disk_changes_no_bit";
    let Some(fixtures) = gpu(test).then(|| all_fixtures(test)).flatten() else { return };
    let mut failed = Vec::new();
    for seed in 0..20 {
        let (folder, file, golden) = VARIED[seed as usize % VARIED.len()];
        let path = fixtures.join(folder).join(file);
        if !path.exists() {
            println!("{folder}/{file}: not here");
            continue;
        }
        let golden = json(&fixtures.join(folder).join(golden));
        let homes = random_homes(gguf::open(&path).unwrap().inventory.units.len(), seed);
        let name = format!("{folder}/{file}, seed {seed}");
        let agree = || {
            engines_agree(&path, &golden, &name, &mut |micro_batch| opened(&path, micro_batch, &homes));
            let moved = |home: &Tier| match home {
                Tier::Ram => Tier::Disk,
                Tier::Disk => Tier::Ram,
                Tier::Gpu(_) => *home,
            };
            let moved: Vec<Tier> = homes.iter().map(moved).collect();
            let prompt = [5, 3, 17, 250, 17, 99, 200, 8, 41];
            let [here, there] =
                [&homes, &moved].map(|homes| all_logits(&mut opened(&path, 8, homes), &prompt, &[5, 6, 7, 8]));
            assert!(here == there, "{name}: moving units between RAM and disk changed the answer");
        };
        if std::panic::catch_unwind(agree).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_crosses_is_counted() {
    let test = "what_crosses_is_counted";
    let Some(fixtures) = gpu(test).then(|| all_fixtures(test)).flatten() else { return };
    let path = fixtures.join("llama-kq/model-q4_k_m.gguf");
    let inventory = gguf::open(&path).unwrap().inventory;
    let (layers, width) = (inventory.shape.layers, u64::from(inventory.shape.embedding));
    let feed_forward = |unit: &Unit| if unit.role == Role::DenseFfn { GPU } else { Tier::Ram };
    // Up to the last layers and the logits down; or up and down for each network, and everything else stays.
    for (homes, crossings, up, down) in [
        (cut(&inventory, layers / 2, true), 2, width, u64::from(inventory.shape.vocabulary)),
        (
            inventory.units.iter().map(feed_forward).collect(),
            2 * layers,
            width * u64::from(layers),
            width * u64::from(layers),
        ),
    ] {
        let mut engine = opened(&path, 8, &homes);
        let mut session = engine.session().unwrap();
        engine.prefill(&mut session, &[1, 2, 3]).unwrap();
        engine.reset_stats();
        for token in [5, 6, 7] {
            engine.decode(&mut session, token).unwrap();
        }
        let stats = engine.stats(plan::Bytes(0));
        assert!((stats.crossings_per_token - f64::from(crossings)).abs() < 1e-9, "{stats:?}");
        let bytes = |from: &str, to: &str| {
            stats.links.iter().filter(|link| link.from == from && link.to == to).map(|link| link.bytes).sum::<u64>()
        };
        assert_eq!((bytes("ram", "gpu:0"), bytes("gpu:0", "ram")), (3 * 4 * up, 3 * 4 * down), "{stats:?}");
        let tier = |name: &str| stats.tiers.iter().find(|tier| tier.name == name).unwrap();
        for name in ["ram", "gpu:0"] {
            assert!(tier(name).read_bytes_per_token > 0.0 && tier(name).busy_ms_per_token > 0.0, "{stats:?}");
        }
        assert!(tier("gpu:0").peak_bytes <= tier("gpu:0").limit_bytes.unwrap(), "{stats:?}");
        assert!(stats.overlap > 0.0 && stats.overlap < 2.0, "{stats:?}");
    }
}
