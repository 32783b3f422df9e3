//! Where routed experts live: counted by home, for they are too many to be listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::wrapped;
use crate::expert_cache::HitRates;
use crate::profile::Ranges;
use crate::traffic::Traffic;
use crate::{Bytes, ExpertUse, Inventory, Plan, Role, Tier};

/// Where experts live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpertHome {
    /// All matrices in one tier.
    In(Tier),
    /// Matrices in several tiers.
    Split,
}

impl fmt::Display for ExpertHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(tier) => tier.fmt(f),
            Self::Split => f.pad("split"),
        }
    }
}

impl Serialize for ExpertHome {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The routed experts of one home.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HomeExperts {
    /// The home.
    pub home: ExpertHome,
    /// Its experts, over all layers.
    pub experts: u64,
    /// All experts of the model.
    pub of: u64,
    /// The share of all uses of experts that find theirs here, from 0 to 1.
    pub uses: f64,
    /// Bytes of experts that one decoded token reads from this tier, on average: also of those that are split, each matrix
    /// where it lives. None for the split ones, whose bytes are counted so.
    pub read_per_token: Option<Bytes>,
    /// Layers of which every expert is here.
    pub layers: Vec<u32>,
    /// Layers of which some experts are here, and how many.
    pub parts: Vec<(u32, u64)>,
}

/// One expert of a layer.
struct Expert {
    home: ExpertHome,
    share: f64,
}

/// The routed experts by home, nearest to compute first and those that are split last; nothing for a dense model.
/// `counts` are those that the plan was made with.
#[must_use]
pub fn experts(plan: &Plan, inventory: &Inventory, counts: Option<&ExpertUse>) -> Vec<HomeExperts> {
    let traffic = Traffic::new(inventory, counts);
    let mut all: BTreeMap<(u32, u32), Expert> = BTreeMap::new();
    let mut read: BTreeMap<ExpertHome, f64> = BTreeMap::new();
    for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
        let (Role::RoutedExpert, Some(layer), Some(expert)) = (unit.role, unit.layer, unit.expert) else { continue };
        // Biases are small and live by themselves.
        if unit.rows == 1 {
            continue;
        }
        let (home, share) = (ExpertHome::In(placement.home), traffic.expert_share(unit));
        *read.entry(home).or_default() += unit.bytes.as_f64() * share;
        let expert = all.entry((layer, expert)).or_insert(Expert { home, share });
        if expert.home != home {
            expert.home = ExpertHome::Split;
        }
    }
    let mut in_layer: BTreeMap<u32, u64> = BTreeMap::new();
    for (layer, _) in all.keys() {
        *in_layer.entry(*layer).or_default() += 1;
    }
    let uses: f64 = all.values().map(|expert| expert.share).sum();
    let homes: BTreeSet<ExpertHome> = all.values().map(|expert| expert.home).chain(read.keys().copied()).collect();
    let of_home = |home: ExpertHome| {
        let here = || all.iter().filter(move |(_, expert)| expert.home == home);
        let mut by_layer: BTreeMap<u32, u64> = BTreeMap::new();
        here().for_each(|((layer, _), _)| *by_layer.entry(*layer).or_default() += 1);
        let (whole, parts): (Vec<_>, Vec<_>) =
            by_layer.into_iter().partition(|(layer, experts)| in_layer[layer] == *experts);
        HomeExperts {
            home,
            experts: here().count() as u64,
            of: all.len() as u64,
            uses: here().map(|(_, expert)| expert.share).sum::<f64>() / uses.max(f64::MIN_POSITIVE),
            read_per_token: read.get(&home).map(|read| Bytes(*read as u64)),
            layers: whole.into_iter().map(|(layer, _)| layer).collect(),
            parts,
        }
    };
    homes.into_iter().map(of_home).collect()
}

/// Layers of which a tier has a part that are named one by one; more are given as a span.
const PARTS_NAMED: usize = 2;
/// Columns for ranges of layers.
const NAMED_COLUMNS: usize = 24;

/// The report's part about experts; nothing for a dense model.
pub(super) fn section(out: &mut String, plan: &Plan, inventory: &Inventory, counts: Option<&ExpertUse>) {
    let homes = experts(plan, inventory, counts);
    let Some(first) = homes.first() else { return };
    let shape = &inventory.shape;
    let counted = Traffic::new(inventory, counts).counted();
    let likely = match counted {
        Some(counts) => format!("shares as counted over {} tokens", grouped(counts.tokens())),
        None => "each taken to be as likely as any".to_owned(),
    };
    let found = HitRates::new(inventory, &plan.placements, plan.exchange, counted).mean();
    let uses = |text: String| if counted.is_some() { text } else { String::new() };
    let (of, used) = (grouped(first.of), shape.experts_used);
    let _ = writeln!(out, "\n  {of} experts, of which a token chooses {used} in each layer: {likely}");
    if let Some(found) = found {
        let share = format!("{:.1} %", found * 100.0);
        let _ =
            writeln!(out, "  experts change places: a replay of the trace finds {share} of uses in RAM while decoding");
    }
    let _ = writeln!(
        out,
        "  {:<6}{:>8}{:>9}{}{:>16}  layers",
        "home",
        "experts",
        "share",
        uses(format!("{:>9}", "of uses")),
        "read per token"
    );
    for home in &homes {
        let share = format!("{:.1} %", home.experts as f64 / home.of as f64 * 100.0);
        let of_uses = uses(format!("{:>9}", format!("{:.1} %", home.uses * 100.0)));
        let read = home.read_per_token.map_or_else(|| "in each tier".to_owned(), |bytes| bytes.to_string());
        let head = format!("  {:<6}{:>8}{share:>9}{of_uses}{read:>16}  ", home.home, grouped(home.experts));
        let next = " ".repeat(head.chars().count());
        wrapped(out, &head, &next, layers(home, shape.experts).iter().map(String::as_str), ", ");
    }
    if homes.iter().any(|home| home.home == ExpertHome::Split) {
        out.push_str("  split: an expert has matrices in several tiers, and is as slow as the farthest\n");
    }
}

/// `all of 7..=29`, `160 of layer 30`, `11 of 256 in each of layers 3..=60`.
fn layers(home: &HomeExperts, of: u32) -> Vec<String> {
    let mut parts = Vec::new();
    if !home.layers.is_empty() {
        parts.push(format!("all of {}", named(&home.layers)));
    }
    if home.parts.len() <= PARTS_NAMED {
        parts.extend(home.parts.iter().map(|(layer, experts)| format!("{experts} of layer {layer}")));
    } else {
        let (layers, experts): (Vec<u32>, Vec<u64>) = home.parts.iter().copied().unzip();
        let least = experts.iter().min().copied().unwrap_or_default();
        let most = experts.iter().max().copied().unwrap_or_default();
        let experts = if least == most { least.to_string() } else { format!("{least} to {most}") };
        parts.push(format!("{experts} of {of} in each of layers {}", named(&layers)));
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
