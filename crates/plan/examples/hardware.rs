//! Prints `docs/hardware.md`: `cargo run -p plan --example hardware > docs/hardware.md`.

#![allow(clippy::disallowed_methods, reason = "the page is made of files; the crate reads none")]

#[path = "../tests/suite/common/mod.rs"]
mod common;
#[path = "../tests/suite/common/page.rs"]
mod page;

fn main() {
    (0..page::PARTS).for_each(|part| print!("{}", page::part(part)));
}
