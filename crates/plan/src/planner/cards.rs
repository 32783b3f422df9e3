//! Fills GPUs with blocks: whole layers from the last one down, and then experts.
//!
//! Of several GPUs each gets a run of layers, since a token crosses from one to the next. Where whole layers go, one GPU after the other is filled. Where
//! something of every layer goes there first (attention, or what a mixture has besides its experts), each GPU gets a share of all layers beforehand, by
//! its room: or the first of them would have all that goes first, and the others nothing that what follows could be put beside.
//!
//! A pass that changes its device pays for the crossing, so what lies together in a pass goes to a GPU together: the output, then layers from
//! the last down (as llama.cpp's `-ngl` counts), which makes one crossing for each token. Or attention of all layers goes first, where that is faster:
//! then a prompt has something to bring in every layer, and two crossings a layer are what decode pays. A layer takes along what it keeps of a
//! conversation. Of a mixture's layer all but the routed experts are read by every token and go first; its experts follow, those that most
//! tokens choose first, while RAM's experts are computed beside them. Vectors stay in RAM and are mirrored.
//!
//! By what a byte saves: `read × (1/RAM − 1/VRAM)` seconds a token, which is the same for all that every token reads, less where a byte of
//! cache comes along that is read when the context is full, and by its share for an expert. A crossing, some 10 µs, is what 0.5 MB cost in RAM.

mod filling;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

pub(super) use filling::CardRooms;
use filling::{Asked, Filling, Group, Kept, Turn};

use super::rules::Wish;
use crate::blocks::{Block, block_of};
use crate::gpu::{CACHE_IN_RAM, Obstacle, Obstacles};
use crate::profile::Ranges;
use crate::traffic::Traffic;
use crate::{Inventory, Role, Scheme, Tier, cost};

