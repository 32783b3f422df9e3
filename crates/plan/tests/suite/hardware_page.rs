//! `docs/hardware.md` is what its command gives. Each part has a test of its own, so that they are planned side by side.

#![allow(clippy::disallowed_methods, reason = "tests read files; the crate does not")]

#[path = "common/page.rs"]
mod page;

/// Holds a part of the page, and how many there are.
fn agrees(part: usize) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/hardware.md");
    let found = std::fs::read_to_string(path).unwrap();
    let found: Vec<&str> = found.split("\n## ").collect();
    let expected = page::part(part);
    let expected = expected.strip_prefix("\n## ").unwrap_or(&expected);
    let hint = "cargo run -p plan --example hardware > docs/hardware.md";
    assert!(found.len() == page::PARTS, "docs/hardware.md has {} parts: {hint}", found.len());
    assert!(found[part] == expected, "docs/hardware.md is not what the planner says now: {hint}\n{expected}");
}

macro_rules! parts {
    ($($name:ident: $number:literal),*) => {
        const NAMED: usize = [$($number),*].len();

        $(#[test]
        fn $name() {
            agrees($number);
        })*
    };
}

parts! {
    words_before: 0, llama_70b_fp16: 1, llama_70b_q8_0: 2, llama_70b_q4_k_m: 3, r1_q4_k_m: 4, r1_iq2_xxs: 5, r1_iq1_s: 6,
    published_claims: 7
}

const _: () = assert!(NAMED == page::PARTS, "each part has its test");
