//! Goldens of the tokenizers, and vocabularies that must be refused.

use std::path::PathBuf;

use gguf::{Metadata, Strings, Value};
use serde_json::Value as Json;

use super::*;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// A file of the folder that `PLIMSOLL_FIXTURES` names.
fn fixture(path: &str) -> Option<PathBuf> {
    let file = std::env::var_os("PLIMSOLL_FIXTURES").map(|folder| PathBuf::from(folder).join(path));
    let file = file.filter(|file| file.exists());
    if file.is_none() {
        eprintln!("skipped: {path} (PLIMSOLL_FIXTURES does not hold it)");
    }
    file
}

/// A real model's file from the folder that `PLIMSOLL_MODELS` names.
fn model(name: &str) -> Option<Metadata> {
    let file = std::env::var_os("PLIMSOLL_MODELS").map(|folder| PathBuf::from(folder).join(name));
    let Some(file) = file.filter(|file| file.exists()) else {
        eprintln!("skipped: {name} (PLIMSOLL_MODELS does not hold it)");
        return None;
    };
    Some(gguf::open(&file).unwrap().metadata)
}

fn json(path: &PathBuf) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Every case of a golden file: ids three ways, the bytes of each token, and the text back.
fn check_goldens(name: &str, metadata: &Metadata) {
    let Some(path) = fixture(&format!("tokenizers/{name}.json")) else { return };
    let tokenizer = Tokenizer::from_metadata(metadata).unwrap();
    let golden = json(&path);
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 259);
    let mut wrong = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let special = EncodeOptions { add_special: true, parse_special: true };
        for (key, options) in [("ids", PARSED), ("ids_add_special", special), ("ids_no_parse_special", PLAIN)] {
            let found = tokenizer.encode(text, options).unwrap();
            if found != ids(&case[key]) {
                wrong.push(format!("{key} of {text:?}: {found:?}, expected {}", case[key]));
            }
        }
        let hex = |id: &u32| tokenizer.piece(*id).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let pieces: Vec<_> = ids(&case["ids"]).iter().map(hex).collect();
        if Json::from(pieces.clone()) != case["pieces_hex"] {
            wrong.push(format!("pieces of {text:?}: {pieces:?}, expected {}", case["pieces_hex"]));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn small_vocabularies_agree_with_their_goldens() {
    for name in ["llama-bpe", "qwen2", "gpt-4o", "deepseek-v3", "glm4", "smollm", "gpt-2", "spm"] {
        let Some(path) = fixture(&format!("tokenizers/vocab-{name}.gguf")) else { continue };
        check_goldens(&format!("vocab-{name}"), &gguf::open(&path).unwrap().metadata);
    }
}

#[test]
fn smollm2_agrees_with_its_goldens() {
    if let Some(metadata) = model("SmolLM2-135M-Instruct.Q4_1.gguf") {
        check_goldens("smollm2-135m-instruct", &metadata);
    }
}

#[test]
fn gemma3_agrees_with_its_goldens() {
    if let Some(metadata) = model("gemma-3-270m-q4_k_m.gguf") {
        check_goldens("gemma3-270m", &metadata);
    }
}
