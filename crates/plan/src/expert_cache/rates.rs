//! How often a plan's experts will be found in RAM, or kept on a GPU, by a trace of what routers chose.

use std::collections::{BTreeMap, BTreeSet};

use super::{LayerStart, Policy, Replay, replay};
use crate::expert_use::ExpertTrace;
use crate::{Bytes, Device, ExpertUse, Fetch, Inventory, LayerDevices, Placement, Role, Tier, Unit};

/// The layers whose experts may change places, by number: each expert wholly in RAM or wholly on disk, some of them here and some there.
/// Biases, which live by themselves, do not count.
#[must_use]
pub fn starts(inventory: &Inventory, placements: &[Placement]) -> BTreeMap<u32, LayerStart> {
    let mut layers: BTreeMap<u32, Option<LayerStart>> = BTreeMap::new();
    for (unit, placement) in inventory.units.iter().zip(placements) {
        let (Role::RoutedExpert, Some(layer), Some(expert)) = (unit.role, unit.layer, unit.expert) else { continue };
        if unit.rows == 1 {
            continue;
        }
        let start = layers.entry(layer).or_insert_with(|| Some(LayerStart { resident: Vec::new(), expert: Bytes(0) }));
        let (here, expert) = (placement.home == Tier::Ram, expert as usize);
        let stays = !placement.exchanges || !matches!(placement.home, Tier::Ram | Tier::Disk);
        if let Some(known) = start {
            if known.resident.len() <= expert {
                known.resident.resize(expert + 1, here);
            }
            if expert == 0 {
                known.expert += unit.bytes;
            }
            if stays || known.resident[expert] != here {
                *start = None;
            }
        }
    }
    let some = |start: &LayerStart| start.resident.contains(&true) && start.resident.contains(&false);
    layers.into_iter().filter_map(|(layer, start)| Some((layer, start.filter(some)?))).collect()
}

/// By layer, the share of its experts' uses that find them in RAM while tokens are decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HitRates(BTreeMap<u32, f64>);

impl HitRates {
    /// Those that `policy` would have reached over the trace that `counts` come with. None of a layer that no token passed alone.
    pub(crate) fn new(
        inventory: &Inventory,
        placements: &[Placement],
        policy: Policy,
        counts: Option<&ExpertUse>,
    ) -> Self {
        let Some(trace) = counts.map(ExpertUse::trace).filter(|trace| !trace.is_empty()) else {
            return Self::default();
        };
        let rate = |(layer, start)| {
            let decode = replay(trace, &BTreeMap::from([(layer, start)]), Replay::Policy(policy)).decode;
            (decode.tokens > 0).then(|| (layer, decode.hit_rate()))
        };
        Self(starts(inventory, placements).into_iter().filter_map(rate).collect())
    }

    /// The share of what a token reads of this unit that comes from disk.
    pub(crate) fn share_on_disk(&self, unit: &Unit, home: Tier) -> f64 {
        let rate = || self.0.get(&unit.layer?).filter(|_| unit.role == Role::RoutedExpert && unit.rows > 1);
        match rate() {
            Some(rate) => 1.0 - rate,
            None if home == Tier::Disk => 1.0,
            None => 0.0,
        }
    }

    /// The mean over layers; none where nothing is known.
    pub(crate) fn mean(&self) -> Option<f64> {
        let count = self.0.len();
        (count > 0).then(|| self.0.values().sum::<f64>() / count as f64)
    }
}

/// By layer, the share of a token's experts away from the GPU that fetches them which it has kept: as the usual policy would have reached with the tokens
/// of a trace, one by one. Where there is no trace, those that it keeps are as likely as any.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeptRates(Vec<f64>);

impl KeptRates {
    /// Those of a plan's `fetch`, by the trace that `counts` come with.
    pub(crate) fn new(
        inventory: &Inventory,
        (placements, blocks): (&[Placement], &[LayerDevices]),
        fetch: Option<Fetch>,
        counts: Option<&ExpertUse>,
    ) -> Self {
        let Some(fetch) = fetch.filter(|fetch| fetch.kept > 0) else { return Self(vec![0.0; blocks.len()]) };
        let mut rates = vec![0.0; blocks.len()];
        // Of layers that the GPU computes, experts away from it.
        let mut layers: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        for (unit, placement) in inventory.units.iter().zip(placements) {
            let (Role::RoutedExpert, Some(layer), Some(expert)) = (unit.role, unit.layer, unit.expert) else {
                continue;
            };
            let computed = blocks.get(layer as usize).map(|block| block.ffn) == Some(Device::Gpu(fetch.gpu));
            if computed && may_be_kept(unit, placement.home) {
                layers.entry(layer as usize).or_default().insert(expert);
            }
        }
        let each = fetch.kept_by_each(layers.len() as u32) as usize;
        let trace = counts.map(ExpertUse::trace).filter(|trace| !trace.is_empty());
        for (layer, away) in layers {
            let resident = (0..away.len()).map(|expert| expert < each).collect();
            let start = BTreeMap::from([(layer as u32, LayerStart { resident, expert: Bytes(0) })]);
            let found = trace
                .map(|trace| replay(&among(trace, layer as u32, &away), &start, Replay::Policy(Policy::USUAL)).decode);
            let uniform = (each as f64 / away.len() as f64).min(1.0);
            rates[layer] = found.filter(|found| found.tokens > 0).map_or(uniform, |found| found.hit_rate());
        }
        Self(rates)
    }

    /// The share of a layer.
    pub(crate) fn at(&self, layer: usize) -> f64 {
        self.0.get(layer).copied().unwrap_or(0.0)
    }

    /// The share of what a token reads of this unit that the GPU has kept.
    pub(crate) fn share(&self, unit: &Unit, home: Tier) -> f64 {
        unit.layer.filter(|_| may_be_kept(unit, home)).map_or(0.0, |layer| self.at(layer as usize))
    }
}

/// Whether a unit is a matrix of an expert that lives outside GPUs.
const fn may_be_kept(unit: &Unit, home: Tier) -> bool {
    matches!(unit.role, Role::RoutedExpert) && unit.rows > 1 && !matches!(home, Tier::Gpu(_))
}

/// What single tokens chose in a layer among these experts, which are numbered anew.
fn among(trace: &ExpertTrace, layer: u32, experts: &BTreeSet<u32>) -> ExpertTrace {
    let numbers: BTreeMap<u32, u32> = experts.iter().copied().zip(0..).collect();
    let mut among = ExpertTrace::default();
    for pass in trace.passes().filter(|pass| pass.layer == layer && pass.tokens == 1) {
        let chosen: Vec<u32> = pass.experts.iter().filter_map(|expert| numbers.get(expert).copied()).collect();
        among.add(pass.first_position, layer, [chosen]);
    }
    among
}
