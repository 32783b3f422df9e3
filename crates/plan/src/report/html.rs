//! A plan as one page for a browser: the tiers and how full they are, the layers in them, the links with their load, the forecast.
//!
//! The page is whole in itself: its style is within, and nothing is fetched. What comes from a file is escaped.

use std::fmt::Write as _;

use super::{Why, figure};
use crate::{Bytes, Cost, Inventory, Machine, Plan, Role, TERMS, Tier, TierPlan};

const STYLE: &str = include_str!("page.css");

/// The page of a plan, with what limits it.
#[must_use]
pub fn html(plan: &Plan, inventory: &Inventory, machine: &Machine, why: &Why) -> String {
    let mut out = String::new();
    let name = escaped(&inventory.name);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{name} · Plimsoll</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    head(&mut out, plan, inventory, machine);
    out.push_str("<h2>Tiers</h2>\n");
    for (place, tier) in plan.tiers.iter().enumerate() {
        if place > 0 {
            link(&mut out, plan, machine, why, tier.tier, plan.tiers[place - 1].tier);
        }
        hull(&mut out, tier);
    }
    out.push_str("<h2>Layers</h2>\n<div class=\"panel\">\n");
    layers(&mut out, plan, inventory);
    out.push_str("</div>\n<h2>Where the time goes</h2>\n<div class=\"panel\">\n");
    time(&mut out, why, plan);
    out.push_str("</div>\n");
    if !plan.notes.is_empty() {
        out.push_str("<h2>Notes</h2>\n<div class=\"panel small\"><ul>\n");
        for note in &plan.notes {
            let _ = writeln!(out, "<li>{}</li>", escaped(note));
        }
        out.push_str("</ul></div>\n");
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn head(out: &mut String, plan: &Plan, inventory: &Inventory, machine: &Machine) {
    let shape = &inventory.shape;
    let experts = match shape.experts {
        0 => String::new(),
        experts => format!(" · {} of {experts} experts", shape.experts_used),
    };
    let (bytes, rates) = (inventory.bytes(), if plan.forecast.measured { "measured" } else { "estimated" });
    let (name, architecture) = (escaped(&inventory.name), escaped(&shape.architecture));
    let _ = write!(
        out,
        "<h1>{name}</h1>\n<p class=\"soft\">{architecture} · {} layers{experts} · {bytes} of weights<br>on {}, {} threads · context {} \
         tokens · micro-batch {}</p>\n<div class=\"cards\">\n",
        shape.layers,
        escaped(&parts(plan, machine)),
        plan.threads,
        plan.kv.tokens,
        plan.micro_batch
    );
    let f = &plan.forecast;
    for (main, value, unit, what) in [
        (" main", f.decode_tokens_per_s, "tokens/s", "decode"),
        ("", f.prompt_tokens_per_s, "tokens/s", "prompt"),
        ("", f.time_to_first_token_s, "s", "to the first token of a prompt of one micro-batch"),
        ("", f.load_s, "s", "to load"),
    ] {
        let value = figure(value);
        let _ = writeln!(out, "<div class=\"card{main}\"><b>{value}</b><span>{unit} {what}</span></div>");
    }
    let _ =
        writeln!(out, "</div>\n<p class=\"soft small\">Forecast from {rates} rates, before anything was loaded.</p>");
}

/// The processor, and the GPUs that the plan uses.
fn parts(plan: &Plan, machine: &Machine) -> String {
    let cards = plan.tiers.iter().filter_map(|tier| match tier.tier {
        Tier::Gpu(number) => machine.gpus.get(number as usize).map(|gpu| gpu.name.clone()),
        _ => None,
    });
    cards.chain([machine.cpu.clone()]).collect::<Vec<_>>().join(", ")
}

const fn class(tier: Tier) -> &'static str {
    match tier {
        Tier::Gpu(_) => "gpu",
        Tier::Ram => "ram",
        Tier::Disk => "disk",
    }
}

/// A tier as a hull that is loaded up to its line.
fn hull(out: &mut String, tier: &TierPlan) {
    let (bytes, name) = (tier.bytes(), tier.tier);
    let whole = tier.ceiling.unwrap_or(bytes).max(bytes).as_f64().max(1.0);
    let line = match tier.ceiling {
        Some(ceiling) => format!("{bytes} of {ceiling} ({:.0} %)", bytes.as_f64() / ceiling.as_f64().max(1.0) * 100.0),
        None => format!("{bytes}, no ceiling"),
    };
    let _ = write!(
        out,
        "<div class=\"tier\"><div class=\"head\"><b>{name}</b><span>{line}</span></div>\n<div class=\"hull\">"
    );
    let kind = |what: &str| match what {
        "weights" => class(tier.tier),
        "KV cache" => "kv",
        _ => "work",
    };
    let mut loads: Vec<_> = tier.loads.iter().filter(|load| load.bytes > Bytes::ZERO).collect();
    loads.sort_by_key(|load| (load.what != "weights", load.what != "KV cache"));
    for load in &loads {
        let share = load.bytes.as_f64() / whole * 100.0;
        let _ = write!(
            out,
            "<i class=\"{}\" style=\"width:{share:.2}%\" title=\"{} {}\"></i>",
            kind(&load.what),
            escaped(&load.what),
            load.bytes
        );
    }
    out.push_str("</div>\n<div class=\"key\">");
    for load in &loads {
        let what = escaped(&load.what);
        let _ = write!(out, "<span><i class=\"{}\"></i>{what} {}</span>", kind(&load.what), load.bytes);
    }
    let _ = writeln!(out, "<span>{} of weights read per token</span></div></div>", tier.read_per_token);
}

/// What goes from one tier to the one above it for a decoded token, and how much of the token's time the way is in use.
fn link(out: &mut String, plan: &Plan, machine: &Machine, why: &Why, from: Tier, to: Tier) {
    const ARROW: &str = "<svg width=\"14\" height=\"18\" viewBox=\"0 0 14 18\" aria-hidden=\"true\"><path d=\"M7 1v16M2 6l5-5 5 5\" \
                         fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.6\"/></svg>";
    let (text, busy) = match (from, to) {
        (Tier::Disk, _) => {
            let read = plan.tier(Tier::Disk).map_or(Bytes::ZERO, |disk| disk.read_per_token);
            let busy = why.decode.disk_s / why.decode.seconds.max(f64::MIN_POSITIVE);
            (format!("{read} a token at {}, {:.0} % busy", machine.disk_read.rate, busy * 100.0), busy)
        }
        (Tier::Ram, Tier::Gpu(_)) => {
            let cards = plan.tiers.iter().filter_map(|tier| match tier.tier {
                Tier::Gpu(number) => machine.gpus.get(number as usize),
                Tier::Ram | Tier::Disk => None,
            });
            let rates: Vec<String> = cards.map(|gpu| gpu.link.rate.to_string()).collect();
            let link = if rates.len() > 1 { "links" } else { "link" };
            let rate = if rates.is_empty() { String::new() } else { format!(", {link} {}", rates.join(" and ")) };
            let busy = why.decode.of(crate::Term::Crossings) / why.decode.seconds.max(f64::MIN_POSITIVE);
            (format!("numbers of a token cross, {:.0} % of its time{rate}", busy * 100.0), busy)
        }
        _ => return,
    };
    let width = (busy * 100.0).clamp(0.0, 100.0);
    let _ = writeln!(
        out,
        "<div class=\"link soft small\">{ARROW}<div class=\"wire\"><i class=\"{}\" style=\"width:{width:.1}%\"></i></div><span>{}</span></div>",
        class(from),
        escaped(&text)
    );
}

/// Rows of the picture of layers.
const ROWS: [(&str, &[Role]); 3] = [
    ("attention", &[Role::Attention]),
    ("feed-forward", &[Role::DenseFfn, Role::SharedExpert, Role::Router]),
    ("experts", &[Role::RoutedExpert]),
];

/// Every layer as a column, coloured by where its bytes live; the table of vectors and the output at the ends.
fn layers(out: &mut String, plan: &Plan, inventory: &Inventory) {
    const WIDE: f64 = 1000.0;
    const HIGH: f64 = 46.0;
    /// How far the ends stand apart, in columns.
    const APART: f64 = 0.25;
    let count = inventory.shape.layers as usize;
    // Bytes by row and layer in each kind of tier; the ends are layers of their own.
    let mut bytes = vec![[[0.0_f64; 3]; ROWS.len()]; count + 2];
    for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
        let kind = match placement.home {
            Tier::Gpu(_) => 0,
            Tier::Ram => 1,
            Tier::Disk => 2,
        };
        let (column, row) = match (unit.role, unit.layer) {
            (Role::Embedding, _) => (0, 0),
            (Role::Output, None) => (count + 1, 0),
            (role, Some(layer)) if (layer as usize) < count => {
                match ROWS.iter().position(|(_, roles)| roles.contains(&role)) {
                    Some(row) => (layer as usize + 1, row),
                    None => continue,
                }
            }
            _ => continue,
        };
        bytes[column][row][kind] += unit.bytes.as_f64();
    }
    let rows: Vec<usize> =
        (0..ROWS.len()).filter(|row| bytes[1..=count].iter().any(|of| of[*row].iter().sum::<f64>() > 0.0)).collect();
    let output = bytes[count + 1].as_flattened().iter().sum::<f64>() > 0.0;
    let columns = count as f64 + if output { 2.0 + 2.0 * APART } else { 1.0 + APART };
    let step = WIDE / columns;
    // The ends stand apart.
    let left = |column: usize| match column {
        0 => 0.0,
        last if last == count + 1 => WIDE - step,
        layer => (layer as f64 + APART) * step,
    };
    out.push_str("<div class=\"layers\">\n");
    for (line, row) in rows.iter().enumerate() {
        let name = ROWS[*row].0;
        let _ = writeln!(
            out,
            "<span>{name}</span><svg viewBox=\"0 0 {WIDE} {HIGH}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{name} of each layer by tier\">"
        );
        for (column, of) in bytes.iter().enumerate().filter(|(column, _)| line == 0 || (1..=count).contains(column)) {
            let title = match column {
                0 => "table of vectors".to_owned(),
                last if last == count + 1 => "output".to_owned(),
                layer => format!("layer {}, {name}", layer - 1),
            };
            cell(out, &of[*row], (left(column), 0.0, step * 0.9, HIGH), &title);
        }
        out.push_str("</svg>\n");
    }
    out.push_str("<div class=\"axis\">");
    for layer in (0..count).step_by((count / 8).max(1)) {
        let middle = (left(layer + 1) + step * 0.45) / WIDE * 100.0;
        let _ = write!(out, "<span style=\"left:{middle:.2}%\">{layer}</span>");
    }
    out.push_str("</div></div>\n<div class=\"key\">");
    for tier in &plan.tiers {
        let _ = write!(out, "<span><i class=\"{}\"></i>{}</span>", class(tier.tier), tier.tier);
    }
    let ends = if output {
        "first and last: table of vectors, output"
    } else {
        "first: table of vectors, which is the output too"
    };
    let _ = writeln!(out, "<span>{ends}</span></div>");
}

