//! Plans as text for people: the table of `plimsoll plan`, and the story of one tensor or expert.

mod compare;
mod experts;
mod explain;
mod html;
mod machine;
mod moving;
mod why;

pub use compare::compare;
pub use experts::{ExpertHome, HomeExperts, experts};
pub use explain::{UnknownTensor, explain, explain_on, explain_with};
pub use html::html;
pub use machine::on;
pub use why::{Margin, Why, why};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::expert_cache::Policy;
use crate::profile::Ranges;
use crate::{Bytes, Device, ExpertUse, Inventory, Plan, Role, Scheme, Tier, TierPlan, cost};

/// Columns that a report keeps within.
pub const COLUMNS: usize = 100;

/// Columns for layers and for reasons in the table.
const LAYER_COLUMNS: usize = 20;
const REASON_COLUMNS: usize = 36;
/// Blocks of the bar that shows how full a tier is.
const BAR_BLOCKS: usize = 30;

/// The text of `plimsoll plan`: where everything lives and why, how full each tier is, what a token will cost.
#[must_use]
pub fn text(plan: &Plan, inventory: &Inventory) -> String {
    text_with(plan, inventory, None)
}

/// The same of a plan that was made with these counts ([`plan_with`](crate::plan_with)).
#[must_use]
pub fn text_with(plan: &Plan, inventory: &Inventory, counts: Option<&ExpertUse>) -> String {
    let mut out = String::new();
    headline(&mut out, inventory);
    table(&mut out, plan, inventory);
    out.push('\n');
    for tier in &plan.tiers {
        fullness(&mut out, tier);
    }
    experts::section(&mut out, plan, inventory, counts);
    settings(&mut out, plan, inventory);
    forecast(&mut out, plan);
    if !plan.notes.is_empty() {
        out.push_str("\n  notes\n");
        for note in &plan.notes {
            wrapped(&mut out, "  - ", "    ", note.split(' '), " ");
        }
    }
    out
}

fn headline(out: &mut String, inventory: &Inventory) {
    let shape = &inventory.shape;
    let mut parts = vec![shape.architecture.clone(), format!("{} layers", shape.layers)];
    if shape.experts > 0 {
        parts.push(format!("{} of {} experts", shape.experts_used, shape.experts));
    }
    parts.push(format!("{} of weights", inventory.bytes()));
    let files = inventory.files.len();
    if files > 1 {
        parts.push(format!("{files} files"));
    }
    let name = cut(&inventory.name, 40);
    let _ = writeln!(out, "{name} · {}\n", parts.join(" · "));
}

/// What one row of the table is about.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct RowKey<'a> {
    home: Tier,
    role: Role,
    reason: &'a str,
}

#[derive(Default)]
struct Row {
    layers: Vec<u32>,
    bytes: Bytes,
}

fn table(out: &mut String, plan: &Plan, inventory: &Inventory) {
    let mut rows: BTreeMap<RowKey<'_>, Row> = BTreeMap::new();
    for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
        let key = RowKey { home: placement.home, role: unit.role, reason: &placement.reason };
        let row = rows.entry(key).or_default();
        row.bytes += unit.bytes;
        // Units come by tensor; a layer is listed once.
        if let Some(layer) = unit.layer
            && row.layers.last() != Some(&layer)
        {
            row.layers.push(layer);
        }
    }
    let total = inventory.bytes().as_f64().max(1.0);
    let _ =
        writeln!(out, "  {:<6}{:<14}{:<LAYER_COLUMNS$}{:>11}{:>9}  why", "home", "role", "layers", "bytes", "share");
    for (key, mut row) in rows {
        row.layers.sort_unstable();
        row.layers.dedup();
        let layers = layers(&row.layers);
        let share = format!("{:.1} %", row.bytes.as_f64() / total * 100.0);
        let reason = cut(key.reason, REASON_COLUMNS);
        let _ = writeln!(
            out,
            "  {:<6}{:<14}{layers:<LAYER_COLUMNS$}{:>11}{share:>9}  {reason}",
            key.home, key.role, row.bytes
        );
    }
}

/// Layers as ranges, or as a span with a count where the ranges are many.
fn layers(layers: &[u32]) -> String {
    let Some(ranges) = Ranges::of(layers.iter().copied()) else { return "–".to_owned() };
    let text = ranges.to_string();
    if text.chars().count() < LAYER_COLUMNS {
        return text;
    }
    format!("{} in {}..={}", layers.len(), layers[0], layers[layers.len() - 1])
}

