//! Prepared copies: the same model, whole or not at all, and no flipped bit goes unseen.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gguf::testing::{Info, dense, split};

use crate::support::{own_fixture, plimsoll, real_model};

/// Dense, and a mixture.
const MODELS: [&str; 2] = ["qwen3-kq/model-q4_k_m.gguf", "gpt_oss/model-mxfp4.gguf"];

fn ends_with(arguments: &[&str], code: i32) -> (String, String) {
    let output = plimsoll(arguments);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}{err}");
    (out, err)
}

fn repack(from: &Path, folder: &Path) -> PathBuf {
    let (out, _) = ends_with(&["repack", "-m", text(from), "-o", text(folder)], 0);
    PathBuf::from(out.trim_end())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn logits(model: &Path, folder: &Path) -> Vec<u8> {
    let [tokens, out] = ["tokens.json", "out.npy"].map(|name| folder.join(name));
    fs::write(&tokens, "[9, 3, 17, 250, 99]").unwrap();
    let arguments = ["logits", "-m", text(model), "--tokens", text(&tokens), "-o", text(&out), "--ram", "1GiB"];
    ends_with(&arguments, 0);
    fs::read(out).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_copy_is_the_model_on_whole_pages_and_finds_each_flipped_bit() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let copies = folder.path().join("new/copies");
        let copy = repack(&own_fixture(model), &copies);
        assert!(logits(&own_fixture(model), folder.path()) == logits(&copy, folder.path()), "{model}");
        let inventory = gguf::open(&copy).unwrap().inventory;
        assert!(inventory.tensors.iter().all(|tensor| tensor.offset % 4096 == 0));
        let (out, _) = ends_with(&["verify", "-m", text(&copy)], 0);
        assert!(out.contains("all as they were"), "{out}");

        let file = OpenOptions::new().read(true).write(true).open(&copy).unwrap();
        let length = file.metadata().unwrap().len();
        for place in (0..40).map(|i| i * 7919 * 101 % length).chain([0, length - 1]) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << (place % 8)], place).unwrap();
            let (out, err) = ends_with(&["verify", "-m", text(&copy)], 3);
            file.write_all_at(&byte, place).unwrap();
            assert!(err.contains("1 of ") && err.contains("\n\nhint: "), "{err}");
            let unit = inventory.units.iter().filter(|unit| unit.offset <= place).max_by_key(|unit| unit.offset);
            let name = unit.map_or("header", |unit| &inventory.tensor_of(unit).name);
            assert!(out.contains(&format!(": {name}")), "byte {place}, {name}: {out}");
            let expert = unit.and_then(|unit| unit.expert).map_or(String::new(), |expert| format!("[{expert}]"));
            assert!(out.contains(&format!("{expert} differs")), "byte {place}, {name}: {out}");
        }
        ends_with(&["verify", "-m", text(&copy)], 0);
        // A file that was cut, or grew.
        file.set_len(length + 1).unwrap();
        let (out, _) = ends_with(&["verify", "-m", text(&copy), "--json"], 3);
        assert!(out.contains("\"behind the last tensor\""), "{out}");
        file.set_len(length - 5000).unwrap();
        let (out, _) = ends_with(&["verify", "-m", text(&copy)], 3);
        assert!(out.contains(" differs"), "{out}");
    }
}

#[test]
fn a_set_stays_a_set_and_what_is_there_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let copies = folder.path().join("copies");
    let parts: Vec<PathBuf> = split(&dense(), "tiny", 2)
        .into_iter()
        .map(|(name, draft)| {
            let path = folder.path().join(name);
            fs::write(&path, draft.bytes()).unwrap();
            path
        })
        .collect();
    let first = repack(&parts[1], &copies);
    assert_eq!(first.file_name(), parts[0].file_name());
    assert_eq!(names(&copies).len(), 4);
    ends_with(&["verify", "-m", text(&first)], 0);
    // One part was lost: it alone is copied again.
    fs::remove_file(&first).unwrap();
    let (_, err) = ends_with(&["repack", "-m", text(&parts[0]), "-o", text(&copies)], 0);
    assert!(err.contains("tiny-00002-of-00002.gguf is there already") && err.contains("wrote "), "{err}");
    ends_with(&["verify", "-m", text(&first)], 0);
}

#[test]
fn bad_input_ends_in_a_word_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = own_fixture(MODELS[0]);
    fs::write(at("text.gguf"), "no model at all").unwrap();
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("taken")).unwrap();
    fs::copy(own_fixture(MODELS[1]), at("taken").join(model.file_name().unwrap())).unwrap();
    let mut huge = dense();
    huge.tensors.push(Info::f32("blk.0.ffn_huge.weight", &[1 << 20, 1 << 21]));
    huge.data_max = 0;
    fs::write(at("huge.gguf"), huge.bytes()).unwrap();
    File::options().write(true).open(at("huge.gguf")).unwrap().set_len(15 << 40).unwrap();
    for (from, to, code, says) in [
        (at("text.gguf"), at("out"), 3, "not a GGUF file"),
        (at("none.gguf"), at("out"), 5, "none.gguf"),
        (model.clone(), at("file"), 5, "cannot make the folder"),
        (model.clone(), at("taken"), 2, "is no prepared copy"),
        (at("huge.gguf"), at("out"), 4, "free some space"),
    ] {
        let (_, err) = ends_with(&["repack", "-m", text(&from), "-o", text(&to)], code);
        assert!(err.contains(says) && err.contains("\n\nhint: "), "{err}");
    }
    assert!(names(&at("out")).is_empty());
    let (_, err) = ends_with(&["verify", "-m", text(&model)], 2);
    assert!(err.contains("has no checksums"), "{err}");
    // Checksums of a file as it is.
    let own = at("own.gguf");
    fs::copy(&model, &own).unwrap();
    ends_with(&["verify", "-m", text(&own), "--write"], 0);
    ends_with(&["verify", "-m", text(&own)], 0);
    fs::write(at("own.gguf.sums"), "plimsoll sums 1 xxh64\n").unwrap();
    let (_, err) = ends_with(&["verify", "-m", text(&own)], 3);
    assert!(err.contains("own.gguf.sums") && err.contains("\n\nhint: "), "{err}");
}

#[test]
fn a_drive_that_takes_no_more_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Files may have 64 KiB there, as if the drive were full.
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" repack -m \"$1\" -o \"$2\"";
    let (program, model) = (env!("CARGO_BIN_EXE_plimsoll"), own_fixture(MODELS[0]));
    let output = Command::new("sh").args(["-c", limited, program, text(&model), text(folder.path())]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{err}");
    assert!(err.contains("cannot write ") && err.contains("\n\nhint: "), "{err}");
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

#[test]
fn who_is_killed_midway_leaves_nothing_that_a_later_run_trips_over() {
    let model = real_model(crate::support::SMOLLM2, "who_is_killed_midway").unwrap_or_else(|| own_fixture(MODELS[0]));
    let folder = tempfile::tempdir().unwrap();
    let mut killed = 0;
    for i in 0..20 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .args(["repack", "-m", text(&model), "-o", text(folder.path())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(i * 37 % 101));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        // What has the model's name is the model.
        let copy = folder.path().join(model.file_name().unwrap());
        if copy.exists() {
            ends_with(&["verify", "-m", text(&copy)], 0);
            fs::remove_file(&copy).unwrap();
        }
    }
    assert!(killed > 0);
    let copy = repack(&model, folder.path());
    ends_with(&["verify", "-m", text(&copy)], 0);
    assert_eq!(names(folder.path()).len(), 2, "{:?}", names(folder.path()));
}
