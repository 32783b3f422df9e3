//! A machine of the catalogue in a few lines: what it is made of, and which rates a plan for it takes.

use std::fmt::Write as _;

use super::wrapped;
use crate::Machine;
use crate::hardware::Build;

/// The lines above a plan for a machine that is not this one.
#[must_use]
pub fn on(build: &Build, machine: &Machine) -> String {
    let mut out = format!("on {build}");
    if let Some(price) = build.price_usd() {
        let _ = write!(out, ", some {price:.0} USD");
    }
    out.push('\n');
    let cards = machine
        .gpus
        .iter()
        .enumerate()
        .map(|(number, gpu)| format!("gpu:{number} {}: {}, link {}", gpu.name, gpu.read.rate, gpu.link.rate));
    let rest = [
        format!("ram {}: {}", machine.cpu, machine.ram_read.rate),
        format!("disk {}: {}", build.drive.title, machine.disk_read.rate),
    ];
    let parts: Vec<String> = cards.chain(rest).collect();
    wrapped(&mut out, "  ", "  ", parts.iter().map(String::as_str), " · ");
    out.push('\n');
    out
}
