//! Promise 5, strict in: every malformed file, profile and flag ends in one typed error with the right exit code.

use std::path::Path;
use std::process::Command;

use plan::testing::Stage;
use serde_json::Value;

use crate::support::{own_fixture, plimsoll};

/// Runs the binary once for each list of arguments. Gives exit code, stderr and milliseconds of each, and prints the
/// worst time and memory: reported, not asserted.
fn run_each(what: &str, commands: &[Vec<String>]) -> Vec<(i64, String, f64)> {
    let script = "import json, resource, subprocess, sys, time\n\
                  for line in open(sys.argv[2]):\n\
                  \x20   start = time.time()\n\
                  \x20   p = subprocess.run([sys.argv[1]] + json.loads(line), capture_output=True, text=True, errors='replace')\n\
                  \x20   ms = (time.time() - start) * 1e3\n\
                  \x20   print(json.dumps([p.returncode, p.stderr, ms, len(p.stdout)]))\n\
                  print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))";
    let list = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> = commands.iter().map(|c| serde_json::to_string(c).unwrap()).collect();
    std::fs::write(list.path(), lines.join("\n")).unwrap();
    let output =
        Command::new("python3").args(["-c", script, env!("CARGO_BIN_EXE_plimsoll")]).arg(list.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (memory, runs) = answers.split_last().unwrap();
    let runs: Vec<_> = runs
        .iter()
        .map(|run| {
            assert_eq!(run[3], 0, "an error printed to stdout: {run}");
            (run[0].as_i64().unwrap(), run[1].as_str().unwrap().to_owned(), run[2].as_f64().unwrap())
        })
        .collect();
    let slowest = runs.iter().map(|run| run.2).fold(0.0, f64::max);
    println!("{what}: {} cases, worst {slowest:.0} ms, {} MiB", runs.len(), memory.as_u64().unwrap() / 1024);
    runs
}

/// One typed error: the exit code, no panic, the words, and what they are about.
fn assert_refused(name: &str, run: &(i64, String, f64), code: i64, words: &str) {
    let (found, told, _) = run;
    assert_eq!(*found, code, "{name}: {told}");
    assert!(!told.contains("panicked"), "{name}: {told}");
    assert_eq!(told.matches("error").count().min(1), 1, "{name}: no error is named: {told}");
    assert!(told.contains(words), "{name}: {words:?} is missing in: {told}");
}

#[test]
fn malformed_models_end_in_one_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let cases = gguf::testing::malformed();
    let command = |(i, case): (usize, &gguf::testing::Case)| {
        let path = folder.path().join(format!("case-{i}.gguf"));
        std::fs::write(&path, &case.bytes).unwrap();
        vec!["inspect".to_owned(), "-m".to_owned(), path.to_str().unwrap().to_owned()]
    };
    let commands: Vec<_> = cases.iter().enumerate().map(command).collect();
    for (case, run) in cases.iter().zip(run_each("malformed models", &commands)) {
        assert_refused(case.name, &run, 3, case.says);
    }
    assert!(cases.len() >= 100, "{} cases", cases.len());
}

#[test]
fn bad_split_sets_end_in_one_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let sets = gguf::testing::bad_sets();
    let command = |(i, set): (usize, &gguf::testing::BadSet)| {
        let folder = folder.path().join(i.to_string());
        std::fs::create_dir(&folder).unwrap();
        for (name, bytes) in &set.files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let path = folder.join(&set.open);
        vec!["inspect".to_owned(), "-m".to_owned(), path.to_str().unwrap().to_owned()]
    };
    let commands: Vec<_> = sets.iter().enumerate().map(command).collect();
    for (set, run) in sets.iter().zip(run_each("bad split sets", &commands)) {
        assert_refused(set.name, &run, 3, set.says);
    }
}