fn fullness(out: &mut String, tier: &TierPlan) {
    let bytes = tier.bytes();
    let head = format!("  {:<6}", tier.tier);
    if let Some(ceiling) = tier.ceiling {
        let share = bytes.as_f64() / ceiling.as_f64().max(1.0);
        let full = ((share * BAR_BLOCKS as f64).round() as usize).min(BAR_BLOCKS);
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(BAR_BLOCKS - full));
        let _ = writeln!(out, "{head}{bar}  {bytes} of {ceiling} ({:.1} %)", share * 100.0);
    } else {
        let _ = writeln!(out, "{head}no ceiling");
    }
    let loads = tier.loads.iter().map(|load| format!("{} {}", load.what, load.bytes));
    let read = format!("{} read per token", tier.read_per_token);
    let parts: Vec<String> = loads.chain([read]).collect();
    let indent = " ".repeat(8);
    wrapped(out, &indent, &indent, parts.iter().map(String::as_str), " · ");
}

fn settings(out: &mut String, plan: &Plan, inventory: &Inventory) {
    let kv = &plan.kv;
    let types = if kv.k_type == kv.v_type {
        kv.k_type.name().to_owned()
    } else {
        format!("{} and {}", kv.k_type.name(), kv.v_type.name())
    };
    let trained = inventory.shape.context_train;
    // Less than the default is said in the notes, with its reason; anything else was asked for.
    let default = if kv.tokens == cost::CONTEXTS[0].min(trained) { " (default)" } else { "" };
    let mut parts = vec![
        format!("context {} of {trained} tokens{default}, KV in {types} in {}", kv.tokens, kv.home_names()),
        format!("micro-batch {}", plan.micro_batch),
        format!("{} threads", plan.threads),
    ];
    let streamed = plan.placements.iter().filter_map(|placement| match (placement.home, placement.prefill) {
        (Tier::Ram | Tier::Disk, Device::Gpu(number)) => Some(number),
        _ => None,
    });
    let streamed: BTreeSet<u32> = streamed.collect();
    if let (Some(from), false) = (plan.stream_from, streamed.is_empty()) {
        let gpus: Vec<String> = streamed.iter().map(|number| format!("gpu:{number}")).collect();
        let stay = match plan.cpu_experts {
            0 => String::new(),
            experts => format!(", but for {experts} experts a layer"),
        };
        parts.push(format!("prompts from {from} tokens on streamed to {}{stay}", gpus.join(" and ")));
    }
    if plan.scheme != Scheme::ByUse {
        parts.push(format!("placed {}, the fastest way by the forecast", plan.scheme));
    }
    if let Some(fetch) = plan.fetch {
        let kept = if fetch.kept > 0 { format!(", {} kept there", fetch.kept) } else { String::new() };
        parts.push(format!("{} of {} chosen experts fetched to gpu:{}{kept}", fetch.experts, fetch.of, fetch.gpu));
    }
    if plan.foresee > 0 {
        parts.push(format!("{} likely experts of the next layer read ahead", plan.foresee));
    }
    if plan.placements.iter().any(|placement| placement.exchanges) && plan.exchange != Policy::USUAL {
        parts.push(format!("experts change places: {}", plan.exchange.name()));
    }
    if plan.staging.slots > 0 {
        parts.push(format!("ring {} × {}", plan.staging.slots, plan.staging.slot));
    }
    out.push('\n');
    wrapped(out, "  ", "  ", parts.iter().map(String::as_str), " · ");
}

fn forecast(out: &mut String, plan: &Plan) {
    let Plan { forecast, micro_batch, .. } = plan;
    let rates = if forecast.measured { "measured rates" } else { "estimated rates" };
    let _ = writeln!(out, "\n  forecast, from {rates}");
    let depth = crate::forecast::depth(plan);
    let decode = figure(forecast.decode_tokens_per_s);
    let _ = writeln!(out, "    decode       {decode:>9} tokens/s, with {depth} tokens in the context");
    let _ = writeln!(out, "    prompt       {:>9} tokens/s", figure(forecast.prompt_tokens_per_s));
    let first = figure(forecast.time_to_first_token_s);
    let _ = writeln!(out, "    first token  {first:>9} s, after a prompt of {micro_batch} tokens");
    let _ = writeln!(out, "    load         {:>9} s", figure(forecast.load_s));
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// Writes parts one after the other, in as many lines as [`COLUMNS`] asks for.
fn wrapped<'a>(out: &mut String, first: &str, next: &str, parts: impl Iterator<Item = &'a str>, between: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for part in parts {
        let width = line.chars().count() + between.chars().count() + part.chars().count();
        if !empty && width > COLUMNS {
            out.push_str(line.trim_end());
            out.push('\n');
            next.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push_str(between);
        }
        line.push_str(part);
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

fn cut(text: &str, columns: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= columns {
        return clean.collect();
    }
    clean.take(columns - 1).chain(['…']).collect()
}