/// What may go to GPUs, in the order in which it goes there.
#[derive(Debug)]
pub(super) struct Cards {
    units: usize,
    /// GPUs that the planner may use by itself, beside those that rules name.
    most: usize,
    pinned: Vec<(u32, Option<Block>, u32, u64)>,
    asked: Vec<Asked>,
    asked_experts: Vec<Asked>,
    /// What rules want on GPUs in turn: the output, and then whole layers from the last down.
    in_turn: Vec<Vec<Group>>,
    /// The output, and then layers from the last down, each with its attention and its feed-forward part, as far as they are open.
    whole: Vec<Vec<Group>>,
    experts: Vec<Group>,
    /// Blocks that nobody placed, and that stay off GPUs for something which these do not compute.
    kept_off: BTreeSet<(Obstacle, Block)>,
}

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
            in_turn: Vec::new(),
            whole: Vec::new(),
            experts: Vec::new(),
            kept_off: BTreeSet::new(),
        };
        let mut asked: BTreeMap<_, Asked> = BTreeMap::new();
        let mut blocks: BTreeMap<Block, Group> = BTreeMap::new();
        let mut experts: BTreeMap<_, Group> = BTreeMap::new();
        let mut in_turn: BTreeMap<_, BTreeMap<Block, Group>> = BTreeMap::new();
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
                (Wish::InTurn, Some(block)) => {
                    let layer = Reverse(unit.layer.unwrap_or(u32::MAX));
                    let group = in_turn.entry(layer).or_default().entry(block).or_default();
                    group.block = Some(block);
                    group.add(index, bytes);
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
        cards.in_turn = in_turn.into_values().map(|blocks| blocks.into_values().collect()).collect();
        cards.whole.extend(blocks.remove(&Block::Output).map(|output| vec![output]));
        for layer in (0..inventory.shape.layers).rev() {
            let parts = [Block::Attention(layer), Block::Ffn(layer)];
            cards.whole.push(parts.iter().filter_map(|block| blocks.remove(block)).collect());
        }
        cards
    }

    /// A home on a GPU for units that find one, by unit; none for all others. `gpus` are filled in this order.
    ///
    /// What rules want comes first. Then whole layers, as many as fit; of those that do not, the feed-forward part, which brings nothing along,
    /// or attention. Experts come last, those of rules before others, which go only where their layer's router is.
    pub(super) fn fill(&self, rooms: CardRooms, gpus: &[u32], kept: Kept<'_>, scheme: Scheme) -> Vec<Option<Tier>> {
        let mut filling = Filling { rooms, on: BTreeMap::new(), homes: vec![None; self.units], kept };
        for (unit, block, gpu, bytes) in &self.pinned {
            filling.fix(*block, *gpu, *bytes);
            filling.homes[*unit as usize] = Some(Tier::Gpu(*gpu));
        }
        let mut turn = Turn { gpus: gpus.to_vec(), at: 0 };
        for parts in &self.in_turn {
            filling.force(&parts.iter().collect::<Vec<_>>(), &mut turn);
        }
        self.asked.iter().for_each(|asked| filling.ask(asked));
        turn.gpus = self.allowed(&filling, gpus);
        if scheme.is_by_layer() {
            self.fill_by_layer(&mut filling, &mut turn, scheme == Scheme::Layers);
            self.asked_experts.iter().for_each(|asked| filling.ask(asked));
            return filling.homes;
        }
        let attention_first = scheme == Scheme::AttentionFirst;
        let shares = self.shares(&filling, &turn.gpus, attention_first);
        let put = |filling: &mut Filling<'_>, turn: &mut Turn, place: usize, groups: &[&Group]| match &shares {
            Some(shares) => filling.put(groups, shares[place]),
            None => filling.put_in_turn(groups, turn),
        };
        let is_attention = |part: &&Group| matches!(part.block, Some(Block::Attention(_)));
        for (place, parts) in self.whole.iter().enumerate().filter(|_| attention_first) {
            for attention in parts.iter().filter(is_attention) {
                put(&mut filling, &mut turn, place, &[attention]);
            }
        }
        let mut rest = Vec::new();
        for (place, parts) in self.whole.iter().enumerate() {
            let all: Vec<&Group> = parts.iter().filter(|part| !filling.has(part)).collect();
            if !all.is_empty() && !put(&mut filling, &mut turn, place, &all) {
                rest.push((place, all));
            }
        }
        for (place, parts) in rest {
            let layer: Vec<&Group> = self.whole[place].iter().collect();
            // The feed-forward part stands behind attention. Both go to one GPU, or one of them stays.
            for part in parts.into_iter().rev() {
                match filling.on_of(&layer) {
                    Some(gpu) => filling.put(&[part], gpu),
                    None => put(&mut filling, &mut turn, place, &[part]),
                };
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

    /// The GPU of each of `whole`, by the room that each GPU has, where several share something that goes there from every layer first. Where all of it
    /// fits, they are filled one after the other.
    fn shares(&self, filling: &Filling<'_>, gpus: &[u32], attention_first: bool) -> Option<Vec<u32>> {
        let last = *gpus.last().filter(|_| gpus.len() > 1 && (attention_first || !self.experts.is_empty()))?;
        let mut experts: BTreeMap<Option<Block>, u64> = BTreeMap::new();
        for expert in &self.experts {
            *experts.entry(expert.block).or_default() += expert.bytes;
        }
        let group =
            |group: &Group| group.bytes + filling.extra(group.block) + experts.get(&group.block).copied().unwrap_or(0);
        let bytes: Vec<u64> = self.whole.iter().map(|parts| parts.iter().map(group).sum()).collect();
        let rooms: Vec<f64> = gpus.iter().map(|gpu| filling.room(*gpu) as f64).collect();
        let scale = (bytes.iter().sum::<u64>() as f64 / rooms.iter().sum::<f64>().max(1.0)).max(1.0);
        let (mut taken, mut at) = (0.0, 0);
        let share = |bytes: &u64| {
            let bytes = *bytes as f64;
            while at + 1 < gpus.len() && taken + bytes > rooms[at] * scale {
                (taken, at) = (0.0, at + 1);
            }
            taken += bytes;
            gpus.get(at).copied().unwrap_or(last)
        };
        Some(bytes.iter().map(share).collect())
    }

    /// Whole layers from the last one down, with their experts or without, until one does not fit; and then the output, as llama.cpp counts.
    fn fill_by_layer(&self, filling: &mut Filling<'_>, turn: &mut Turn, with_experts: bool) {
        let mut experts: BTreeMap<Option<Block>, Vec<&Group>> = BTreeMap::new();
        for expert in self.experts.iter().filter(|_| with_experts) {
            experts.entry(expert.block).or_default().push(expert);
        }
        let is_output = |parts: &&Vec<Group>| parts.iter().any(|part| part.block == Some(Block::Output));
        let (output, layers): (Vec<_>, Vec<_>) = self.whole.iter().partition(is_output);
        for parts in layers.into_iter().filter(|parts| !parts.is_empty()) {
            let with = parts.iter().filter_map(|part| experts.get(&part.block)).flatten().copied();
            let all: Vec<&Group> = parts.iter().chain(with).collect();
            if !filling.put_in_turn(&all, turn) {
                return;
            }
        }
        // Beside the last layer: elsewhere a token would cross once more.
        turn.gpus.truncate(1);
        turn.at = 0;
        for parts in output {
            filling.put_in_turn(&parts.iter().collect::<Vec<_>>(), turn);
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

    /// The GPUs that the planner fills by itself, in this order: those that rules use, and of the others as many as there may be.
    fn allowed(&self, filling: &Filling<'_>, gpus: &[u32]) -> Vec<u32> {
        let asked: BTreeSet<u32> = filling.on.values().copied().collect();
        let mut more = self.most.saturating_sub(asked.len());
        let mut may = |gpu: &u32| {
            let may = asked.contains(gpu) || more > 0;
            more -= usize::from(may && !asked.contains(gpu));
            may
        };
        gpus.iter().copied().filter(|gpu| may(gpu)).collect()
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
