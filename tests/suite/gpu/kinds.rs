//! Kinds of attention that only mixtures have, on a GPU, while the processor computes everything else.

use std::path::Path;

use engine::Engine;
use plan::{Inventory, Role, Tier, Unit};

use crate::gpu::{all_logits, engines_agree, gpu, mean_divergence};
use crate::oracle::{ROUNDING_DIVERGENCE, rounding_costs_no_more_than_llama_cpps};
use crate::placement::{GPU, with_homes};
use crate::support::{ALL_IN_RAM, all_fixtures, json, open, open_plan, planned, profile};

/// Latents with matrices by head apart and combined, in floats and quantized; norms over all heads; gated heads, and latents, beside
/// delta nets that no card computes.
const KINDS: [(&str, &str, &str); 11] = [
    ("deepseek_v2-lite", "model-bf16.gguf", "golden.json"),
    ("deepseek_v2", "model-bf16.gguf", "golden.json"),
    ("deepseek_v2", "model-combined-bf16.gguf", "golden.json"),
    ("deepseek_v3", "model-f32.gguf", "golden.json"),
    ("deepseek_v3-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("deepseek_v3-kq", "model-q8_0.gguf", "golden-q8_0.json"),
    ("minimax_m2", "model-bf16.gguf", "golden.json"),
    ("qwen3_next", "model-bf16.gguf", "golden.json"),
    ("qwen3_5", "model-bf16.gguf", "golden.json"),
    ("qwen3_5_moe", "model-bf16.gguf", "golden.json"),
    ("kimi_linear", "model-bf16.gguf", "golden.json"),
];

/// Attention on the GPU in all layers that keep something for each token, and nothing else there.
fn homes(inventory: &Inventory) -> Vec<Tier> {
    let is_delta = |layer: u32| inventory.shape.delta.as_ref().is_some_and(|delta| delta.layers[layer as usize]);
    let home = |unit: &Unit| match (unit.role, unit.layer) {
        (Role::Attention, Some(layer)) if !is_delta(layer) => GPU,
        _ => Tier::Ram,
    };
    inventory.units.iter().map(home).collect()
}

fn opened(path: &Path, kv_type: &str, micro_batch: usize) -> Engine {
    let model = gguf::open(path).unwrap();
    let plan = planned(&model, &profile(kv_type, micro_batch));
    open_plan(&model, with_homes(plan, &model.inventory, &homes(&model.inventory)))
}

#[test]
fn every_kind_of_attention_agrees_on_a_gpu() {
    let test = "every_kind_of_attention_agrees_on_a_gpu";
    let Some(fixtures) = gpu(test).then(|| all_fixtures(test)).flatten() else { return };
    let mut failed = Vec::new();
    for (folder, file, golden) in KINDS {
        let path = fixtures.join(folder).join(file);
        if !path.exists() {
            println!("{folder}/{file}: not here");
            continue;
        }
        let golden = json(&fixtures.join(folder).join(golden));
        let name = format!("{folder}/{file}");
        let agree = || {
            if golden["prompts"][0]["exact"].is_object() {
                // Rounding flips an expert now and then, which moves all logits: what counts is how far they are from the exact ones.
                for micro_batch in [8, 64] {
                    let prompts = golden["prompts"].as_array().unwrap();
                    let mut engine = opened(&path, "f32", micro_batch);
                    rounding_costs_no_more_than_llama_cpps(&mut engine, prompts, &name);
                }
            } else {
                engines_agree(&path, &golden, &name, &mut |micro_batch| opened(&path, "f32", micro_batch));
            }
        };
        if std::panic::catch_unwind(agree).is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn latents_of_every_type_agree_on_a_gpu_and_repeat() {
    let test = "latents_of_every_type_agree_on_a_gpu_and_repeat";
    let Some(fixtures) = gpu(test).then(|| all_fixtures(test)).flatten() else { return };
    let prompt: Vec<u32> = (0..100).map(|i| 3 + i * 7 % 200).collect();
    for (folder, file) in [("deepseek_v3", "model-f32.gguf"), ("deepseek_v2", "model-combined-bf16.gguf")] {
        let path = fixtures.join(folder).join(file);
        if !path.exists() {
            println!("{folder}/{file}: not here");
            continue;
        }
        for kv_type in ["f32", "f16", "q8_0"] {
            let reference = all_logits(&mut open(&path, &ALL_IN_RAM.replace("f32", kv_type)), &prompt, &[5, 6, 7]);
            for micro_batch in [1, 3, 9, 64] {
                let mut engine = opened(&path, kv_type, micro_batch);
                let found = all_logits(&mut engine, &prompt, &[5, 6, 7]);
                let mean = mean_divergence(&reference, &found);
                println!("{folder}/{file} {kv_type}, micro-batch {micro_batch}: mean divergence {mean:.1e}");
                assert!(mean <= ROUNDING_DIVERGENCE, "{folder}/{file} {kv_type}, {micro_batch}: {mean:.1e}");
                assert!(found == all_logits(&mut engine, &prompt, &[5, 6, 7]), "{folder}/{file}: a run repeats");
            }
        }
    }
}