/// One block of a layer: stacked by tier, the nearest at the bottom.
fn cell(out: &mut String, bytes: &[f64; 3], (x, y, width, height): (f64, f64, f64, f64), title: &str) {
    let all: f64 = bytes.iter().sum();
    if all <= 0.0 {
        return;
    }
    let _ = write!(out, "<g><title>{title}: {}</title>", Bytes(all as u64));
    let mut bottom = y + height;
    for (part, class) in bytes.iter().zip(["gpu", "ram", "disk"]) {
        let tall = height * part / all;
        bottom -= tall;
        if tall > 0.0 {
            let _ = write!(
                out,
                "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{bottom:.2}\" width=\"{width:.2}\" height=\"{tall:.2}\"/>"
            );
        }
    }
    out.push_str("</g>\n");
}

fn time(out: &mut String, why: &Why, plan: &Plan) {
    let micro_batch = plan.micro_batch;
    let prompt = format!("a prompt of {micro_batch} tokens");
    for (what, cost) in [("a decoded token", &why.decode), (&prompt, &why.prompt)] {
        spent(out, what, cost);
    }
    let used: Vec<_> = TERMS.into_iter().filter(|term| why.decode.of(*term) + why.prompt.of(*term) > 0.0).collect();
    out.push_str("<div class=\"key\">");
    for term in used {
        let _ = write!(out, "<span><i class=\"t{}\"></i>{}</span>", term as usize, term.name());
    }
    out.push_str("</div>\n");
    if !why.margins.is_empty() {
        out.push_str("<ul>\n");
        for margin in &why.margins {
            let _ = writeln!(out, "<li>{margin}</li>");
        }
        out.push_str("</ul>\n");
    }
}

/// Seconds as people read them.
fn duration(seconds: f64) -> String {
    if seconds < 1.0 { format!("{} ms", figure(seconds * 1e3)) } else { format!("{} s", figure(seconds)) }
}

fn spent(out: &mut String, what: &str, cost: &Cost) {
    let _ = write!(
        out,
        "<div class=\"head small\"><span>{what}</span><span class=\"soft\">{}</span></div><div class=\"bar\">",
        duration(cost.seconds)
    );
    for term in TERMS.into_iter().filter(|term| cost.of(*term) > 0.0) {
        let share = cost.of(term) / cost.seconds.max(f64::MIN_POSITIVE) * 100.0;
        let _ = write!(
            out,
            "<i class=\"t{}\" style=\"width:{share:.2}%\" title=\"{} {share:.0} %\"></i>",
            term as usize,
            term.name()
        );
    }
    out.push_str("</div>\n");
}
