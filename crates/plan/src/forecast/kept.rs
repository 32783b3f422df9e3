//! Which routed experts the processor computes in prompts, while the others are streamed to a GPU.
//!
//! A prompt of 512 tokens gives an expert of R1 sixteen of them, and a link of 55 GB/s brings it in 0.48 ms in `Q4_K`. Sixteen cores multiply as
//! many tokens with it in about the same time, out of memory that gives twice what the link takes: both together take half as long. The
//! experts that stay are the same in every pass, so that copies need not wait for a router, and a run repeats itself: those that fewest tokens choose by
//! what was counted, and the last ones where nothing was.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Passes;
use crate::traffic::Traffic;
use crate::{Device, Inventory, Machine, Plan, Role, Tier};

/// Experts of one layer that may stay, each with its units.
type Layer = BTreeMap<u32, Vec<usize>>;

/// Has as many experts of each layer stay with the processor as are asked, or as make a prompt of one micro-batch fastest.
pub(super) fn keep(
    plan: &mut Plan,
    inventory: &Inventory,
    machine: &Machine,
    traffic: Traffic<'_>,
    asked: Option<u32>,
) {
    let layers = may_stay(plan, inventory);
    let most = layers.values().map(BTreeMap::len).max().unwrap_or(0) as u32;
    if most == 0 || plan.micro_batch < 2 {
        return;
    }
    let best = || Passes::new(plan, inventory, machine, traffic).best_kept(plan.micro_batch, most);
    plan.cpu_experts = asked.map_or_else(best, |asked| asked.min(most));
    for experts in layers.into_values() {
        let mut experts: Vec<(u32, Vec<usize>)> = experts.into_iter().collect();
        let share = |units: &[usize]| traffic.expert_share(&inventory.units[units[0]]).to_bits();
        experts.sort_by_key(|(expert, units)| (share(units), Reverse(*expert)));
        for unit in experts.iter().take(plan.cpu_experts as usize).flat_map(|(_, units)| units) {
            plan.placements[*unit].prefill = Device::Cpu;
        }
    }
}

/// By layer, the experts all of whose matrices live in RAM and are streamed.
fn may_stay(plan: &Plan, inventory: &Inventory) -> BTreeMap<u32, Layer> {
    let mut layers: BTreeMap<u32, Layer> = BTreeMap::new();
    let mut torn = Vec::new();
    for (index, (unit, placement)) in inventory.units.iter().zip(&plan.placements).enumerate() {
        let (Role::RoutedExpert, Some(layer), Some(expert)) = (unit.role, unit.layer, unit.expert) else { continue };
        // A bias is a row, which a GPU has a copy of: it has to be at hand for the processor, too.
        let (is_matrix, comes) = (unit.rows > 1, matches!(placement.prefill, Device::Gpu(_)));
        match (placement.home, comes) {
            (Tier::Ram, true) if is_matrix => {
                layers.entry(layer).or_default().entry(expert).or_default().push(index);
            }
            (Tier::Ram, _) if !is_matrix => {}
            _ => torn.push((layer, expert)),
        }
    }
    for (layer, expert) in torn {
        layers.get_mut(&layer).and_then(|experts| experts.remove(&expert));
    }
    layers
}
