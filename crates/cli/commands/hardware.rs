//! `plimsoll hardware`: the parts that machines of `plan --on` are made of.

use std::fmt::Write as _;

use plan::hardware::{Catalogue, Price};
use serde_json::{Value, json};

use crate::args::HardwareArgs;
use crate::{hardware, show};

pub(super) fn run(args: &HardwareArgs) -> anyhow::Result<()> {
    let catalogue = hardware::catalogue();
    if args.json { show::json(&document(&catalogue)) } else { show::product(&text(&catalogue)) }
}

/// Names and figures, each kind of part by its rate.
fn text(catalogue: &Catalogue) -> String {
    let mut out = String::from("GPUs\n");
    let mut cards: Vec<_> = catalogue.cards.values().collect();
    cards.sort_by(|a, b| a.bandwidth.value.0.total_cmp(&b.bandwidth.value.0));
    for card in cards {
        let (major, minor) = card.capability.value;
        let price = card.price.as_ref().map_or("–".to_owned(), dollars);
        let (memory, rate, title) = (card.memory.value.to_string(), card.bandwidth.value.to_string(), &card.title);
        let _ = writeln!(out, "  {:<17}{memory:>11}{rate:>13}{price:>12}   {title}, sm_{major}{minor}", card.name);
    }
    out.push_str("\nmemories, with processor, board, power supply and case; prices without and for each GiB\n");
    let mut memories: Vec<_> = catalogue.memories.values().collect();
    memories.sort_by(|a, b| a.bandwidth.value.0.total_cmp(&b.bandwidth.value.0));
    for memory in memories {
        let most = memory.sizes.value.last().copied().unwrap_or_default().to_string();
        let (rate, price) = (memory.bandwidth.value.to_string(), dollars(&memory.price));
        let (each, title) = (memory.price_per_gib.usd, &memory.title);
        let _ = writeln!(out, "  {:<17}{most:>11}{rate:>13}{price:>12} + {each:.1}   {title}", memory.name);
    }
    out.push_str("\ndrives of 2 TB\n");
    let mut drives: Vec<_> = catalogue.drives.values().collect();
    drives.sort_by(|a, b| a.bandwidth.value.0.total_cmp(&b.bandwidth.value.0));
    for drive in drives {
        let (rate, price) = (drive.bandwidth.value.to_string(), dollars(&drive.price));
        let _ = writeln!(out, "  {:<17}{:>11}{rate:>13}{price:>12}   {}", drive.name, "", drive.title);
    }
    out.push_str("\nRates are peaks; --json has the source of each figure. GPUs before sm_80 are not used.\n");
    out
}

fn dollars(price: &Price) -> String {
    format!("{:.0} USD", price.usd)
}

fn document(catalogue: &Catalogue) -> Value {
    let price = |price: &Price| json!({ "usd": price.usd, "when": price.when, "source": &*price.source });
    macro_rules! figure {
        ($figure:expr, $value:expr) => {
            json!({ "value": $value, "source": &*$figure.source })
        };
    }
    let cards = catalogue.cards.values().map(|card| {
        let (major, minor) = card.capability.value;
        json!({
            "name": card.name,
            "title": card.title,
            "capability": figure!(card.capability, format!("{major}.{minor}")),
            "memory_bytes": figure!(card.memory, card.memory.value),
            "bytes_per_s": figure!(card.bandwidth, card.bandwidth.value),
            "multiprocessors": figure!(card.multiprocessors, card.multiprocessors.value),
            "clock_hz": figure!(card.clock, card.clock.value),
            "pcie": figure!(card.pcie, card.pcie.value.0),
            "price": card.price.as_ref().map(price),
        })
    });
    let memories = catalogue.memories.values().map(|memory| {
        json!({
            "name": memory.name,
            "title": memory.title,
            "bytes_per_s": figure!(memory.bandwidth, memory.bandwidth.value),
            "reachable": figure!(memory.reachable, memory.reachable.value),
            "cores": figure!(memory.cores, memory.cores.value),
            "pcie": figure!(memory.pcie, memory.pcie.value.0),
            "sizes_bytes": figure!(memory.sizes, memory.sizes.value),
            "price": price(&memory.price),
            "price_per_gib": price(&memory.price_per_gib),
        })
    });
    let drives = catalogue.drives.values().map(|drive| {
        json!({
            "name": drive.name,
            "title": drive.title,
            "bytes_per_s": figure!(drive.bandwidth, drive.bandwidth.value),
            "pcie": drive.pcie.as_ref().map(|pcie| figure!(pcie, pcie.value.0)),
            "price": price(&drive.price),
        })
    });
    json!({
        "gpus": cards.collect::<Vec<_>>(),
        "memories": memories.collect::<Vec<_>>(),
        "drives": drives.collect::<Vec<_>>(),
    })
}
