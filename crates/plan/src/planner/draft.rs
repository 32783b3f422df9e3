//! One way to set what the profile leaves open, with the homes and the loads that follow from it.

use super::cards::CardRooms;
use super::fill::Rooms;
use super::rules::Wish;
use super::settings::Setup;
use super::{Limit, Planner};
use crate::blocks::{Devices, block_of};
use crate::cost::{self, HostTokens, gpu};
use crate::gpu::Obstacle;
use crate::{Bytes, Device, KvPlan, LayerDevices, Load, Role, Staging, Tier, streaming};

/// The GPUs with a ring to which a layer's attention comes, and what follows it.
pub(super) type LayerRings = (Option<u32>, Option<u32>);

/// One way to set what the profile leaves open, with the homes that follow from it.
pub(super) struct Draft {
    pub(super) setup: Setup,
    pub(super) homes: Vec<Tier>,
    pub(super) devices: Devices,
    /// Each tier's loads, in the order of the limits: weights last.
    pub(super) loads: Vec<Vec<Load>>,
    /// The first tier that is over its ceiling, by its place among the limits.
    pub(super) over: Option<usize>,
}

impl Draft {
    /// The GPU to which the weights of each layer's blocks come in prompts where they live elsewhere: its own, and of the processor's blocks the one that the
    /// next block with a ring has, or the last.
    pub(super) fn rings_of_layers(&self) -> Vec<LayerRings> {
        let with_ring = |device: Device| match device {
            Device::Gpu(number) => Some(number).filter(|number| self.setup.stream.contains(number)),
            Device::Cpu => None,
        };
        let blocks = |layer: &LayerDevices| [layer.attention, layer.ffn];
        let mut beside = self.devices.layers.iter().flat_map(blocks).filter_map(with_ring).next_back();
        beside = beside.or(self.setup.stream.first().copied());
        let mut ring = |device: Device| {
            let own = with_ring(device);
            beside = own.or(beside);
            if device == Device::Cpu { beside } else { own }
        };
        let of_layer = |layer: &LayerDevices| {
            let ffn = ring(layer.ffn);
            (ring(layer.attention), ffn)
        };
        let mut rings: Vec<LayerRings> = self.devices.layers.iter().rev().map(of_layer).collect();
        rings.reverse();
        rings
    }
}

