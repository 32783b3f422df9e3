//! Forecasts that runs prove wrong are told, kept, and corrected by `plan --calibrate`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{json, plimsoll_with};
use crate::synth;

/// How much faster the processor is made to look than it was measured.
const BOAST: f64 = 3.0;

/// The binary with a cache of its own; what it said on both streams.
fn told(cache: &Path, arguments: &[&str]) -> (String, String) {
    let output = plimsoll_with(&[("XDG_CACHE_HOME", cache.to_str().unwrap())], arguments);
    let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{arguments:?}: {error}");
    (out, error)
}

/// Forecast over measured tokens per second of a prompt and of decode, and the two forecasts.
fn bench(cache: &Path, model: &str) -> [(f64, f64); 2] {
    let (out, _) = told(cache, &["bench", "-m", model, "-p", "64", "-n", "24", "-r", "3", "-o", "json"]);
    let rows: Value = serde_json::from_str(&out).unwrap();
    [0, 1].map(|row| {
        let of = |key: &str| rows[row][key].as_f64().unwrap();
        (of("forecast_ts") / of("avg_ts"), of("forecast_ts"))
    })
}

/// The file of measured rates.
fn rates(cache: &Path) -> PathBuf {
    let files = std::fs::read_dir(cache.join("plimsoll")).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "json")).expect("a file of rates")
}

#[test]
fn recorded_runs_correct_the_next_forecast() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let model = folder.path().join("small.gguf");
    let sizes = synth::Sizes { layers: 4, width: 1024, inner: 4096, heads: 16, kv_heads: 4, vocabulary: 8_000 };
    synth::write(&model, &synth::llama(&sizes)).unwrap();
    let model = model.to_str().unwrap();
    told(&cache, &["probe", "--force", "--json", "-m", model]);

    // Nothing has run: there is nothing to calibrate by.
    let nothing = plimsoll_with(&[("XDG_CACHE_HOME", cache.to_str().unwrap())], &["plan", "-m", model, "--calibrate"]);
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(nothing.status.code() == Some(2) && said.contains("no recorded runs"), "{said}");

    let file = rates(&cache);
    let mut boast = json(&file);
    let faster = |rate: &mut Value| *rate = Value::from(rate.as_f64().unwrap() * BOAST);
    for product in boast["processor"]["products"].as_object_mut().unwrap().values_mut() {
        product["bytes_per_s"].as_array_mut().unwrap().iter_mut().for_each(faster);
        for rate in ["one_thread", "short", "at_hand"] {
            faster(&mut product[rate]);
        }
    }
    std::fs::write(&file, boast.to_string()).unwrap();

    let wrong = bench(&cache, model);
    let (_, notes) =
        told(&cache, &["run", "-m", model, "--raw", "-n", "16", "--temp", "0", "-p", &"hello ".repeat(40)]);
    assert!(notes.contains("longer than forecast") && notes.contains("plan --calibrate"), "{notes}");
    let (_, corrected) = told(&cache, &["plan", "-m", model, "--calibrate"]);
    assert!(corrected.contains("phases of runs: the CPU takes"), "{corrected}");
    let right = bench(&cache, model);
    for (phase, (wrong, right)) in ["prompt", "decode"].into_iter().zip(wrong.into_iter().zip(right)) {
        println!("{phase}: forecast over measured {:.2}, then {:.2}", wrong.0, right.0);
        assert!(wrong.0 > 1.4, "{phase}: the boast is not seen: {wrong:?}");
        // Beside the run that it was corrected by, since the machine may be another one by now.
        let off = (right.1 / wrong.1 * wrong.0).ln().abs();
        assert!(off < 0.5 * wrong.0.ln(), "{phase}: {off} of {}", wrong.0.ln());
    }

    // A damaged file is said to be one: plans go on by estimates, and corrections have nothing to correct.
    let whole = std::fs::read_to_string(&file).unwrap();
    for damage in ["{".to_owned(), whole.replacen("\"decode\": ", "\"decode\": -", 1)] {
        std::fs::write(&file, damage).unwrap();
        let plan = told(&cache, &["plan", "-m", model]).0.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plan.contains("cannot be used: it") && plan.contains("estimated rates"), "{plan}");
        let refused =
            plimsoll_with(&[("XDG_CACHE_HOME", cache.to_str().unwrap())], &["plan", "-m", model, "--calibrate"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(5) && said.contains("\n\nhint: `plimsoll probe --force`"), "{said}");
    }
}
