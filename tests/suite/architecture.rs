//! The map of `crates/README.md`, held against what cargo says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Which room may know which, and which outside crates are barred from a room whose purity rests on it.
const DRAWING: &[(&str, &[&str])] = &[
    ("plan", &[]),
    ("gguf", &["plan"]),
    ("kernels", &["plan"]),
    ("probe", &["kernels", "plan"]),
    ("tiers", &["kernels", "plan"]),
    ("engine", &["gguf", "kernels", "plan", "tiers"]),
    ("plimsoll", &["engine", "gguf", "kernels", "plan", "probe", "tiers"]),
];

/// Crates that may be named by these rooms only.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("candle-core", &["engine"]),
    ("candle-nn", &["engine"]),
    ("cudarc", &["kernels"]),
    ("rustix", &["kernels", "probe", "plimsoll"]),
    ("clap", &["plimsoll"]),
    ("hf-hub", &["plimsoll"]),
    ("ureq", &["plimsoll"]),
    ("tokenizers", &["plimsoll"]),
    ("minijinja", &["plimsoll"]),
];

/// Crates of which a second copy would mean two kinds of one type.
const ONE_COPY: &[&str] = &["candle-core", "half", "serde", "tokenizers", "rustix"];

fn metadata() -> Value {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--offline", "--locked", "--no-deps"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Each room with the crates it depends on, tests aside.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let normal = all.filter(|d| d["kind"] != "dev");
        normal.map(|d| d["name"].as_str().unwrap().to_owned()).collect()
    };
    packages.map(|package| (package["name"].as_str().unwrap().to_owned(), of(package))).collect()
}

#[test]
fn rooms_depend_only_where_drawn() {
    let found = dependencies();
    let drawn: BTreeSet<_> = DRAWING.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), drawn, "a room is missing in the drawing");
    for (room, allowed) in DRAWING {
        for dependency in found[*room].iter().filter(|d| drawn.contains(*d)) {
            assert!(allowed.contains(&dependency.as_str()), "{room} -> {dependency} is not in the drawing");
        }
    }
}

#[test]
fn outside_crates_stay_in_their_rooms() {
    for (room, dependencies) in dependencies() {
        for (name, rooms) in ONLY_IN {
            let named = dependencies.contains(*name);
            assert!(!named || rooms.contains(&room.as_str()), "{room} depends on {name}, which belongs in {rooms:?}");
        }
    }
}

#[test]
fn there_is_one_copy_of_what_types_cross_rooms() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for name in ONE_COPY {
        let copies = lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count();
        assert_eq!(copies, 1, "copies of {name}");
    }
}

#[test]
fn the_map_names_every_room() {
    let map = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/README.md")).unwrap();
    for (room, allowed) in DRAWING.iter().filter(|(room, _)| *room != "plimsoll") {
        let row = map.lines().find(|line| line.starts_with(&format!("| [`{room}`]")));
        let row = row.unwrap_or_else(|| panic!("crates/README.md has no row for {room}"));
        let depends_on = row.split('|').nth(3).unwrap();
        for dependency in *allowed {
            assert!(depends_on.contains(dependency), "the row of {room} does not name {dependency}");
        }
    }
}
