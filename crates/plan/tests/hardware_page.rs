//! `docs/hardware.md` is what its command gives.

#![allow(clippy::disallowed_methods, reason = "tests read files; the crate does not")]

mod common;
#[path = "common/page.rs"]
mod page;

#[test]
fn the_page_is_what_the_command_gives() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/hardware.md");
    let found = std::fs::read_to_string(path).unwrap();
    let hint = "cargo run -p plan --example hardware > docs/hardware.md";
    assert!(found == page::page(), "docs/hardware.md is not what the planner says now: {hint}");
}
