//! GPUs while they are filled: what is left in each, which blocks it has, whose turn it is.

use std::collections::BTreeMap;

use crate::Tier;
use crate::blocks::Block;

/// Units that go to a GPU together or not at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// The block that they decide for, if any.
    pub(super) block: Option<Block>,
    pub(super) units: Vec<u32>,
    pub(super) bytes: u64,
}

impl Group {
    pub(super) fn add(&mut self, unit: u32, bytes: u64) {
        self.units.push(unit);
        self.bytes += bytes;
    }
}

/// A group that a rule wants on a GPU, and elsewhere where that is full.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) group: Group,
    pub(super) gpu: u32,
    pub(super) overflow: Tier,
}

/// Bytes left in each GPU that may be used.
pub(in crate::planner) type CardRooms = Vec<(u32, u64)>;

/// What a layer keeps of a conversation, in bytes.
pub(super) type Kept<'a> = &'a dyn Fn(u32) -> u64;

/// Which GPU comes next.
pub(super) struct Turn {
    pub(super) gpus: Vec<u32>,
    pub(super) at: usize,
}

/// GPUs while they are filled.
pub(super) struct Filling<'a> {
    pub(super) rooms: CardRooms,
    pub(super) on: BTreeMap<Block, u32>,
    pub(super) homes: Vec<Option<Tier>>,
    pub(super) kept: Kept<'a>,
}

impl Filling<'_> {
    /// What a block brings along: attention that is not there yet, what its layer keeps.
    pub(super) fn extra(&self, block: Option<Block>) -> u64 {
        match block {
            Some(Block::Attention(layer)) if !self.on.contains_key(&Block::Attention(layer)) => (self.kept)(layer),
            _ => 0,
        }
    }

    /// Takes room for what rules fix, however much there is.
    pub(super) fn fix(&mut self, block: Option<Block>, gpu: u32, bytes: u64) {
        let needed = bytes + self.extra(block);
        if let Some((_, left)) = self.rooms.iter_mut().find(|(card, _)| *card == gpu) {
            *left = left.saturating_sub(needed);
        }
        if let Some(block) = block {
            self.on.insert(block, gpu);
        }
    }

    /// Puts groups on a GPU, if they fit there and none of their blocks is elsewhere.
    pub(super) fn put(&mut self, groups: &[&Group], gpu: u32) -> bool {
        let elsewhere = |group: &&Group| {
            let on = group.block.and_then(|block| self.on.get(&block));
            on.is_some_and(|on| *on != gpu)
        };
        let needed: u64 = groups.iter().map(|group| group.bytes + self.extra(group.block)).sum();
        if groups.iter().any(elsewhere) || !self.rooms.iter().any(|(card, left)| *card == gpu && *left >= needed) {
            return false;
        }
        for group in groups {
            self.take(group, gpu);
        }
        true
    }

    pub(super) fn ask(&mut self, Asked { group, gpu, overflow }: &Asked) {
        match overflow {
            _ if self.put(&[group], *gpu) => {}
            Tier::Gpu(other) if !self.put(&[group], *other) => {
                // Over: the sum will show it.
                self.take(group, *other);
            }
            _ => {}
        }
    }

    /// Whether a group has found its place.
    pub(super) fn has(&self, group: &Group) -> bool {
        group.units.first().is_some_and(|unit| self.homes[*unit as usize].is_some())
    }

    /// Puts groups where one of their blocks is, or on the GPU whose turn it is, or on the next that has room: then that one's turn has come.
    pub(super) fn put_in_turn(&mut self, groups: &[&Group], turn: &mut Turn) -> bool {
        if let Some(gpu) = self.on_of(groups) {
            return self.put(groups, gpu);
        }
        let next = (turn.at..turn.gpus.len()).find(|place| self.put(groups, turn.gpus[*place]));
        turn.at = next.unwrap_or(turn.at);
        next.is_some()
    }

    /// The same for what rules want: where no GPU has room the sum of the last will show it.
    pub(super) fn force(&mut self, groups: &[&Group], turn: &mut Turn) {
        if self.put_in_turn(groups, turn) {
            return;
        }
        let Some(gpu) = self.on_of(groups).or(turn.gpus.last().copied()) else { return };
        for group in groups {
            self.take(group, gpu);
        }
    }

    /// The GPU that has a part of these groups' blocks already.
    pub(super) fn on_of(&self, groups: &[&Group]) -> Option<u32> {
        groups.iter().find_map(|group| self.on.get(&group.block?).copied())
    }

    /// Bytes left on a GPU.
    pub(super) fn room(&self, gpu: u32) -> u64 {
        self.rooms.iter().find(|(card, _)| *card == gpu).map_or(0, |(_, left)| *left)
    }

    /// Takes room for a group, however much there is, and puts it there.
    fn take(&mut self, group: &Group, gpu: u32) {
        self.fix(group.block, gpu, group.bytes);
        for unit in &group.units {
            self.homes[*unit as usize] = Some(Tier::Gpu(gpu));
        }
    }
}
