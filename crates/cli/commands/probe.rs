//! `plimsoll probe`: measures this machine once, for honest forecasts.

use std::path::Path;

use ::probe::{Measured, Options, Spread};
use plan::card::CardKernels;

use crate::args::ProbeArgs;
use crate::open;
use crate::show::{self, Progress, Table};

pub(super) fn run(args: &ProbeArgs) -> anyhow::Result<()> {
    let cache = open::cache_folder();
    let path = args.model.as_deref().unwrap_or(Path::new("."));
    let options = Options { path, cache: cache.as_deref(), isa: open::isa()?, busy_too: args.force };
    if let (false, Some(kept)) = (args.force, probe::kept(&options)) {
        show::note("note: these were measured before, with these kernels; --force measures again");
        return if args.json { show::json(&kept) } else { show::product(&page(&kept)) };
    }
    let bar = Progress::steps("measuring", 2);
    let measured = probe::measure(&options, &mut |what| {
        bar.now(&format!("measuring {what}"));
        bar.step();
    })?;
    drop(bar);
    if measured.is_busy() {
        let share = measured.others.unwrap_or_default() * 100.0;
        let kept = if args.force { "kept all the same" } else { "not kept: --force keeps them all the same" };
        show::note(&format!(
            "note: other programs had {share:.0} % of the processors while rates were measured; {kept}"
        ));
    }
    if args.json { show::json(&measured) } else { show::product(&page(&measured)) }
}

fn page(measured: &Measured) -> String {
    let machine = &measured.machine;
    let mut lines = vec![
        format!("{}, {} cores", machine.cpu, machine.cores),
        format!("RAM {}, {} available", machine.ram_total, machine.ram_available),
    ];
    for (number, gpu) in machine.gpus.iter().enumerate() {
        let (major, minor) = gpu.capability;
        let memory = format!("{}, {} free", gpu.memory_total, gpu.memory_free);
        lines.push(format!("gpu:{number} {} (sm_{major}{minor}): {memory}", gpu.name));
    }
    lines.extend(open::unused_gpus());
    lines.extend(
        measured.cards.iter().filter_map(|card| card.as_ref().err()).map(|error| format!("not measured: {error}")),
    );
    lines.push(String::new());
    let mut table = Table::new(&["rate", "best", "median", "worst", "unit", "runs"]);
    let giga = |x: f64| format!("{:.2}", x / 1e9);
    let mut row = |name: &str, spread: &Spread, unit: &str| {
        let Spread { best, median, worst, runs } = *spread;
        let runs = runs.to_string();
        table.row([name.to_owned(), giga(best), giga(median), giga(worst), unit.to_owned(), runs]);
    };
    row("weights from RAM in decode", &measured.ram_read, "GB/s");
    row("operations in prefill", &measured.cpu_ops, "GFLOP/s");
    let disk = &measured.disk_read;
    let reads = format!("{} reads of {} at once", disk.reads.at_once, disk.reads.bytes);
    row(&format!("weights from the drive, {reads}"), &disk.read, "GB/s");
    for card in measured.cards.iter().flatten() {
        let name = &card.name;
        row(&format!("{name}: weights from its memory"), &card.read, "GB/s");
        row(&format!("{name}: operations in prefill"), &card.operations, "GFLOP/s");
        row(&format!("{name}: link, pinned"), &card.link, "GB/s");
        row(&format!("{name}: link back, pinned"), &card.link_back, "GB/s");
        row(&format!("{name}: link, not pinned"), &card.link_pageable, "GB/s");
    }
    lines.push(table.plain());
    for card in measured.cards.iter().flatten() {
        let (name, crossing, launch) = (&card.name, card.crossing_s * 1e6, card.launch_s * 1e6);
        let context = card.context;
        lines.push(format!("{name}: {crossing:.1} µs a crossing, {launch:.1} µs a launch, {context} for the driver\n"));
        if card.kernels.many_per_s > 0.0 {
            let giga = card.kernels.many_per_s / 1e9;
            lines.push(format!(
                "{name}: {giga:.0} GFLOP/s in prefill with {} tokens at once\n",
                plan::card::MANY_COLUMNS
            ));
        }
        lines.push(kernels(&card.kernels));
    }
    if !measured.took.is_empty() {
        let took = measured.took.iter().map(|(what, seconds)| format!("{what} {seconds:.1} s"));
        lines.push(format!("measured in: {}\n", took.collect::<Vec<_>>().join(", ")));
    }
    lines.push(match &measured.kept_in {
        Some(path) => format!("kept in {}\n", path.display()),
        None if measured.is_busy() => "not kept: the machine was busy\n".to_owned(),
        None => "not kept: neither XDG_CACHE_HOME nor HOME is set\n".to_owned(),
    });
    lines.join("\n")
}

/// What a card's kernels take, in microseconds, and its products by type.
fn kernels(kernels: &CardKernels) -> String {
    let CardKernels { norm_s, gate_s, round_s, heads_s, attention_s, latents_s, route_s, .. } = kernels;
    let steps = [
        ("norm", norm_s),
        ("gates", gate_s),
        ("rounding", round_s),
        ("heads", heads_s),
        ("attention", attention_s),
        ("over latents", latents_s),
        ("choice of experts", route_s),
    ];
    let steps = steps.map(|(what, seconds)| format!("{what} {:.1}", seconds * 1e6)).join(", ");
    let mut table = Table::new(&["its products", "GB/s", "µs to start", "of experts"]);
    for (quant, product) in &kernels.products {
        let [rate, start, experts] = [product.bytes_per_s / 1e9, product.start_s * 1e6, product.experts_s * 1e6];
        table.row([quant.to_string(), format!("{rate:.0}"), format!("{start:.1}"), format!("{experts:.1}")]);
    }
    format!("its steps for one token, in µs: {steps}\n\n{}", table.plain())
}