#[test]
fn malformed_profiles_end_in_one_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    std::fs::write(&model, gguf::testing::dense().bytes()).unwrap();
    let cases = plan::testing::malformed_profiles();
    let command = |(i, case): (usize, &plan::testing::MalformedProfile)| {
        let path = folder.path().join(format!("case-{i}.yaml"));
        std::fs::write(&path, &case.text).unwrap();
        let path = path.to_str().unwrap();
        let model = model.to_str().unwrap();
        let arguments = match case.stage {
            Stage::Parse => vec!["profile", "check", path],
            Stage::Plan => vec!["plan", "-m", model, "--profile", path],
        };
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let commands: Vec<_> = cases.iter().enumerate().map(command).collect();
    for ((i, case), run) in cases.iter().enumerate().zip(run_each("malformed profiles", &commands)) {
        let (line, column) = case.position;
        if case.stage == Stage::Parse {
            assert_refused(case.name, &run, 2, case.expected);
            assert_refused(case.name, &run, 2, &format!("case-{i}.yaml:{line}:{column}"));
        } else {
            // What does not fit is a matter of resources.
            let code = if run.1.contains(" needed, ") { 4 } else { 2 };
            assert_refused(case.name, &run, code, &format!("case-{i}.yaml:{line}:{column}"));
        }
    }
    assert!(cases.len() >= 30, "{} cases", cases.len());
}

