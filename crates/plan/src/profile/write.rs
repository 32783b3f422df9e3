//! Writes the plan that was chosen as a profile that asks for just that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Ranges;
use crate::expert_cache::Policy;
use crate::{Bytes, Device, Inventory, Plan, Role, Tier, Unit};

/// A profile that gives this plan again: the same homes, cache, ring, micro-batch and threads.
///
/// Units are grouped into few rules: a whole role, a role in some layers, a tensor in some layers, some experts of a
/// tensor. Every unit falls under exactly one rule, so that rules can be edited and moved freely.
#[must_use]
pub fn to_yaml(plan: &Plan, inventory: &Inventory) -> String {
    let mut text = String::new();
    let name: String = inventory.name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let forecast = plan.forecast.decode_tokens_per_s;
    let _ = writeln!(
        text,
        "# Written by `plimsoll plan -o` for {name}: about {forecast:.1} tokens per second. Edit freely."
    );
    text.push_str("version: 1\ntiers:\n");
    for tier in &plan.tiers {
        let _ = match (tier.ceiling, tier.tier) {
            (Some(ceiling), Tier::Ram) => {
                let threads = plan.threads;
                writeln!(text, "  ram: {{ memory: {}, threads: {threads} }}", exact(ceiling))
            }
            (Some(ceiling), other) => writeln!(text, "  {other}: {{ memory: {} }}", exact(ceiling)),
            (None, other) => writeln!(text, "  {other}: {{}}"),
        };
    }
    let kv = &plan.kv;
    let _ = writeln!(
        text,
        "context: {{ tokens: {}, k_type: {}, v_type: {}, kv_home: {} }}",
        kv.tokens,
        kv.k_type.name(),
        kv.v_type.name(),
        kv_home(&plan.kv.homes)
    );
    text.push_str("placement:\n");
    for rule in rules(plan, inventory) {
        let _ = writeln!(text, "  - {{ {rule} }}");
    }
    // `auto` chooses by rates: what it chose is said, where there was a choice.
    let (to, micro_batch) = (stream(plan), plan.micro_batch);
    let stay = if to != "none" && inventory.shape.experts > 0 {
        format!(", cpu_experts: {}", plan.cpu_experts)
    } else {
        String::new()
    };
    let _ = writeln!(text, "default: auto\nprefill: {{ stream_to: {to}, micro_batch: {micro_batch}{stay} }}");
    let mut decode = Vec::new();
    if plan.tiers.iter().any(|tier| matches!(tier.tier, Tier::Gpu(_))) {
        let fetch = (inventory.shape.experts > 0).then(|| plan.fetch.map_or(0, |fetch| fetch.experts));
        decode.extend(fetch.map(|experts| format!("fetch_experts: {experts}")));
        let kept = plan.fetch.map(|fetch| fetch.kept).filter(|kept| *kept > 0);
        decode.extend(kept.map(|kept| format!("keep_experts: {kept}")));
        decode.push(format!("stream_layers: {}", streamed_layers(plan, inventory)));
    }
    if plan.foresee > 0 {
        decode.push(format!("foresee_experts: {}", plan.foresee));
    }
    if plan.exchange != Policy::USUAL {
        decode.push(format!("exchange_experts: {}", plan.exchange.name()));
    }
    if !decode.is_empty() {
        let _ = writeln!(text, "decode: {{ {} }}", decode.join(", "));
    }
    text
}

/// Layers whose feed-forward matrices are copied to a GPU for each token.
fn streamed_layers(plan: &Plan, inventory: &Inventory) -> usize {
    let come = inventory.iter().filter(|(id, _)| plan.comes(*id)).filter_map(|(_, unit)| unit.layer);
    come.collect::<BTreeSet<u32>>().len()
}

/// The cache's home where all layers share one; else it follows from where attention lives.
fn kv_home(homes: &[Tier]) -> String {
    match homes.split_first() {
        Some((first, rest)) if rest.iter().all(|home| home == first) => first.to_string(),
        _ => "auto".to_owned(),
    }
}

