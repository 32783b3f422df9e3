//! Fills GPUs with blocks: whole layers from the last one down, and then experts.
//!
//! A pass that changes its device pays for the crossing, so what lies together in a pass goes to a GPU together: the output, then layers from
//! the last down (as llama.cpp's `-ngl` counts), which makes one crossing for each token. Or attention of all layers goes first, where that is faster:
//! then a prompt has something to bring in every layer, and two crossings a layer are what decode pays. A layer takes along what it keeps of a
//! conversation. Of a mixture's layer all but the routed experts are read by every token and go first; its experts follow, those that most
//! tokens choose first, while RAM's experts are computed beside them. Vectors stay in RAM and are mirrored.
//!
//! By what a byte saves: `read × (1/RAM − 1/VRAM)` seconds a token, which is the same for all that every token reads, less where a byte of
//! cache comes along that is read when the context is full, and by its share for an expert. A crossing, some 10 µs, is what 0.5 MB cost in RAM.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::rules::Wish;
use crate::blocks::{Block, block_of};
use crate::gpu::{CACHE_IN_RAM, Obstacle, Obstacles};
use crate::profile::Ranges;
use crate::traffic::Traffic;
use crate::{Inventory, Role, Scheme, Tier, cost};

/// Units that go to a GPU together or not at all.
#[derive(Clone, Debug, Default)]
struct Group {
    /// The block that they decide for, if any.
    block: Option<Block>,
    units: Vec<u32>,
    bytes: u64,
}

impl Group {
    fn add(&mut self, unit: u32, bytes: u64) {
        self.units.push(unit);
        self.bytes += bytes;
    }
}

/// A group that a rule wants on a GPU, and elsewhere where that is full.
#[derive(Debug)]
struct Asked {
    group: Group,
    gpu: u32,
    overflow: Tier,
}

/// What may go to GPUs, in the order in which it goes there.
#[derive(Debug)]
pub(super) struct Cards {
    units: usize,
    /// GPUs that the planner may use by itself, beside those that rules name.
    most: usize,
    pinned: Vec<(u32, Option<Block>, u32, u64)>,
    asked: Vec<Asked>,
    asked_experts: Vec<Asked>,
    /// The output, and then layers from the last down, each with its attention and its feed-forward part, as far as they are open.
    whole: Vec<Vec<Group>>,
    experts: Vec<Group>,
    /// Blocks that nobody placed, and that stay off GPUs for something which these do not compute.
    kept_off: BTreeSet<(Obstacle, Block)>,
}

/// Bytes left in each GPU that may be used.
pub(super) type CardRooms = Vec<(u32, u64)>;

/// What a layer keeps of a conversation, in bytes.
type Kept<'a> = &'a dyn Fn(u32) -> u64;

impl Cards {
    /// Sorts the units of a model by what is asked for them, and by what GPUs compute.
    pub(super) fn new(
        inventory: &Inventory,
        wishes: &[Wish],
        traffic: Traffic<'_>,
        obstacles: &Obstacles,
        most: usize,
    ) -> Self {
        let tied = traffic.tied();
        let mut cards = Self {
            units: wishes.len(),
            most,
            pinned: Vec::new(),
            asked: Vec::new(),
            asked_experts: Vec::new(),
            whole: Vec::new(),
            experts: Vec::new(),
            kept_off: BTreeSet::new(),
        };
        let mut asked: BTreeMap<_, Asked> = BTreeMap::new();
        let mut blocks: BTreeMap<Block, Group> = BTreeMap::new();
        let mut experts: BTreeMap<_, Group> = BTreeMap::new();
        let kept_elsewhere = kept_elsewhere(inventory, wishes, tied);
        for (index, (unit, wish)) in inventory.units.iter().zip(wishes).enumerate() {
            let (index, bytes) = (index as u32, cost::gpu::resident(unit).0);
            let block = block_of(inventory, unit, tied);
            let rare = || Reverse(traffic.expert_share(unit).to_bits());
            match (wish, block) {
                (Wish::Pinned(Tier::Gpu(gpu)), _) => cards.pinned.push((index, block, *gpu, bytes)),
                (Wish::Either(Tier::Gpu(gpu), overflow), _) => {
                    if block.is_some_and(|block| obstacles.of_block(block).is_some()) {
                        continue;
                    }
                    let expert = unit.expert.map(|expert| (rare(), expert));
                    // What is in no block is placed by itself.
                    let alone = if block.is_none() { Some(index) } else { None };
                    let layer = Reverse(unit.layer.unwrap_or(u32::MAX));
                    let key = (expert, *overflow == Tier::Disk, layer, block, alone, *wish);
                    let new = || Asked { group: Group { block, ..Group::default() }, gpu: *gpu, overflow: *overflow };
                    asked.entry(key).or_insert_with(new).group.add(index, bytes);
                }
                (Wish::Open, Some(block)) => {
                    if let Some(obstacle) = obstacles.of_block(block) {
                        cards.kept_off.insert((obstacle, block));
                        continue;
                    }
                    let group = match unit.expert.filter(|_| unit.role == Role::RoutedExpert) {
                        Some(expert) => experts.entry((rare(), expert, unit.layer)).or_default(),
                        // A block of which a rule keeps matrices elsewhere would wait for them at each token.
                        None if kept_elsewhere.contains(&block) => continue,
                        None => blocks.entry(block).or_default(),
                    };
                    group.block = Some(block);
                    group.add(index, bytes);
                }
                _ => {}
            }
        }
        let asked = asked.into_iter().map(|((expert, ..), asked)| (expert.is_some(), asked));
        let (experts_asked, others): (Vec<_>, Vec<_>) = asked.partition(|(is_expert, _)| *is_expert);
        cards.asked = others.into_iter().map(|(_, asked)| asked).collect();
        cards.asked_experts = experts_asked.into_iter().map(|(_, asked)| asked).collect();
        cards.experts = experts.into_values().collect();
        cards.whole.extend(blocks.remove(&Block::Output).map(|output| vec![output]));
        for layer in (0..inventory.shape.layers).rev() {
            let parts = [Block::Attention(layer), Block::Ffn(layer)];
            cards.whole.push(parts.iter().filter_map(|block| blocks.remove(block)).collect());
        }
        cards
    }