#[test]
fn wrong_flags_and_files_have_their_exit_codes() {
    let model = own_fixture("phi3").join("model-bf16.gguf");
    let model = model.to_str().unwrap();
    let folder = own_fixture("phi3");
    let folder = folder.to_str().unwrap();
    // Text that is no JSON, and counts of another model.
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let mixture = gguf::open(&own_fixture("qwen2_moe").join("model-bf16.gguf")).unwrap().inventory;
    let counts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(counts.path(), plan::ExpertUse::new(&mixture).to_json()).unwrap();
    let stats = counts.path().to_str().unwrap();
    let table: &[(&[&str], i64, &str)] = &[
        (&["frobnicate"], 2, "frobnicate"),
        (&["run"], 2, "--model"),
        (&["run", "-m", model, "-p", "x", "--ram", "12 parsecs"], 2, "12 parsecs"),
        (&["run", "-m", model, "-p", "x", "--ram", "-4GiB"], 2, "\"-4GiB\" is not a size"),
        (&["run", "-m", model, "-p", "x", "--temp", "hot"], 2, "hot"),
        (&["run", "-m", model, "-p", "x", "-n", "-7"], 2, "-7"),
        (&["run", "-m", model, "-p", "x", "--top-p", "2"], 2, "top-p"),
        (&["run", "-m", model, "-p", "x", "-ctk", "f8"], 2, "f8"),
        (&["run", "-m", model, "-p", "x", "--think", "loudly"], 2, "show, hide, off"),
        (&["run", "-m", model, "-p", "x", "--raw", "--think", "hide"], 2, "--raw"),
        (&["run", "-m", model, "-p", "x", "--chat-template-kwargs", "{"], 2, "no JSON"),
        (&["chat", "-m", model, "--chat-template-kwargs", "[1]"], 2, "not a JSON object"),
        (
            &["render", "-m", model, "--messages", "x", "--chat-template-kwargs", r#"{"messages": []}"#],
            2,
            "messages is set",
        ),
        (&["run", "-m", model, "-p", "x", "--profile", "/nowhere.yaml"], 5, "/nowhere.yaml"),
        (&["run", "-m", "/nowhere.gguf", "-p", "x"], 5, "/nowhere.gguf"),
        (&["run", "-m", folder, "-p", "x"], 5, "phi3"),
        (&["run", "-m", model, "-p", "x", "-c", "0"], 2, "0"),
        (&["run", "-m", model, "-p", "x", "--ram", "8MiB"], 4, "hint:"),
        (&["plan", "-m", model, "--explain", "blk.0.attn_qqv.weight"], 2, "attn_qkv"),
        (&["run", "-m", model, "-p", "x", "--trace"], 2, "--expert-stats"),
        (&["run", "-m", model, "-p", "x", "--expert-stats", "/nowhere/x.json"], 2, "no routed experts"),
        (&["plan", "-m", model, "--expert-stats", "/nowhere.json"], 5, "/nowhere.json"),
        (&["plan", "-m", model, "--expert-stats", readme], 2, "no expert statistics"),
        (&["plan", "-m", model, "--expert-stats", stats], 2, "expert statistics of"),
        (&["bench", "-m", model, "--expert-stats", stats], 2, "expert statistics of"),
        (&["logits", "-m", model, "--tokens", "/nowhere.json", "-o", "x.npy"], 5, "/nowhere.json"),
        (&["pull", "hf:nobody"], 2, "hf:nobody"),
        (&["pull", "hf:../../etc:Q4_K_M"], 2, ".."),
        (&["completions", "tcl"], 2, "tcl"),
    ];
    let commands: Vec<Vec<String>> = table.iter().map(|(a, ..)| a.iter().map(|s| (*s).to_owned()).collect()).collect();
    for ((arguments, code, words), run) in table.iter().zip(run_each("wrong flags", &commands)) {
        assert_refused(&arguments.join(" "), &run, *code, words);
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_its_counts() {
    let model = own_fixture("llama-rope3-tied").join("model-bf16.gguf");
    let prompt = "so many words ".repeat(60);
    let output = plimsoll(&["run", "-m", model.to_str().unwrap(), "--raw", "-c", "64", "-p", &prompt]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{told}");
    assert!(told.contains("context") && told.contains("64") && told.contains("-c"), "{told}");
}

#[test]
fn a_file_that_shrinks_under_a_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(own_fixture("phi3").join("model-bf16.gguf"), &path).unwrap();
    let profile = "version: 1\ntiers: { ram: { memory: 1GiB }, disk: {} }\ncontext: { tokens: 64 }\ndefault: disk\n";
    let mut engine = crate::support::open(&path, profile);
    let mut session = engine.session().unwrap();
    engine.prefill(&mut session, &[1, 2, 3]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(200_000).unwrap();
    // The ring holds some pieces already; the pass after them meets the end.
    let error = (0..3).find_map(|_| engine.decode(&mut session, 4).err()).expect("the read fails").to_string();
    assert!(error.contains("model.gguf") && error.contains("while in use"), "{error}");
    restore(&path);
    session.truncate(3);
    let error = engine.decode(&mut session, 4).expect_err("what was written there may be anything").to_string();
    assert!(error.contains("while in use"), "{error}");
    let mut again = crate::support::open(&path, profile);
    let mut session = again.session().unwrap();
    again.prefill(&mut session, &[1, 2, 3]).expect("the file is whole again");
}

fn restore(path: &Path) {
    let whole = std::fs::read(own_fixture("phi3").join("model-bf16.gguf")).unwrap();
    std::fs::write(path, whole).unwrap();
}

/// Headers that are well-formed and describe what no architecture of ours is.
#[test]
fn models_that_cannot_be_are_refused_before_they_run() {
    use gguf::testing::{Draft, Field, Info, dense, mixture};
    let block = |name: &str, dims: &[u64]| Info { kind: plan::QuantType::Q8_0.id(), ..Info::f32(name, dims) };
    let edit_of = |mut draft: Draft, edit: &dyn Fn(&mut Draft)| {
        edit(&mut draft);
        draft.bytes()
    };
    let edited = |edit: &dyn Fn(&mut Draft)| edit_of(dense(), edit);
    let edited_mixture = |edit: &dyn Fn(&mut Draft)| edit_of(mixture(), edit);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a norm in blocks", edited(&|d| *d.tensor("output_norm.weight") = block("output_norm.weight", &[32])), "Q8_0"),
        (
            "rope divisors in blocks",
            edited(&|d| {
                d.set("llama.attention.key_length", Field::u32(64));
                d.set("llama.attention.value_length", Field::u32(64));
                d.tensors.push(block("rope_freqs.weight", &[32]));
            }),
            "rope_freqs.weight is stored as Q8_0",
        ),
        ("a tensor of nobody", edited(&|d| d.tensors.push(Info::f32("blk.0.ssm_out.weight", &[4]))), "is not used"),
        ("layers that keep a state", edited(&|d| d.set("llama.full_attention_interval", Field::u32(7))), "attention"),
        ("a latent cache", edited(&|d| d.set("llama.attention.kv_lora_rank", Field::u32(1))), "rope.dimension_count"),
        (
            "a gate of the future",
            edited_mixture(&|d| d.set("llama.expert_gating_func", Field::u32(4))),
            "expert_gating_func",
        ),
        (
            "an expert of another shape",
            edited_mixture(&|d| d.tensor("blk.0.ffn_up_exps.weight").dims = vec![32, 64, 4]),
            "blk.0.ffn_up_exps.weight has shape [32, 64, 4], expected [32, 32, 4]",
        ),
        (
            "biases of experts in blocks",
            edited_mixture(&|d| {
                for matrix in ["gate", "up", "down"] {
                    d.tensors.push(block(&format!("blk.0.ffn_{matrix}_exps.bias"), &[32, 4]));
                }
            }),
            "blk.0.ffn_gate_exps.bias is stored as Q8_0",
        ),
        (
            "biases of experts in part",
            edited_mixture(&|d| d.tensors.push(Info::f32("blk.0.ffn_down_exps.bias", &[32, 4]))),
            "blk.0.ffn_gate_exps.bias is missing",
        ),
        (
            "more groups than any model has",
            edited_mixture(&|d| d.set("llama.expert_group_count", Field::u32(128))),
            "expert_group_count",
        ),
        (
            "a value wider than any",
            edited(&|d| {
                d.set("llama.attention.kv_lora_rank", Field::u32(16));
                d.set("llama.rope.dimension_count", Field::u32(4));
                d.set("llama.attention.key_length", Field::u32(20));
                d.set("llama.attention.key_length_mla", Field::u32(8));
                d.set("llama.attention.value_length_mla", Field::u64(u64::MAX));
            }),
            "value_length_mla",
        ),
        (
            "experts in part",
            edited_mixture(&|d| d.tensors.retain(|info| info.name != b"blk.0.ffn_down_exps.weight")),
            "blk.0.ffn_down_exps.weight is missing",
        ),
        ("an odd rotation", edited(&|d| d.set("llama.rope.dimension_count", Field::u32(7))), "rope.dimension_count"),
        ("an unknown scaling", edited(&|d| d.set("llama.rope.scaling.type", Field::text("magic"))), "magic"),
        ("an unknown architecture", edited(&|d| d.set("general.architecture", Field::text("hal9000"))), "hal9000"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("ids.json");
    std::fs::write(&tokens, "[1, 2]").unwrap();
    let command = |(i, case): (usize, &(&str, Vec<u8>, &str))| {
        let model = folder.path().join(format!("{i}.gguf"));
        std::fs::write(&model, &case.1).unwrap();
        let out = folder.path().join("out.npy");
        let paths = [&model, &tokens, &out].map(|path| path.to_str().unwrap().to_owned());
        let [model, tokens, out] = paths;
        ["logits", "-m", &model, "--tokens", &tokens, "-o", &out].map(str::to_owned).to_vec()
    };
    let commands: Vec<_> = cases.iter().enumerate().map(command).collect();
    for (case, run) in cases.iter().zip(run_each("impossible models", &commands)) {
        assert_refused(case.0, &run, 3, case.2);
    }
    assert!(!folder.path().join("out.npy").exists());
}

#[test]
fn weights_that_are_no_numbers_are_an_error_not_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let source = own_fixture("llama-rope3-tied").join("model-bf16.gguf");
    let model = gguf::open(&source).unwrap();
    for name in ["blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.2.ffn_down.weight"] {
        let tensor = model.inventory.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let mut bytes = std::fs::read(&source).unwrap();
        bytes[tensor.offset as usize..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
        let path = folder.path().join("nan.gguf");
        std::fs::write(&path, bytes).unwrap();
        let output = plimsoll(&["run", "-m", path.to_str().unwrap(), "--raw", "--temp", "0", "-n", "4", "-p", "hello"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{name}: {told}");
        assert!(told.contains("not finite"), "{name}: {told}");
    }
}
