//! Perplexity of real models beside llama.cpp's figure on the same text.

use crate::support::{GEMMA3, SMOLLM2, all_fixtures, json, plimsoll, real_model};

/// How far a figure may be off, relatively.
const TOLERANCE: f64 = 0.005;
const CHUNKS: usize = 4;

#[test]
fn smollm2_is_as_perplexed_as_in_llama_cpp() {
    agree("smollm2_is_as_perplexed_as_in_llama_cpp", SMOLLM2, "smollm2-512");
}

#[test]
fn gemma3_is_as_perplexed_as_in_llama_cpp() {
    agree("gemma3_is_as_perplexed_as_in_llama_cpp", GEMMA3, "gemma3-270m-512");
}

fn agree(test: &str, file: &str, key: &str) {
    let (Some(fixtures), Some(model)) = (all_fixtures(test), real_model(file, test)) else { return };
    let references = json(&fixtures.join("text/perplexity-chunks.json"));
    let reference = references[key]["running_ppl"][CHUNKS - 1].as_f64().unwrap();
    let text = fixtures.join("text/alice.txt");
    let output = plimsoll(&[
        "perplexity",
        "-m",
        model.to_str().unwrap(),
        "-f",
        text.to_str().unwrap(),
        "-c",
        "512",
        "--chunks",
        &CHUNKS.to_string(),
        "--json",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let perplexity = found["perplexity"].as_f64().unwrap();
    println!("{file}: {perplexity:.4} over {CHUNKS} chunks, llama.cpp {reference:.4}");
    assert!((perplexity / reference - 1.0).abs() <= TOLERANCE, "{perplexity} against {reference}");
    assert_eq!(found["chunks"], CHUNKS);
}
