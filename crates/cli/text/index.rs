//! A hash index that holds positions only: the keys stay where they are.
//!
//! A `HashMap<String, u32>` of a 256k vocabulary costs over 16 MiB, most of it a second copy of every text. This one
//! costs 8 bytes an entry. Owns the probing; must never know what the positions stand for.

use std::hash::{BuildHasher, Hash, RandomState};

const EMPTY: u32 = u32::MAX;

/// Positions of at most `count` keys, found by hash.
///
/// Hashes are keyed at random, so that no file can be made whose entries all collide.
pub(super) struct Index {
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Index {
    /// An index with room for this many entries, at most half full: a miss costs 2.5 probes on average.
    pub(super) fn with_room(count: usize) -> Self {
        Self { slots: vec![EMPTY; 2 * count + 1], hasher: RandomState::new() }
    }

    /// Adds a position under its key; the caller looks for duplicates first.
    pub(super) fn insert(&mut self, key: &impl Hash, position: u32) {
        let mut slot = self.first_slot(key);
        while self.slots[slot] != EMPTY {
            slot = self.next_slot(slot);
        }
        self.slots[slot] = position;
    }

    /// The first position under this key that `is` accepts; `is` compares the keys themselves.
    pub(super) fn find(&self, key: &impl Hash, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut slot = self.first_slot(key);
        while self.slots[slot] != EMPTY {
            if is(self.slots[slot]) {
                return Some(self.slots[slot]);
            }
            slot = self.next_slot(slot);
        }
        None
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }

    /// Maps the whole range of a hash onto the slots without a division.
    fn first_slot(&self, key: &impl Hash) -> usize {
        ((u128::from(self.hasher.hash_one(key)) * self.slots.len() as u128) >> 64) as usize
    }

    const fn next_slot(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }
}