impl Planner<'_> {
    /// The KV cache of so many tokens, its homes still open: they follow from attention's.
    pub(super) fn kv(&self, tokens: u32) -> KvPlan {
        let (context, chosen) = (&self.profile.context, self.way.fixed.kv);
        let (k_type, v_type) = (chosen.unwrap_or(context.k_type), chosen.unwrap_or(context.v_type));
        let bytes = cost::kv_cache(&self.inventory.shape, tokens, k_type, v_type);
        KvPlan { tokens, k_type, v_type, homes: Vec::new(), bytes }
    }

    /// Fills what the settings leave of each ceiling with weights: GPUs first, and then RAM, which has what GPUs do not.
    pub(super) fn draft(&self, mut setup: Setup) -> Draft {
        let kept = |layer: u32| self.kept(&setup.kv, layer as usize).0;
        let on_gpus = self.cards.fill(self.card_rooms(&setup), &self.gpus(), &kept, self.way.scheme);
        let at_hand: Vec<Tier> = on_gpus.iter().map(|home| home.unwrap_or(Tier::Ram)).collect();
        let devices = Devices::of(self.inventory, &at_hand);
        setup.kv.homes = devices.kv_homes();
        let loads = self.fixed(&setup, &devices, &at_hand);
        let rooms: Rooms = self.limits.iter().zip(&loads).filter(|(limit, _)| !is_gpu(limit)).map(left).collect();
        let homes = self.cargo.fill(rooms, &on_gpus, self.way.scheme);
        // What overflows from RAM to a GPU makes blocks that GPU's.
        let devices = Devices::of(self.inventory, &homes);
        setup.kv.homes = devices.kv_homes();
        let mut draft = Draft { setup, homes, devices, loads: Vec::new(), over: None };
        self.weigh(&mut draft);
        draft
    }

    /// Counts the loads of a draft, and whether one is over its ceiling.
    pub(super) fn weigh(&self, draft: &mut Draft) {
        draft.loads = self.fixed(&draft.setup, &draft.devices, &draft.homes);
        let mut weights = vec![Bytes::ZERO; self.limits.len()];
        for (unit, home) in self.inventory.units.iter().zip(&draft.homes) {
            // Few tiers: a search is as good as a table.
            if let Some(place) = self.limits.iter().position(|limit| limit.tier == *home) {
                weights[place] += match home {
                    Tier::Disk => unit.bytes,
                    Tier::Ram => cost::resident(unit),
                    Tier::Gpu(_) => gpu::resident(unit),
                };
            }
        }
        draft.over = None;
        for (place, (limit, bytes)) in self.limits.iter().zip(weights).enumerate() {
            draft.loads[place].push(Load { what: "weights".to_owned(), bytes });
            if draft.over.is_none() && limit.ceiling.is_some_and(|ceiling| sum(&draft.loads[place]) > ceiling) {
                draft.over = Some(place);
            }
        }
    }

    /// What a layer keeps of a conversation.
    fn kept(&self, kv: &KvPlan, layer: usize) -> Bytes {
        let shape = &self.inventory.shape;
        cost::kv_layer(shape, layer, kv.tokens, kv.k_type, kv.v_type) + cost::state_layer(shape, layer)
    }

    /// What is left for blocks on each GPU, whose caches are counted with them.
    fn card_rooms(&self, setup: &Setup) -> CardRooms {
        let room = |limit: &Limit| {
            let Tier::Gpu(number) = limit.tier else { return None };
            let fixed = sum(&self.card(setup, number)) + sum(&self.rings(setup, limit.tier));
            Some((number, limit.ceiling.map_or(u64::MAX, |ceiling| ceiling.saturating_sub(fixed).0)))
        };
        self.limits.iter().filter_map(room).collect()
    }

    /// What each tier holds besides weights, in the order of the limits. A GPU that computes nothing is not opened.
    fn fixed(&self, setup: &Setup, devices: &Devices, homes: &[Tier]) -> Vec<Vec<Load>> {
        let used =
            |number: u32| devices.uses(number) || setup.stream.contains(&number) || homes.contains(&Tier::Gpu(number));
        let gpus = self.limits.iter().filter(|limit| matches!(limit.tier, Tier::Gpu(number) if used(number))).count();
        let fixed = |limit: &Limit| {
            let mut loads = match limit.tier {
                Tier::Ram => self.ram(setup, gpus as u64),
                Tier::Gpu(number) if used(number) => self.card(setup, number),
                Tier::Disk | Tier::Gpu(_) => return Vec::new(),
            };
            loads.extend(self.conversation(setup, limit.tier));
            loads.extend(self.rings(setup, limit.tier));
            loads
        };
        self.limits.iter().map(fixed).collect()
    }

    fn ram(&self, setup: &Setup, gpus: u64) -> Vec<Load> {
        // Before homes and streaming are known the processor may have to compute all.
        let tokens = HostTokens::all(setup.micro_batch);
        vec![
            load("process", cost::process(self.inventory, gpus)),
            load("vocabulary", cost::vocabulary(self.inventory)),
            load("activations", self.activations(tokens, setup.kv.tokens, gpus)),
        ]
    }

    /// The processor's rooms in a context of so many tokens, with those for its part of each GPU's mixtures.
    pub(super) fn activations(&self, tokens: HostTokens, context: u32, gpus: u64) -> Bytes {
        cost::activations(&self.widths, tokens, self.threads, context, self.profile.logits)
            + cost::mail(&self.widths, tokens).times(gpus)
    }

    fn card(&self, setup: &Setup, number: u32) -> Vec<Load> {
        let card = self.machine.gpus.get(number as usize);
        let process = card.map_or(gpu::CONTEXT, gpu::process);
        let halves = card.map_or(Bytes::ZERO, |card| gpu::halves(card.capability, setup.micro_batch));
        let latent = cost::gpu_latent(&self.inventory.shape, setup.micro_batch);
        vec![
            load("process", process),
            load("activations", gpu::activations(&self.widths, setup.micro_batch) + latent + halves),
            load("vectors", self.on_card.vectors),
            load("slack", gpu::SLACK),
        ]
    }

    /// What weights pass through that live further away, and on a GPU the caches of layers that live in RAM.
    fn rings(&self, setup: &Setup, tier: Tier) -> Vec<Load> {
        let (shape, kv) = (&self.inventory.shape, &setup.kv);
        match tier {
            Tier::Ram if setup.staging.slots > 0 => vec![load("ring", setup.staging.bytes())],
            Tier::Gpu(number) => {
                let mut loads = self.fetched(setup, number);
                if !setup.stream.contains(&number) {
                    return loads;
                }
                // All of them, before homes are known.
                let elsewhere = |layer: &usize| kv.homes.get(*layer) != Some(&tier);
                let layers = (0..shape.layers as usize).filter(elsewhere);
                let passing = streaming::caches(shape, layers, kv.tokens, kv.k_type, kv.v_type);
                loads.extend([load("ring", self.stream_ring().bytes()), load("KV of a layer", passing)]);
                loads.retain(|load| load.bytes > Bytes::ZERO);
                loads
            }
            _ => Vec::new(),
        }
    }

    /// Rooms for the experts of a token that are copied to a GPU in decode, and what they are computed with.
    fn fetched(&self, setup: &Setup, number: u32) -> Vec<Load> {
        if setup.fetch != Some(number) {
            return Vec::new();
        }
        let (most, kept) = (u64::from(self.fetch_most()), u64::from(self.keeps()));
        let rooms = self.on_card.fetch_slot.times(most + kept);
        vec![load("fetched experts", rooms + gpu::fetched(&self.widths, kept))]
    }

    /// Whether a router on a GPU chooses among experts that live elsewhere.
    pub(super) fn fetches_any(&self, draft: &Draft) -> bool {
        self.inventory.units.iter().zip(&draft.homes).any(|(unit, home)| {
            let ffn = unit.layer.and_then(|layer| draft.devices.layers.get(layer as usize)).map(|layer| layer.ffn);
            let expert = unit.role == Role::RoutedExpert && unit.rows > 1 && !matches!(home, Tier::Gpu(_));
            expert && ffn.is_some_and(|device| device != Device::Cpu)
        })
    }

    /// What a tier's layers keep of a conversation.
    fn conversation(&self, setup: &Setup, tier: Tier) -> Vec<Load> {
        let (shape, kv) = (&self.inventory.shape, &setup.kv);
        let layers = || kv.homes.iter().enumerate().filter(|(_, home)| **home == tier).map(|(layer, _)| layer);
        let cache = layers().map(|layer| cost::kv_layer(shape, layer, kv.tokens, kv.k_type, kv.v_type)).sum();
        let states = layers().map(|layer| cost::state_layer(shape, layer)).sum();
        let loads = [load("KV cache", cache), load("states", states)];
        loads.into_iter().filter(|load| load.bytes > Bytes::ZERO).collect()
    }

    /// Whether this unit passes through the ring when it is used: it lives on disk, is run, and is no table of which
    /// only rows are read.
    pub(super) fn uses_ring(&self, index: usize, home: Tier) -> bool {
        let unit = &self.inventory.units[index];
        home == Tier::Disk
            && self.wishes.wish[index] != Wish::NotRun
            && (unit.role != Role::Embedding || self.traffic.tied())
    }

    /// What a unit's block has that no GPU computes.
    pub(super) fn obstacle(&self, index: usize) -> Option<Obstacle> {
        let block = block_of(self.inventory, &self.inventory.units[index], self.traffic.tied())?;
        self.obstacles.of_block(block)
    }

    /// Whether this unit is handed to a GPU for a batch of prompt tokens: a matrix of a layer, in a block that a GPU computes.
    pub(super) fn is_streamed(&self, index: usize, home: Tier) -> bool {
        let unit = &self.inventory.units[index];
        let block = block_of(self.inventory, unit, self.traffic.tied());
        // Matrices of latent attention stay where they are.
        let stays = unit.role == Role::Attention && self.inventory.shape.latent.is_some();
        let computed = |block| unit.layer.is_some() && !stays && self.obstacles.of_block(block).is_none();
        !matches!(home, Tier::Gpu(_)) && block.is_some_and(computed) && self.wishes.wish[index] != Wish::NotRun
    }

    /// The GPU to which a unit comes in prompts, if it does.
    pub(super) fn stream_of(&self, rings: &[LayerRings], index: usize, home: Tier) -> Option<u32> {
        let unit = &self.inventory.units[index];
        let (attention, ffn) = *rings.get(unit.layer? as usize)?;
        let ring = if unit.role == Role::Attention { attention } else { ffn };
        ring.filter(|_| self.is_streamed(index, home))
    }

    /// The GPUs to which anything comes in prompts.
    pub(super) fn streams_to(&self, draft: &Draft) -> impl Iterator<Item = u32> {
        let rings = draft.rings_of_layers();
        draft.homes.iter().enumerate().filter_map(move |(index, home)| self.stream_of(&rings, index, *home))
    }

    pub(super) fn any(&self, homes: &[Tier], what: impl Fn(&Self, usize, Tier) -> bool) -> bool {
        homes.iter().enumerate().any(|(index, home)| what(self, index, *home))
    }

    /// A ring with slots that hold the longest row.
    pub(super) fn ring(&self, (slot, slots): (Bytes, u32)) -> Staging {
        Staging { slot: slot.max(Bytes(self.row_bytes_max.0.next_multiple_of(4096))), slots }
    }
}

fn load(what: &str, bytes: Bytes) -> Load {
    Load { what: what.to_owned(), bytes }
}

fn sum(loads: &[Load]) -> Bytes {
    loads.iter().map(|load| load.bytes).sum()
}

const fn is_gpu(limit: &Limit) -> bool {
    matches!(limit.tier, Tier::Gpu(_))
}

/// What loads leave of a ceiling.
fn left((limit, loads): (&Limit, &Vec<Load>)) -> (Tier, Option<u64>) {
    (limit.tier, limit.ceiling.map(|ceiling| ceiling.saturating_sub(sum(loads)).0))
}
