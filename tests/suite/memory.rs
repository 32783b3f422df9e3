//! Promise 1, never over the line: the process's peak resident size stays under the RAM ceiling.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::plimsoll;
use crate::synth;

/// Runs the binary and gives its output with its peak resident size in bytes, as the system counted it.
fn run_measured(arguments: &[&str]) -> (Output, u64) {
    let measure = "import resource, subprocess, sys\n\
                   code = subprocess.run(sys.argv[1:]).returncode\n\
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=sys.stderr)\n\
                   sys.exit(code)";
    let mut command = Command::new("python3");
    command.args(["-c", measure, env!("CARGO_BIN_EXE_plimsoll")]).args(arguments);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let peak = told.trim_end().lines().last().unwrap().parse().unwrap_or_else(|_| panic!("{told}"));
    (output, peak)
}

fn generate(model: &Path, ram: u64) -> (Vec<u64>, u64) {
    let ram = ram.to_string();
    let model = model.to_str().unwrap();
    let common = ["run", "-m", model, "--raw", "--json", "--temp", "0", "-n", "6", "-c", "256", "-p", "hello"];
    let (output, peak) = run_measured(&[&common[..], &["--ram", &ram]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    (json["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect(), peak)
}

#[test]
fn a_1b_model_stays_under_30_50_and_100_percent_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("llama-1b.gguf");
    synth::write(&model, &synth::llama(&synth::LLAMA_1B)).unwrap();
    let size = std::fs::metadata(&model).unwrap().len();
    let mut texts = Vec::new();
    for percent in [30, 50, 100] {
        let ceiling = size * percent / 100;
        let (tokens, peak) = generate(&model, ceiling);
        println!("ceiling {percent} % = {} MB, peak {} MB", ceiling / 1_000_000, peak / 1_000_000);
        assert!(peak <= ceiling, "peak {peak} over the ceiling of {ceiling} ({percent} %)");
        assert_eq!(tokens.len(), 6);
        texts.push(tokens);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
}

#[test]
fn a_ceiling_that_cannot_hold_is_refused_with_its_sum() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("small.gguf");
    let sizes = synth::Sizes { layers: 2, width: 256, inner: 512, heads: 4, kv_heads: 2, vocabulary: 4_000 };
    synth::write(&model, &synth::llama(&sizes)).unwrap();
    let output = plimsoll(&["run", "-m", model.to_str().unwrap(), "--ram", "8MiB", "-p", "hello"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{told}");
    for word in ["KV cache", "vocabulary", "ram", "8.00 MiB", "hint:"] {
        assert!(told.contains(word), "{word} is missing in: {told}");
    }
    assert!(output.stdout.is_empty());
}
