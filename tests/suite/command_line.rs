//! The command line that scripts rely on: what goes to stdout, what JSON holds, what exit codes say.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{SMOLLM2, own_fixture, plimsoll, real_model};

fn model() -> String {
    own_fixture("llama-rope3-tied").join("model-bf16.gguf").to_str().unwrap().to_owned()
}

fn json(arguments: &[&str]) -> Value {
    let output = plimsoll(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}"))
}

fn has_fields(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(!value[field].is_null(), "{field} is missing in {value}");
    }
}

#[test]
fn run_prints_one_document_with_its_stats() {
    let answer = json(&["run", "-m", &model(), "--raw", "--json", "--temp", "0", "-n", "5", "-p", "hello there"]);
    has_fields(&answer, &["text", "tokens", "prompt_tokens", "stats"]);
    assert!(answer["tokens"].as_array().unwrap().len() <= 5);
    let stats = &answer["stats"];
    let fields = ["load_ms", "ttft_ms", "prompt_tokens_per_s", "decode_tokens_per_s", "forecast", "tiers", "links"];
    has_fields(stats, &fields);
    has_fields(stats, &["crossings_per_token", "overlap"]);
    has_fields(&stats["forecast"], &["prompt_tokens_per_s", "decode_tokens_per_s"]);
    has_fields(&stats["expert_cache"], &["hits", "misses", "bytes_read"]);
    assert!(stats["fallbacks"].is_array());
    let ram = &stats["tiers"][0];
    assert_eq!(ram["name"], "ram");
    has_fields(ram, &["limit_bytes", "peak_bytes", "read_bytes_per_token", "busy_ms_per_token"]);
}

#[test]
fn run_keeps_stdout_for_the_text_and_stderr_for_the_rest() {
    let output = plimsoll(&["run", "-m", &model(), "--raw", "--temp", "0", "-n", "5", "-p", "hello"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let last = told.trim_end().lines().last().unwrap().to_owned();
    assert!(last.contains("t/s") && last.contains("TTFT") && last.contains("forecast"), "{last}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("t/s"));
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let text = |seed: &str| {
        let sampled = ["--temp", "1.5", "--top-k", "0", "-n", "12", "--seed", seed, "-p", "a"];
        json(&[&["run", "-m", &model(), "--raw", "--json"], &sampled[..]].concat())["tokens"].clone()
    };
    assert_eq!(text("7"), text("7"));
    assert_ne!(text("7"), text("8"));
}

#[test]
fn bench_comes_back_to_its_depth_where_states_cannot_go_back() {
    let model = own_fixture("qwen3_next").join("model-bf16.gguf");
    let model = model.to_str().unwrap();
    let rows = json(&["bench", "-m", model, "-p", "8", "-n", "2", "-d", "12", "-r", "2", "-t", "1", "-o", "json"]);
    for row in rows.as_array().unwrap() {
        assert_eq!(row["n_depth"], 12, "{row}");
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), 2, "{row}");
    }
}

#[test]
fn bench_speaks_as_llama_bench_does() {
    let rows = json(&["bench", "-m", &model(), "-p", "16", "-n", "4", "-r", "2", "-t", "1", "-o", "json"]);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2, "one row for the prompt, one for generation");
    for row in rows {
        let fields = ["n_prompt", "n_gen", "n_depth", "n_threads", "n_ubatch", "avg_ts", "stddev_ts", "samples_ts"];
        has_fields(row, &fields);
        has_fields(row, &["forecast_ts", "tiers"]);
        assert_eq!(row["samples_ts"].as_array().unwrap().len(), 2);
    }
    assert_eq!((&rows[0]["n_prompt"], &rows[0]["n_gen"]), (&16.into(), &0.into()));
    assert_eq!((&rows[1]["n_prompt"], &rows[1]["n_gen"]), (&0.into(), &4.into()));
}

#[test]
fn logits_are_written_as_an_array_of_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, out) = (folder.path().join("ids.json"), folder.path().join("out.npy"));
    std::fs::write(&tokens, "[1, 2, 3]").unwrap();
    let paths = (tokens.to_str().unwrap(), out.to_str().unwrap());
    let output = plimsoll(&["logits", "-m", &model(), "--tokens", paths.0, "-o", paths.1]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&out).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let header = String::from_utf8_lossy(&bytes[10..128]);
    assert!(header.contains("'<f4'") && header.contains("(3, 512)"), "{header}");
    assert_eq!((bytes.len() - 3 * 512 * 4) % 64, 0);
}

