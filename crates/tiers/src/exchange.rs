//! Experts that change places: what routers choose comes to RAM, and what they choose no longer makes room.
//!
//! Owns who has a place; who makes room is [`plan::expert_cache`]'s rule. In a layer whose experts are homed partly in RAM and partly on disk, and may change places by the plan, each
//! one in RAM holds a place for its matrices; all places of a layer are alike. When a router has chosen, each chosen expert without a
//! place takes one from another expert, which the plan's policy names if any (usually the one that was used least, unless it was used more than itself); experts of the same choice
//! keep theirs, so that a long prompt, which uses nearly all, drives none out. Bytes come to a place from the ring's slots,
//! while they are computed with. Nothing is allocated after the start.

use std::collections::BTreeMap;

use plan::expert_cache::{Policy, Uses};
use plan::{Inventory, Plan, Role, Tier, UnitId};

use crate::load::Starts;

/// Who has which place, in all layers.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    layers: Vec<Layer>,
    /// By unit: its layer here, its expert and which of the expert's matrices it is.
    members: BTreeMap<UnitId, (usize, usize, usize)>,
}

#[derive(Debug)]
struct Layer {
    experts: Vec<Expert>,
    /// Where the matrices of a place start in the arena, and how long they are.
    places: Vec<Vec<(usize, usize)>>,
    free: Vec<usize>,
    uses: Uses,
}

#[derive(Debug)]
struct Expert {
    units: Vec<UnitId>,
    held: Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Nothing,
    /// A place that is being filled: bytes that arrived.
    Coming(usize, usize),
    Place(usize),
}

impl Exchange {
    /// The layers of `plan` whose experts may change places, with what the arena has now.
    pub(crate) fn new(plan: &Plan, inventory: &Inventory, starts: &Starts) -> Self {
        let mut layers: BTreeMap<u32, BTreeMap<u32, Vec<UnitId>>> = BTreeMap::new();
        for (id, unit) in inventory.iter() {
            let (Some(layer), Some(expert)) = (unit.layer, unit.expert) else { continue };
            if unit.role == Role::RoutedExpert && plan.placements[id.0 as usize].exchanges {
                layers.entry(layer).or_default().entry(expert).or_default().push(id);
            }
        }
        let mut exchange = Self::default();
        for experts in layers.into_values() {
            let experts: Vec<Vec<UnitId>> = experts.into_values().collect();
            let sizes = |units: &[UnitId]| units.iter().map(|id| inventory.unit(*id).bytes).collect::<Vec<_>>();
            let alike = experts.iter().all(|units| sizes(units) == sizes(&experts[0]));
            let at_home = |units: &[UnitId], home: Tier| units.iter().all(|id| plan.home(*id) == home);
            let whole = experts.iter().all(|units| at_home(units, Tier::Ram) || at_home(units, Tier::Disk));
            let in_ram = experts.iter().filter(|units| at_home(units, Tier::Ram)).count();
            if alike && whole && in_ram > 0 && in_ram < experts.len() {
                exchange.add(experts, plan.exchange, starts);
            }
        }
        exchange
    }

    fn add(&mut self, experts: Vec<Vec<UnitId>>, policy: Policy, starts: &Starts) {
        let uses = Uses::new(policy, experts.len());
        let mut layer = Layer { experts: Vec::new(), places: Vec::new(), free: Vec::new(), uses };
        for (index, units) in experts.into_iter().enumerate() {
            for (matrix, id) in units.iter().enumerate() {
                self.members.insert(*id, (self.layers.len(), index, matrix));
            }
            let place: Option<Vec<_>> = units.iter().map(|id| starts[id.0 as usize]).collect();
            let held = place.map_or(Held::Nothing, |place| {
                layer.places.push(place);
                Held::Place(layer.places.len() - 1)
            });
            layer.experts.push(Expert { units, held });
        }
        self.layers.push(layer);
    }

    /// Whether a unit may come and go.
    pub(crate) fn has(&self, unit: UnitId) -> bool {
        self.members.contains_key(&unit)
    }

    /// Takes what the router of one layer chose, a unit of each expert, and gives places to those that have none.
    pub(crate) fn chose(&mut self, chosen: impl Iterator<Item = UnitId>, starts: &mut Starts) {
        let Self { layers, members } = self;
        let mut chosen = chosen.filter_map(|unit| members.get(&unit)).peekable();
        let Some(&&(index, ..)) = chosen.peek() else { return };
        let layer = &mut layers[index];
        layer.uses.begin();
        let mut missing = Vec::new();
        for &(_, expert, _) in chosen {
            layer.uses.count(expert);
            if layer.experts[expert].held == Held::Nothing {
                missing.push(expert);
            }
        }
        for expert in missing {
            let Some(place) = layer.free.pop().or_else(|| layer.vacate(expert, starts)) else { continue };
            layer.experts[expert].held = Held::Coming(place, 0);
        }
    }

    /// Where a part of a unit that has come from disk is to be kept: `length` bytes from `offset` on, the next ones of the unit. When all
    /// of them are there the unit is resident.
    pub(crate) fn keep(&mut self, unit: UnitId, offset: usize, length: usize, starts: &mut Starts) -> Option<usize> {
        let &(layer, expert, matrix) = self.members.get(&unit)?;
        let layer = &mut self.layers[layer];
        let expert = &mut layer.experts[expert];
        let Held::Coming(place, arrived) = expert.held else { return None };
        let (start, bytes) = layer.places[place][matrix];
        expert.held = Held::Coming(place, arrived + length);
        if offset + length == bytes {
            starts[unit.0 as usize] = Some((start, bytes));
        }
        if arrived + length == layer.places[place].iter().map(|(_, bytes)| bytes).sum::<usize>() {
            expert.held = Held::Place(place);
        }
        Some(start + offset)
    }

    /// Gives the places back that were to be filled and are not: nothing comes any more.
    pub(crate) fn abandon(&mut self, starts: &mut Starts) {
        for layer in &mut self.layers {
            for expert in &mut layer.experts {
                if let Held::Coming(place, _) = expert.held {
                    expert.units.iter().for_each(|unit| starts[unit.0 as usize] = None);
                    expert.held = Held::Nothing;
                    layer.free.push(place);
                }
            }
        }
    }
}

impl Layer {
    /// Takes its place from the expert that makes room for `coming`, if one does.
    fn vacate(&mut self, coming: usize, starts: &mut Starts) -> Option<usize> {
        let holds = |expert: &usize| matches!(self.experts[*expert].held, Held::Place(_));
        let leaves = self.uses.leaves((0..self.experts.len()).filter(holds), coming)?;
        let least = &mut self.experts[leaves];
        let Held::Place(place) = least.held else { return None };
        least.held = Held::Nothing;
        least.units.iter().for_each(|unit| starts[unit.0 as usize] = None);
        Some(place)
    }
}