    /// A home on a GPU for units that find one, by unit; none for all others.
    ///
    /// What rules want comes first. Then whole layers, as many as fit; of those that do not, the feed-forward part, which brings nothing along,
    /// or attention. Experts come last, those of rules before others, which go only where their layer's router is.
    pub(super) fn fill(&self, rooms: CardRooms, kept: Kept<'_>, scheme: Scheme) -> Vec<Option<Tier>> {
        let mut filling = Filling { rooms, on: BTreeMap::new(), homes: vec![None; self.units], kept };
        for (unit, block, gpu, bytes) in &self.pinned {
            filling.fix(*block, *gpu, *bytes);
            filling.homes[*unit as usize] = Some(Tier::Gpu(*gpu));
        }
        self.asked.iter().for_each(|asked| filling.ask(asked));
        let gpus = self.allowed(&filling);
        if scheme.is_by_layer() {
            self.fill_by_layer(&mut filling, &gpus, scheme == Scheme::Layers);
            self.asked_experts.iter().for_each(|asked| filling.ask(asked));
            return filling.homes;
        }
        let is_attention = |part: &&Group| matches!(part.block, Some(Block::Attention(_)));
        if scheme == Scheme::AttentionFirst {
            for attention in self.whole.iter().flatten().filter(is_attention) {
                filling.put_first(&[attention], &gpus);
            }
        }
        let mut rest = Vec::new();
        for parts in &self.whole {
            let all: Vec<&Group> = parts.iter().filter(|part| !filling.has(part)).collect();
            if !all.is_empty() && !filling.put_first(&all, &gpus) {
                rest.push(all);
            }
        }
        for parts in rest {
            // The feed-forward part stands behind attention.
            for part in parts.into_iter().rev() {
                filling.put_first(&[part], &gpus);
            }
        }
        self.asked_experts.iter().for_each(|asked| filling.ask(asked));
        for expert in &self.experts {
            if let Some(gpu) = expert.block.and_then(|block| filling.on.get(&block).copied()) {
                filling.put(&[expert], gpu);
            }
        }
        filling.homes
    }

    /// Whole layers from the last one down, with their experts or without, until one does not fit; and then the output, as llama.cpp counts.
    fn fill_by_layer(&self, filling: &mut Filling<'_>, gpus: &[u32], with_experts: bool) {
        let mut experts: BTreeMap<Option<Block>, Vec<&Group>> = BTreeMap::new();
        for expert in self.experts.iter().filter(|_| with_experts) {
            experts.entry(expert.block).or_default().push(expert);
        }
        let is_output = |parts: &&Vec<Group>| parts.iter().any(|part| part.block == Some(Block::Output));
        let (output, layers): (Vec<_>, Vec<_>) = self.whole.iter().partition(is_output);
        for parts in layers.into_iter().chain(output).filter(|parts| !parts.is_empty()) {
            let with = parts.iter().filter_map(|part| experts.get(&part.block)).flatten().copied();
            let all: Vec<&Group> = parts.iter().chain(with).collect();
            if !filling.put_first(&all, gpus) {
                break;
            }
        }
    }