#[test]
fn tokenize_reads_and_writes_a_line_each() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .args(["tokenize", "-m", &model()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\"one\"\n\"two\\nlines\"\n\"\"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<u32>> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(!lines[0].is_empty() && lines[2].is_empty(), "{text}");
}

#[test]
fn inspect_and_plan_have_their_json() {
    let inspected = json(&["inspect", "-m", &model(), "--json", "--tensors"]);
    assert!(inspected.to_string().contains("blk.0.attn_q.weight"));
    let planned = json(&["plan", "-m", &model(), "--json"]);
    has_fields(&planned, &["tiers", "forecast"]);
}

#[test]
fn a_plan_written_out_is_the_same_plan_when_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("chosen.yaml");
    let profile = profile.to_str().unwrap();
    let model = own_fixture("qwen3-kq").join("model-q4_k_m.gguf");
    let model = model.to_str().unwrap();
    let first = json(&["plan", "-m", model, "--ram", "1GiB", "-c", "64", "--json", "-o", profile]);
    let again = json(&["plan", "-m", model, "--profile", profile, "--json"]);
    let homes =
        |plan: &Value| plan["placements"].as_array().unwrap().iter().map(|p| p["home"].clone()).collect::<Vec<_>>();
    assert_eq!(homes(&first), homes(&again));
    assert_eq!(first["kv"], again["kv"]);
}

#[test]
fn a_run_writes_what_its_routers_chose() {
    let model = own_fixture("deepseek_v2-lite").join("model-bf16.gguf");
    let inventory = gguf::open(&model).unwrap().inventory;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("use.json");
    std::fs::write(&path, "an older file").unwrap();
    let counted = |trace: &[&str]| {
        let files = ["run", "-m", model.to_str().unwrap(), "--expert-stats", path.to_str().unwrap()];
        let answer =
            json(&[&files[..], &["--raw", "--json", "--temp", "0", "-n", "5", "-p", "hello there"], trace].concat());
        let counts = plan::ExpertUse::parse(&std::fs::read_to_string(&path).unwrap(), "use.json").unwrap();
        counts.check(&inventory).unwrap();
        (answer, counts)
    };
    let (answer, counts) = counted(&[]);
    assert_eq!(counts.passes_traced(), 0);
    // The last token that was generated is not computed.
    let generated = answer["tokens"].as_array().unwrap().len() as u64;
    assert_eq!(counts.tokens(), answer["prompt_tokens"].as_u64().unwrap() + generated - 1);
    for (layer, uses) in counts.layers() {
        let chosen = uses.iter().sum::<u64>();
        assert!(chosen > 0 && chosen <= counts.tokens() * u64::from(counts.experts_used()), "layer {layer}: {uses:?}");
    }
    let (_, traced) = counted(&["--trace"]);
    assert!(traced.layers().eq(counts.layers()), "a trace changes no count");
    let layers = counts.layers().count() as u64;
    assert_eq!(traced.passes_traced(), generated * layers, "a prompt in one pass, then a token each");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}

