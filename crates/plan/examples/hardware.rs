//! Prints `docs/hardware.md`: `cargo run -p plan --example hardware > docs/hardware.md`.

#![allow(clippy::disallowed_methods, reason = "the page is made of files; the crate reads none")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/page.rs"]
mod page;

fn main() {
    print!("{}", page::page());
}
