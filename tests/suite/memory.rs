//! Promise 1, never over the line: the process's peak resident size stays under the RAM ceiling.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{own_fixture, plimsoll};
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

/// Tokens, the process's peak, and bytes that the drive gave for each.
fn generate(model: &Path, ram: u64) -> (Vec<u64>, u64, f64) {
    let ram = ram.to_string();
    let model = model.to_str().unwrap();
    let common = ["run", "-m", model, "--raw", "--json", "--temp", "0", "-n", "6", "-c", "256", "-p", "hello"];
    let (output, peak) = run_measured(&[&common[..], &["--ram", &ram]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens = json["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap());
    (tokens.collect(), peak, disk_bytes(&json["stats"]["tiers"]))
}

/// Bytes that a token reads from disk, of a plan's tiers or of a run's.
fn disk_bytes(tiers: &Value) -> f64 {
    let disk = tiers.as_array().unwrap().iter().find(|tier| tier["name"] == "disk");
    disk.map_or(0.0, |disk| disk["read_bytes_per_token"].as_f64().unwrap())
}

fn planned_disk_bytes(arguments: &[&str]) -> f64 {
    let output = plimsoll(&[&["plan", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    disk_bytes(&serde_json::from_slice::<Value>(&output.stdout).unwrap()["tiers"])
}

/// Within 5 %.
fn as_planned(read: f64, planned: f64) -> bool {
    (read - planned).abs() <= 0.05 * planned
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
        let (tokens, peak, read) = generate(&model, ceiling);
        let planned = planned_disk_bytes(&["-m", model.to_str().unwrap(), "-c", "256", "--ram", &ceiling.to_string()]);
        assert!(as_planned(read, planned) && (percent == 100 || read > 0.0), "{percent} %: {read} for {planned}");
        println!("ceiling {percent} % = {} MB, peak {} MB", ceiling / 1_000_000, peak / 1_000_000);
        assert!(peak <= ceiling, "peak {peak} over the ceiling of {ceiling} ({percent} %)");
        assert_eq!(tokens.len(), 6);
        texts.push(tokens);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
}

#[test]
fn a_token_reads_from_disk_what_the_plan_says() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile.yaml");
    let profile = profile.to_str().unwrap();
    for (model, on_disk) in [
        ("qwen3-kq/model-q4_k_m.gguf", "{ role: dense_ffn, home: disk }"),
        ("qwen3-kq/model-q4_k_m.gguf", "{ layers: 1.., home: disk }"),
        ("gpt_oss/model-mxfp4.gguf", "{ role: routed_expert, home: disk }"),
    ] {
        let tiers = "version: 1\ntiers: { ram: { memory: 1GiB, threads: 2 }, disk: {} }\ncontext: { tokens: 256 }";
        std::fs::write(profile, format!("{tiers}\nplacement:\n  - {on_disk}\n")).unwrap();
        let model = own_fixture(model);
        let common = ["-m", model.to_str().unwrap(), "--profile", profile];
        let run = ["run", "--raw", "--json", "--temp", "0", "-n", "33", "-p", "hello"];
        let output = plimsoll(&[&run[..], &common].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (read, planned) = (disk_bytes(&json["stats"]["tiers"]), planned_disk_bytes(&common));
        assert!(planned > 0.0 && as_planned(read, planned), "{on_disk}: {read} bytes where {planned} were planned");
    }
}

/// What the process held at most, and what the plan had counted.
fn peak_of(tiers: &Value) -> (f64, f64) {
    let ram = tiers.as_array().unwrap().iter().find(|tier| tier["name"] == "ram").unwrap();
    (ram["peak_bytes"].as_f64().unwrap(), ram["planned_bytes"].as_f64().unwrap())
}

#[test]
fn peaks_are_forecast_for_what_each_command_does_with_logits() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("small.gguf");
    // The smallest model that people run, with a vocabulary whose rows of logits are a MiB each.
    let sizes = synth::Sizes { layers: 12, width: 768, inner: 2048, heads: 12, kv_heads: 4, vocabulary: 262_144 };
    synth::write(&model, &synth::llama(&sizes)).unwrap();
    let model = model.to_str().unwrap();
    let long = "hello ".repeat(170);
    let bench = ["bench", "-m", model, "-t", "2", "-p", "512", "-n", "8", "-r", "1", "-o", "json"];
    let run = ["run", "-m", model, "-t", "2", "-c", "640", "--raw", "--json", "--temp", "0.8", "-n", "8", "-p", &long];
    for (command, tiers) in [(&bench[..], "/0/tiers"), (&run[..], "/stats/tiers")] {
        let output = plimsoll(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (peak, planned) = peak_of(json.pointer(tiers).unwrap());
        println!("{}: peak {:.1} of {:.1} MB", command[0], peak / 1e6, planned / 1e6);
        assert!(peak <= planned && peak >= 0.95 * planned, "{}: {peak} of {planned}", command[0]);
    }
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