/// A size that reads back as the same count of bytes.
fn exact(bytes: Bytes) -> String {
    match bytes.0 {
        n if n.is_multiple_of(1 << 30) => format!("{}GiB", n >> 30),
        n if n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
        n if n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

/// The GPU that prefill streams weights to, or `none`; several are what `auto` gives.
fn stream(plan: &Plan) -> String {
    let streamed = plan.placements.iter().filter_map(|placement| match (placement.home, placement.prefill) {
        (Tier::Ram | Tier::Disk, Device::Gpu(number)) => Some(number),
        _ => None,
    });
    let gpus: BTreeSet<u32> = streamed.collect();
    match gpus.first() {
        None => "none".to_owned(),
        Some(gpu) if gpus.len() == 1 => format!("gpu:{gpu}"),
        Some(_) => "auto".to_owned(),
    }
}

fn rules(plan: &Plan, inventory: &Inventory) -> Vec<String> {
    let mut rules = Vec::new();
    for role in Role::ALL.into_iter().filter(|role| *role != Role::MultiToken) {
        let units = inventory.units.iter().enumerate().filter(|(_, unit)| unit.role == role);
        let units: Vec<(&Unit, Tier)> = units.map(|(index, unit)| (unit, plan.placements[index].home)).collect();
        let Some((_, first)) = units.first() else { continue };
        if units.iter().all(|(_, home)| home == first) {
            rules.push(format!("role: {role}, home: {first}"));
        } else {
            mixed_role(role, &units, inventory, &mut rules);
        }
    }
    rules
}

/// A role with units in several tiers: whole layers first, then what is left by tensor.
fn mixed_role(role: Role, units: &[(&Unit, Tier)], inventory: &Inventory, rules: &mut Vec<String>) {
    let mut layers: BTreeMap<Option<u32>, Vec<(&Unit, Tier)>> = BTreeMap::new();
    for (unit, home) in units {
        layers.entry(unit.layer).or_default().push((unit, *home));
    }
    let mut whole: BTreeMap<Tier, Vec<u32>> = BTreeMap::new();
    let mut split: BTreeMap<(String, Tier), Vec<u32>> = BTreeMap::new();
    let mut rest: BTreeMap<u32, Vec<(&Unit, Tier)>> = BTreeMap::new();
    for (layer, units) in layers {
        let one_home = units.iter().all(|(_, home)| *home == units[0].1);
        match (layer, one_home, whole_experts(&units)) {
            (Some(layer), true, _) => whole.entry(units[0].1).or_default().push(layer),
            (Some(layer), false, Some(experts)) => {
                for (home, experts) in experts {
                    split.entry((scalar(&experts), home)).or_default().push(layer);
                }
            }
            _ => units.into_iter().for_each(|unit| rest.entry(unit.0.tensor).or_default().push(unit)),
        }
    }
    for (home, layers) in whole {
        if let Some(layers) = Ranges::of(layers) {
            rules.push(format!("role: {role}, layers: {}, home: {home}", scalar(&layers)));
        }
    }
    for ((experts, home), layers) in split {
        if let Some(layers) = Ranges::of(layers) {
            rules.push(format!("role: {role}, layers: {}, experts: {experts}, home: {home}", scalar(&layers)));
        }
    }
    by_tensor(&rest, inventory, rules);
}

/// The experts of one layer by home, where no expert is torn between tiers.
fn whole_experts(units: &[(&Unit, Tier)]) -> Option<Vec<(Tier, Ranges)>> {
    let mut home_of: BTreeMap<u32, Tier> = BTreeMap::new();
    for (unit, home) in units {
        if *home_of.entry(unit.expert?).or_insert(*home) != *home {
            return None;
        }
    }
    let mut experts: BTreeMap<Tier, Vec<u32>> = BTreeMap::new();
    for (expert, home) in home_of {
        experts.entry(home).or_default().push(expert);
    }
    experts.into_iter().map(|(home, experts)| Some((home, Ranges::of(experts)?))).collect()
}

/// Tensors of layers that are torn between tiers: those of the same name in several layers share a rule.
fn by_tensor(rest: &BTreeMap<u32, Vec<(&Unit, Tier)>>, inventory: &Inventory, rules: &mut Vec<String>) {
    // (name without its layer, experts, home) → layers
    let mut groups: BTreeMap<(String, String, Tier), Vec<u32>> = BTreeMap::new();
    for (tensor, units) in rest {
        let name = &inventory.tensors[*tensor as usize].name;
        let (layer, suffix) = match units[0].0.layer.map(|layer| (layer, format!("blk.{layer}."))) {
            Some((layer, prefix)) if name.starts_with(&prefix) => (Some(layer), name[prefix.len()..].to_owned()),
            _ => (None, name.clone()),
        };
        let mut homes: BTreeMap<Tier, Vec<u32>> = BTreeMap::new();
        for (unit, home) in units {
            homes.entry(*home).or_default().extend(unit.expert);
        }
        let torn = homes.len() > 1;
        for (home, experts) in homes {
            let experts = Ranges::of(experts).filter(|_| torn);
            let experts = experts.map_or(String::new(), |experts| format!(", experts: {}", scalar(&experts)));
            match layer {
                Some(layer) => groups.entry((suffix.clone(), experts, home)).or_default().push(layer),
                None => rules.push(format!("tensors: {}{experts}, home: {home}", pattern(name))),
            }
        }
    }
    for ((suffix, experts, home), layers) in groups {
        let layers: Vec<String> = layers.iter().map(u32::to_string).collect();
        let layers = if layers.len() == 1 { layers[0].clone() } else { format!("({})", layers.join("|")) };
        let text = format!(r"^blk\.{layers}\.{}$", regex::escape(&suffix));
        rules.push(format!("tensors: {}{experts}, home: {home}", quote(&text)));
    }
}

fn pattern(name: &str) -> String {
    quote(&format!("^{}$", regex::escape(name)))
}

/// A text as a YAML scalar. Names with control characters, which no sound file has, are written as JSON, which is YAML.
fn quote(text: &str) -> String {
    if text.chars().any(char::is_control) {
        return serde_json::Value::from(text).to_string();
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Ranges as a scalar: several need quotes inside `{ }`.
fn scalar(ranges: &Ranges) -> String {
    let text = ranges.to_string();
    if text.contains(',') { format!("'{text}'") } else { text }
}
