//! Where routed experts live: counted by tier, for they are too many to be listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::wrapped;
use crate::profile::Ranges;
use crate::traffic::Traffic;
use crate::{Bytes, ExpertUse, Inventory, Plan, Role, Tier};

/// The routed experts of one tier. An expert counts where the farthest of its matrices lives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TierExperts {
    /// The tier.
    pub tier: Tier,
    /// Its experts, over all layers.
    pub experts: u64,
    /// All experts of the model.
    pub of: u64,
    /// The share of all uses of experts that find theirs here, from 0 to 1.
    pub uses: f64,
    /// Bytes of them that one decoded token reads, on average.
    pub read_per_token: Bytes,
    /// Layers of which every expert is here.
    pub layers: Vec<u32>,
    /// Layers of which some experts are here, and how many.
    pub parts: Vec<(u32, u64)>,
}

/// The routed experts by tier, nearest to compute first; nothing for a dense model. `counts` are those that the plan
/// was made with.
#[must_use]
pub fn experts(plan: &Plan, inventory: &Inventory, counts: Option<&ExpertUse>) -> Vec<TierExperts> {
    let traffic = Traffic::new(inventory, counts);
    // (layer, expert) → home, share, bytes. Biases are small and live by themselves.
    let mut all: BTreeMap<(u32, u32), (Tier, f64, f64)> = BTreeMap::new();
    for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
        let (Role::RoutedExpert, Some(layer), Some(expert)) = (unit.role, unit.layer, unit.expert) else { continue };
        if unit.rows == 1 {
            continue;
        }
        let share = traffic.expert_share(unit);
        let entry = all.entry((layer, expert)).or_insert((placement.home, share, 0.0));
        entry.0 = entry.0.max(placement.home);
        entry.2 += unit.bytes.as_f64() * share;
    }
    let mut in_layer: BTreeMap<u32, u64> = BTreeMap::new();
    for (layer, _) in all.keys() {
        *in_layer.entry(*layer).or_default() += 1;
    }
    let uses: f64 = all.values().map(|(_, share, _)| share).sum();
    let tiers: BTreeSet<Tier> = all.values().map(|(home, ..)| *home).collect();
    let of_tier = |tier: Tier| {
        let here = || all.iter().filter(move |(_, (home, ..))| *home == tier);
        let mut by_layer: BTreeMap<u32, u64> = BTreeMap::new();
        here().for_each(|((layer, _), _)| *by_layer.entry(*layer).or_default() += 1);
        let (whole, parts): (Vec<_>, Vec<_>) =
            by_layer.into_iter().partition(|(layer, experts)| in_layer[layer] == *experts);
        TierExperts {
            tier,
            experts: here().count() as u64,
            of: all.len() as u64,
            uses: here().map(|(_, (_, share, _))| share).sum::<f64>() / uses.max(f64::MIN_POSITIVE),
            read_per_token: Bytes(here().map(|(_, (.., read))| read).sum::<f64>() as u64),
            layers: whole.into_iter().map(|(layer, _)| layer).collect(),
            parts,
        }
    };
    tiers.into_iter().map(of_tier).collect()
}

/// Layers of which a tier has a part that are named one by one; more are given as a span.
const PARTS_NAMED: usize = 2;
/// Columns for ranges of layers.
const NAMED_COLUMNS: usize = 24;

/// The report's part about experts; nothing for a dense model.
pub(super) fn section(out: &mut String, plan: &Plan, inventory: &Inventory, counts: Option<&ExpertUse>) {
    let tiers = experts(plan, inventory, counts);
    let Some(first) = tiers.first() else { return };
    let shape = &inventory.shape;
    let counted = Traffic::new(inventory, counts).counted();
    let likely = match counted {
        Some(counts) => format!("shares as counted over {} tokens", grouped(counts.tokens())),
        None => "each taken to be as likely as any".to_owned(),
    };
    let uses = |text: String| if counted.is_some() { text } else { String::new() };
    let (of, used) = (grouped(first.of), shape.experts_used);
    let _ = writeln!(out, "\n  {of} experts, of which a token chooses {used} in each layer: {likely}");
    let _ = writeln!(
        out,
        "  {:<6}{:>8}{:>9}{}{:>16}  layers",
        "home",
        "experts",
        "share",
        uses(format!("{:>9}", "of uses")),
        "read per token"
    );
    for tier in &tiers {
        let share = format!("{:.1} %", tier.experts as f64 / tier.of as f64 * 100.0);
        let of_uses = uses(format!("{:>9}", format!("{:.1} %", tier.uses * 100.0)));
        let read = tier.read_per_token.to_string();
        let head = format!("  {:<6}{:>8}{share:>9}{of_uses}{read:>16}  ", tier.tier, grouped(tier.experts));
        let next = " ".repeat(head.chars().count());
        wrapped(out, &head, &next, layers(tier).iter().map(String::as_str), ", ");
    }
}

/// `all of 7..=29`, `160 of layer 30`.
fn layers(tier: &TierExperts) -> Vec<String> {
    let mut parts = Vec::new();
    if !tier.layers.is_empty() {
        parts.push(format!("all of {}", named(&tier.layers)));
    }
    if tier.parts.len() <= PARTS_NAMED {
        parts.extend(tier.parts.iter().map(|(layer, experts)| format!("{experts} of layer {layer}")));
    } else {
        let (layers, experts): (Vec<u32>, Vec<u64>) = tier.parts.iter().copied().unzip();
        let least = experts.iter().min().copied().unwrap_or_default();
        let most = experts.iter().max().copied().unwrap_or_default();
        let experts = if least == most { least.to_string() } else { format!("{least} to {most}") };
        parts.push(format!("{experts} in each of {}", named(&layers)));
    }
    parts
}

/// Layers as ranges, or as a span with a count where the ranges are many.
fn named(layers: &[u32]) -> String {
    let text = Ranges::of(layers.iter().copied()).map(|ranges| ranges.to_string()).unwrap_or_default();
    match layers {
        [first, .., last] if text.chars().count() > NAMED_COLUMNS => {
            format!("{} layers in {first}..={last}", layers.len())
        }
        _ => text,
    }
}

/// A number with commas between its thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        let _ = write!(out, "{digit}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (14_848, "14,848"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