/// The replay of a trace in which the last expert alone is chosen, under the ceiling of a plan that has some experts in RAM.
fn a_trace_is_replayed_by_policies(model: &str, plan: &Value, counts: &plan::ExpertUse, path: &std::path::Path) {
    let mut writer = plan::ExpertUseWriter::default();
    let mut text = writer.head(counts);
    for (layer, _) in counts.layers() {
        (0..40).for_each(|position| text += &writer.line(position, layer, [[counts.experts() - 1]]));
    }
    std::fs::write(path, text + &writer.tail(counts)).unwrap();
    let ram = plan["tiers"].as_array().unwrap().iter().find(|tier| tier["name"] == "ram").unwrap();
    let (ram, trace) = (ram["limit_bytes"].to_string(), path.to_str().unwrap());
    let command = ["bench", "cache", "-m", model, "--trace", trace, "--ram", &ram, "-c", "32", "-t", "1", "-o", "json"];
    let rows = json(&command);
    let rows = rows.as_array().unwrap();
    let misses = |row: &Value| row["decode"]["misses"].as_u64().unwrap();
    assert!(rows.iter().all(|row| row["decode"]["tokens"] == 40 && misses(row) >= misses(&rows[1])), "{rows:?}");
    // Whoever learns reads it once for each layer; the plan without counts has the first experts in RAM for good.
    assert!(misses(&rows[0]) > misses(&rows[4]) && misses(&rows[4]) == misses(&rows[6]), "{rows:?}");
    let wrong = plimsoll(&["bench", "-m", model, "--trace", trace]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// A mixture under a ceiling that holds some of its experts and not all: plans with and without counts, and the plan of the
/// profile that was written with them.
#[test]
fn hot_experts_move_nearer_and_a_written_profile_keeps_them_there() {
    let folder = tempfile::tempdir().unwrap();
    let [model, stats, profile] =
        ["moe.gguf", "use.json", "hot.yaml"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    // Four experts of 6 MiB: large beside the ring that streams them.
    let mut draft = gguf::testing::mixture();
    draft.set("llama.feed_forward_length", gguf::testing::Field::u32(16_384));
    for (matrix, dims) in [("gate", [32, 16_384, 4]), ("up", [32, 16_384, 4]), ("down", [16_384, 32, 4])] {
        let name = format!("blk.0.ffn_{matrix}_exps.weight");
        *draft.tensor(&name) = gguf::testing::Info::f32(&name, &dims);
    }
    std::fs::write(&model, draft.bytes()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&model).unwrap().set_len(32 << 20).unwrap();
    let inventory = gguf::open(std::path::Path::new(&model)).unwrap().inventory;
    let model = model.as_str();
    // The last expert is the hottest, and the first the coldest: not what a plan without counts prefers.
    let mut counts = plan::ExpertUse::new(&inventory);
    let layers: Vec<u32> = counts.layers().map(|(layer, _)| layer).collect();
    for layer in layers {
        for expert in 0..counts.experts() {
            counts.add(layer, &vec![expert; 1 + 2 * expert as usize]);
        }
    }
    counts.add_tokens(100);
    std::fs::write(&stats, counts.to_json()).unwrap();

    let experts = |plan: &Value| -> Vec<(u64, String)> {
        let units = plan["placements"].as_array().unwrap().iter().filter(|unit| unit["role"] == "routed_expert");
        units.map(|unit| (unit["expert"].as_u64().unwrap(), unit["home"].as_str().unwrap().to_owned())).collect()
    };
    let planned = |kib: u64| {
        let ram = format!("{kib}KiB");
        let output = plimsoll(&[
            "plan",
            "-m",
            model,
            "--ram",
            &ram,
            "-c",
            "32",
            "-t",
            "1",
            "--expert-stats",
            &stats,
            "--json",
            "-o",
            &profile,
        ]);
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let torn = |plan: &Value| {
        let homes: Vec<_> = experts(plan).into_iter().map(|(_, home)| home).collect();
        homes.iter().any(|home| home == "ram") && homes.iter().any(|home| home == "disk")
    };
    let lowest = (128..1024).map(|step| 64 * step).find(|kib| planned(*kib).is_some()).expect("a ceiling that will do");
    let plan = (0..64).filter_map(|step| planned(lowest + 512 * step)).find(torn).expect("a ceiling that parts them");
    a_trace_is_replayed_by_policies(model, &plan, &counts, &folder.path().join("trace.json"));
    let mean = |home: &str| {
        let here: Vec<u64> =
            experts(&plan).iter().filter(|(_, other)| other == home).map(|(expert, _)| *expert).collect();
        here.iter().sum::<u64>() as f64 / here.len() as f64
    };
    assert!(mean("ram") > mean("disk"), "the hot ones are nearer: {} {}", mean("ram"), mean("disk"));
    let report = plimsoll(&["plan", "-m", model, "--profile", &profile, "--expert-stats", &stats]).stdout;
    assert!(String::from_utf8_lossy(&report).contains("as counted over 100 tokens"));
    let bench = |counted: &[&str]| {
        let words = ["bench", "-m", model, "--profile", &profile, "-p", "0", "-n", "4", "-r", "1", "-o", "json"];
        json(&[&words, counted].concat())[0]["forecast_ts"].as_f64().unwrap()
    };
    let (counted, uncounted) = (bench(&["--expert-stats", &stats]), bench(&[]));
    assert!(counted > uncounted, "what is chosen most is in RAM: {counted} {uncounted}");
    let again = json(&["plan", "-m", model, "--profile", &profile, "--json"]);
    assert_eq!(experts(&again), experts(&plan));
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let binary = env!("CARGO_BIN_EXE_plimsoll");
    let line = format!("{binary} inspect -m {} --tensors --json | head -c 10 >/dev/null", model());
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("panicked") && !told.contains("error"), "{told}");
}

#[test]
fn ctrl_c_ends_a_generation_with_its_stats() {
    let Some(model) = real_model(SMOLLM2, "ctrl_c_ends_a_generation_with_its_stats") else { return };
    // Streaming from disk keeps it busy for long enough.
    let mut child = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .args(["run", "-m", model.to_str().unwrap(), "--raw", "--temp", "0", "-n", "900", "-c", "1024"])
        .args(["--ram", "80MiB", "-p", "Once upon a time"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).expect("a first word is printed");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    assert!(told.trim_end().lines().any(|line| line.contains("t/s") && line.contains("gen")), "{told}");
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = plimsoll(&["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 1000, "{shell}");
    }
}

#[test]
fn nothing_falls_back_silently() {
    let model = model();
    for command in [&["run", "--raw", "-p", "a", "-n", "1"][..], &["bench", "-p", "8", "-n", "0", "-r", "1"]] {
        let output = plimsoll(&[command, &["-m", &model, "-ub", "4096"]].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert!(told.contains("note: ") && told.contains("4096"), "{command:?}: {told}");
    }
}