    /// Why blocks stay off GPUs, and which they are: `attention of layers 0..=60`.
    pub(super) fn kept_off(&self) -> Vec<(Obstacle, String)> {
        let mut found: BTreeMap<(Obstacle, &str), Vec<u32>> = BTreeMap::new();
        for (obstacle, block) in self.kept_off.iter().filter(|(obstacle, _)| *obstacle != CACHE_IN_RAM) {
            let (what, layer) = match block {
                Block::Attention(layer) => ("attention", Some(*layer)),
                Block::Ffn(layer) => ("the feed-forward part", Some(*layer)),
                Block::Output => ("the output", None),
            };
            found.entry((obstacle, what)).or_default().extend(layer);
        }
        let text = |what: &str, layers: Vec<u32>| match Ranges::of(layers) {
            Some(layers) => format!("{what} of layers {layers}"),
            None => what.to_owned(),
        };
        found.into_iter().map(|((obstacle, what), layers)| (obstacle, text(what, layers))).collect()
    }

    /// The GPUs that the planner fills by itself: those that rules use, and of the others the first.
    fn allowed(&self, filling: &Filling<'_>) -> Vec<u32> {
        let asked = |gpu: &u32| filling.on.values().any(|used| used == gpu);
        let (mut gpus, others): (Vec<u32>, Vec<u32>) = filling.rooms.iter().map(|(gpu, _)| *gpu).partition(asked);
        let more = self.most.saturating_sub(gpus.len());
        gpus.extend(others.into_iter().take(more));
        gpus
    }
}

/// Blocks of which rules keep a matrix in RAM or on disk, routed experts aside.
fn kept_elsewhere(inventory: &Inventory, wishes: &[Wish], tied: bool) -> Vec<Block> {
    let kept =
        |wish: &Wish| matches!(wish, Wish::Pinned(home) | Wish::Either(home, _) if !matches!(home, Tier::Gpu(_)));
    let units = inventory.units.iter().zip(wishes).filter(|(unit, wish)| unit.expert.is_none() && kept(wish));
    let mut blocks: Vec<Block> = units.filter_map(|(unit, _)| block_of(inventory, unit, tied)).collect();
    blocks.dedup();
    blocks
}

/// GPUs while they are filled.
struct Filling<'a> {
    rooms: CardRooms,
    on: BTreeMap<Block, u32>,
    homes: Vec<Option<Tier>>,
    kept: Kept<'a>,
}

impl Filling<'_> {
    /// What a block brings along: attention that is not there yet, what its layer keeps.
    fn extra(&self, block: Option<Block>) -> u64 {
        match block {
            Some(Block::Attention(layer)) if !self.on.contains_key(&Block::Attention(layer)) => (self.kept)(layer),
            _ => 0,
        }
    }

    /// Takes room for what rules fix, however much there is.
    fn fix(&mut self, block: Option<Block>, gpu: u32, bytes: u64) {
        let needed = bytes + self.extra(block);
        if let Some((_, left)) = self.rooms.iter_mut().find(|(card, _)| *card == gpu) {
            *left = left.saturating_sub(needed);
        }
        if let Some(block) = block {
            self.on.insert(block, gpu);
        }
    }

    /// Puts groups on a GPU, if they fit there and none of their blocks is elsewhere.
    fn put(&mut self, groups: &[&Group], gpu: u32) -> bool {
        let elsewhere = |group: &&Group| {
            let on = group.block.and_then(|block| self.on.get(&block));
            on.is_some_and(|on| *on != gpu)
        };
        let needed: u64 = groups.iter().map(|group| group.bytes + self.extra(group.block)).sum();
        if groups.iter().any(elsewhere) || !self.rooms.iter().any(|(card, left)| *card == gpu && *left >= needed) {
            return false;
        }
        for group in groups {
            self.fix(group.block, gpu, group.bytes);
            self.settle(group, gpu);
        }
        true
    }

    fn ask(&mut self, Asked { group, gpu, overflow }: &Asked) {
        match overflow {
            _ if self.put(&[group], *gpu) => {}
            Tier::Gpu(other) if !self.put(&[group], *other) => {
                // Over: the sum will show it.
                self.fix(group.block, *other, group.bytes);
                self.settle(group, *other);
            }
            _ => {}
        }
    }

    /// Whether a group has found its place.
    fn has(&self, group: &Group) -> bool {
        group.units.first().is_some_and(|unit| self.homes[*unit as usize].is_some())
    }

    fn put_first(&mut self, groups: &[&Group], gpus: &[u32]) -> bool {
        gpus.iter().any(|gpu| self.put(groups, *gpu))
    }

    fn settle(&mut self, group: &Group, gpu: u32) {
        for unit in &group.units {
            self.homes[*unit as usize] = Some(Tier::Gpu(gpu));
        }
    }
}
