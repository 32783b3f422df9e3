//! The engine against independent implementations: logits, greedy text, logits after decoding.

use std::path::{Path, PathBuf};

use engine::Engine;
use serde_json::Value;

use crate::support::{ALL_IN_RAM, all_fixtures, floats, ids, json, open, own_fixture};

/// Largest difference of a logit, by the fixtures' README.
pub(crate) const TOLERANCE: f32 = 5e-4;
/// The same where the reference is llama.cpp's and the model uses GELU, which llama.cpp looks up in a table of halves.
const TOLERANCE_GELU_TABLE: f32 = 8e-3;

/// What rounding columns to 8 bits may cost beside twice what it costs llama.cpp: chance decides both.
pub(crate) const ROUNDING_DIVERGENCE: f64 = 2e-3;

/// Every dense fixture: folder, model file, golden file.
pub(crate) const DENSE: &[(&str, &str, &str)] = &[
    ("llama", "model-f32.gguf", "golden.json"),
    ("llama", "model-bf16.gguf", "golden.json"),
    ("llama", "model-f16.gguf", "golden.json"),
    ("llama-rope3-tied", "model-bf16.gguf", "golden.json"),
    ("mistral-spm", "model-bf16.gguf", "golden.json"),
    ("qwen2", "model-f32.gguf", "golden.json"),
    ("qwen3", "model-f32.gguf", "golden.json"),
    ("qwen3-yarn-tied", "model-bf16.gguf", "golden.json"),
    ("gemma3", "model-f32.gguf", "golden.json"),
    ("phi3", "model-bf16.gguf", "golden.json"),
    ("seed_oss", "model-bf16.gguf", "golden.json"),
    ("gemma3-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("qwen3-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("llama-kq", "model-iq3_s.gguf", "golden-iq3_s.json"),
    ("llama-kq", "model-iq4_nl.gguf", "golden-iq4_nl.json"),
    ("llama-kq", "model-iq4_xs.gguf", "golden-iq4_xs.json"),
    ("llama-kq", "model-q2_k.gguf", "golden-q2_k.json"),
    ("llama-kq", "model-q3_k_m.gguf", "golden-q3_k_m.json"),
    ("llama-kq", "model-q4_0.gguf", "golden-q4_0.json"),
    ("llama-kq", "model-q4_1.gguf", "golden-q4_1.json"),
    ("llama-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("llama-kq", "model-q5_0.gguf", "golden-q5_0.json"),
    ("llama-kq", "model-q5_1.gguf", "golden-q5_1.json"),
    ("llama-kq", "model-q5_k_m.gguf", "golden-q5_k_m.json"),
    ("llama-kq", "model-q6_k.gguf", "golden-q6_k.json"),
    ("llama-kq", "model-q8_0.gguf", "golden-q8_0.json"),
    ("llama-kq", "model-tq2_0.gguf", "golden-tq2_0.json"),
];

/// Every fixture of a mixture of experts.
pub(crate) const MIXTURES: &[(&str, &str, &str)] = &[
    ("mixtral", "model-f32.gguf", "golden.json"),
    ("mixtral-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("qwen3_moe", "model-f32.gguf", "golden.json"),
    ("qwen3_moe-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("qwen3_moe-kq", "model-q8_0.gguf", "golden-q8_0.json"),
    ("deepseek_v2-lite", "model-bf16.gguf", "golden.json"),
    ("deepseek_v3", "model-f32.gguf", "golden.json"),
    ("deepseek_v3-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("deepseek_v3-kq", "model-q8_0.gguf", "golden-q8_0.json"),
    ("deepseek_v32", "model-bf16.gguf", "golden.json"),
    ("glm4_moe", "model-f32.gguf", "golden.json"),
    ("glm4_moe-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("gpt_oss", "model-f32.gguf", "golden.json"),
    ("gpt_oss", "model-mxfp4.gguf", "golden.json"),
    ("gpt_oss-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("minimax_m2", "model-bf16.gguf", "golden.json"),
    ("ernie4_5_moe", "model-bf16.gguf", "golden.json"),
    ("llama4", "model-bf16.gguf", "golden.json"),
];

/// Every fixture whose layers keep states.
const STATES: &[(&str, &str, &str)] = &[
    ("qwen3_next", "model-bf16.gguf", "golden.json"),
    ("qwen3_5_moe", "model-bf16.gguf", "golden.json"),
    ("kimi_linear", "model-bf16.gguf", "golden.json"),
];

/// The fixtures of the repository, always tested.
const OWN: &[(&str, &str, &str)] = &[
    ("llama-rope3-tied", "model-bf16.gguf", "golden.json"),
    ("qwen3-yarn-tied", "model-bf16.gguf", "golden.json"),
    ("phi3", "model-bf16.gguf", "golden.json"),
    ("qwen3-kq", "model-q4_k_m.gguf", "golden-q4_k_m.json"),
    ("deepseek_v2-lite", "model-bf16.gguf", "golden.json"),
    ("deepseek_v2", "model-bf16.gguf", "golden.json"),
    ("deepseek_v2", "model-combined-bf16.gguf", "golden.json"),
    ("ernie4_5_moe", "model-bf16.gguf", "golden.json"),
    ("minimax_m2", "model-bf16.gguf", "golden.json"),
    ("gpt_oss", "model-mxfp4.gguf", "golden.json"),
    ("qwen2_moe", "model-bf16.gguf", "golden.json"),
    ("dots1", "model-bf16.gguf", "golden.json"),
    ("hunyuan_moe", "model-bf16.gguf", "golden.json"),
    ("glm_dsa", "model-bf16.gguf", "golden.json"),
    ("qwen3_next", "model-bf16.gguf", "golden.json"),
    ("kimi_linear", "model-bf16.gguf", "golden.json"),
    ("qwen3_5", "model-bf16.gguf", "golden.json"),
];

#[test]
fn own_fixtures_agree() {
    every(OWN, own_fixture);
}

#[test]
fn every_dense_fixture_agrees() {
    let Some(fixtures) = all_fixtures("every_dense_fixture_agrees") else { return };
    every(DENSE, |folder| fixtures.join(folder));
}

#[test]
fn every_mixture_fixture_agrees() {
    let Some(fixtures) = all_fixtures("every_mixture_fixture_agrees") else { return };
    every(MIXTURES, |folder| fixtures.join(folder));
}

#[test]
fn every_fixture_with_states_agrees() {
    let Some(fixtures) = all_fixtures("every_fixture_with_states_agrees") else { return };
    every(STATES, |folder| fixtures.join(folder));
}

/// All of a table, so that one failure does not hide another.
fn every(table: &[(&str, &str, &str)], place: impl Fn(&str) -> PathBuf) {
    let fails = |(folder, model, golden): &&(&str, &str, &str)| {
        let folder = place(folder);
        std::panic::catch_unwind(|| agree(&folder, model, golden)).is_err()
    };
    let failed: Vec<String> =
        table.iter().filter(fails).map(|(folder, model, _)| format!("{folder}/{model}")).collect();
    assert!(failed.is_empty(), "{} of {} differ: {}", failed.len(), table.len(), failed.join(", "));
}

fn agree(folder: &Path, model: &str, golden: &str) {
    let name = format!("{}/{model}", folder.file_name().unwrap().to_string_lossy());
    let golden = json(&folder.join(golden));
    let mut engine = open(&folder.join(model), ALL_IN_RAM);
    let table = name.starts_with("gemma3") && golden["prompts"][0]["exact"].is_object();
    let tolerance = if table { TOLERANCE_GELU_TABLE } else { TOLERANCE };
    let mut worst = 0f32;
    let prompts = golden["prompts"].as_array().unwrap();
    if prompts[0]["exact"].is_object() {
        rounding_costs_no_more_than_llama_cpps(&mut engine, prompts, &name);
    }
    // What rounds nothing agrees to the last digits.
    engine.compute_exactly(true);
    for prompt in prompts {
        // A quantized file has two references.
        let reference = if prompt["exact"].is_object() { &prompt["exact"] } else { prompt };
        let what = format!("{name} {}", prompt["name"]);
        worst = worst.max(prompt_agrees(&mut engine, reference, tolerance, &what));
        worst = worst.max(continuation_agrees(&mut engine, reference, tolerance, &what));
    }
    println!("{name}: largest difference {worst:.1e}");
}

/// How far logits move from the exact ones where columns are rounded to 8 bits, beside how far llama.cpp's do: the mean
/// Kullback-Leibler divergence over all logits that the goldens hold, after prompts and after continuations.
pub(crate) fn rounding_costs_no_more_than_llama_cpps(engine: &mut Engine, prompts: &[Value], what: &str) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let (exact, peer) = (&prompt["exact"], &prompt["llamacpp"]);
        let mut session = engine.session().unwrap();
        let mut logits = engine.prefill(&mut session, &ids(&exact["tokens"])).unwrap().to_vec();
        let mut compare = |key: &str, logits: &[f32]| {
            let reference = floats(&exact[key]);
            ours.push(divergence(&reference, logits));
            theirs.push(divergence(&reference, &floats(&peer[key])));
        };
        compare("last_logits", &logits);
        for token in ids(&exact["continuation"]) {
            logits = engine.decode(&mut session, token).unwrap().to_vec();
        }
        compare("final_logits", &logits);
    }
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    let (ours, theirs) = (mean(&ours), mean(&theirs));
    println!("{what}: divergence by rounding {ours:.1e}, llama.cpp's {theirs:.1e}");
    assert!(ours <= 2.0 * theirs + ROUNDING_DIVERGENCE, "{what}: {ours:.1e}, llama.cpp's {theirs:.1e}");
}

/// Σ p ln(p / q) of the distributions that logits stand for.
pub(crate) fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let normed = |logits: &[f32]| {
        let top = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
        let sum: f64 = logits.iter().map(|x| (f64::from(*x) - top).exp()).sum();
        logits.iter().map(|x| f64::from(*x) - top - sum.ln()).collect::<Vec<f64>>()
    };
    normed(p).iter().zip(normed(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The ten best logits at every position, all logits at the last.
pub(crate) fn prompt_agrees(engine: &mut Engine, golden: &Value, tolerance: f32, what: &str) -> f32 {
    let tokens = ids(&golden["tokens"]);
    let mut worst = 0f32;
    let mut session = engine.session().unwrap();
    engine
        .every_logit(&mut session, &tokens, &mut |position, logits| {
            let best = ids(&golden["top10_ids"][position]);
            let expected = floats(&golden["top10_logits"][position]);
            let found: Vec<f32> = best.iter().map(|id| logits[*id as usize]).collect();
            let difference = largest_difference(&found, &expected);
            assert!(difference <= tolerance, "{what} position {position}: off by {difference}");
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            assert!(top - found[0] <= tolerance, "{what} position {position}: another token is likelier");
            worst = worst.max(difference);
            if position + 1 == tokens.len() {
                let difference = largest_difference(logits, &floats(&golden["last_logits"]));
                assert!(difference <= tolerance, "{what} last position: off by {difference}");
                worst = worst.max(difference);
            }
        })
        .unwrap();
    worst
}

/// The greedy text (where a step is decided by more than the tolerance), and all logits after it by way of the cache.
fn continuation_agrees(engine: &mut Engine, golden: &Value, tolerance: f32, what: &str) -> f32 {
    let forced = golden["continuation"].is_array();
    let continuation = ids(if forced { &golden["continuation"] } else { &golden["greedy"] });
    let decided = forced || golden["greedy_min_margin"].as_f64().unwrap() as f32 > 2.0 * tolerance;
    let mut session = engine.session().unwrap();
    let mut logits = engine.prefill(&mut session, &ids(&golden["tokens"])).unwrap().to_vec();
    for (step, token) in continuation.iter().enumerate() {
        if decided && !forced {
            assert_eq!(argmax(&logits), *token, "{what} greedy step {step}");
        }
        logits = engine.decode(&mut session, *token).unwrap().to_vec();
        if forced && step + 1 < continuation.len() {
            let expected = golden["continuation_argmax"][step + 1].as_u64().unwrap() as usize;
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            assert!(top - logits[expected] <= 2.0 * tolerance, "{what} forced step {step}");
        }
    }
    let difference = largest_difference(&logits, &floats(&golden["final_logits"]));
    assert!(difference <= tolerance, "{what} after decoding: off by {difference}");
    difference
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.unwrap().0
}

pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}
