//! Who has which room: experts that were fetched to a card and stay there until others of their layer take their rooms.
//!
//! Owns the rooms' numbers alone. A conversation that begins, and a prompt, find all of them empty: what is computed on which side, and with it the
//! last bits of sums, then follows from the conversation and not from those before. Must never know bytes, or what is in a room.

use plan::expert_cache::{Policy, Uses};

/// The rooms of all layers: first those that one token's experts pass through, then each layer's own.
pub(super) struct Kept {
    passing: u32,
    /// By layer; none for those that fetch nothing.
    layers: Vec<Option<Layer>>,
}

struct Layer {
    uses: Uses,
    first: u32,
    /// By room the expert that is there.
    holds: Vec<Option<u32>>,
}

/// An expert that the card computes from a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Come {
    pub(super) expert: u32,
    pub(super) room: u32,
    /// Whether it has still to be copied there.
    pub(super) fresh: bool,
}

impl Kept {
    /// `passing` rooms, and `each` for every layer that `serves`, of so many experts.
    pub(super) fn new(passing: u32, each: u32, experts: usize, serves: impl Iterator<Item = bool>) -> Self {
        let mut first = passing;
        let layer = |serves: bool| {
            serves.then(|| {
                let layer = Layer { uses: Uses::new(Policy::USUAL, experts), first, holds: vec![None; each as usize] };
                first += each;
                layer
            })
        };
        Self { passing, layers: serves.map(layer).collect() }
    }

    /// Rooms there are.
    #[cfg(test)]
    fn rooms(&self) -> usize {
        self.passing as usize + self.layers.iter().flatten().map(|layer| layer.holds.len()).sum::<usize>()
    }

    /// Empties all rooms.
    pub(super) fn forget(&mut self) {
        for layer in self.layers.iter_mut().flatten() {
            layer.uses.clear();
            layer.holds.fill(None);
        }
    }

    /// Puts into `come` those of `away` (experts of a choice, ascending, each once) that the card computes, ascending: all that are in a room, and
    /// the first of the others, as many as `share` says of them. Those stay where the layer has a room that is free or given up for them.
    pub(super) fn choose(&mut self, layer: usize, away: &[u32], share: impl Fn(u32) -> u32, come: &mut Vec<Come>) {
        come.clear();
        let Some(layer) = &mut self.layers[layer] else { return };
        layer.uses.begin();
        for expert in away {
            layer.uses.count(*expert as usize);
        }
        let misses = away.iter().filter(|expert| layer.room_of(**expert).is_none()).count() as u32;
        let mut left = share(misses);
        let mut passing = 0;
        for expert in away.iter().copied() {
            let (room, fresh) = match layer.room_of(expert) {
                Some(room) => (layer.first + room, false),
                None if left == 0 => continue,
                None => {
                    left -= 1;
                    let room = layer.take(expert).map(|room| layer.first + room);
                    (room.unwrap_or_else(|| (passing, passing += 1).0), true)
                }
            };
            come.push(Come { expert, room, fresh });
        }
        debug_assert!(passing <= self.passing, "the share of a choice has rooms");
    }
}

impl Layer {
    /// The room that an expert is in.
    fn room_of(&self, expert: u32) -> Option<u32> {
        self.holds.iter().position(|held| *held == Some(expert)).map(|room| room as u32)
    }

    /// A room for an expert of this pass to stay in: one that is free, or whose expert is worth less and not of this pass.
    fn take(&mut self, expert: u32) -> Option<u32> {
        let free = self.holds.iter().position(Option::is_none);
        let room = free.or_else(|| {
            let holders = self.holds.iter().flatten().map(|held| *held as usize);
            let leaves = self.uses.leaves(holders, expert as usize)?;
            self.holds.iter().position(|held| *held == Some(leaves as u32))
        })?;
        self.holds[room] = Some(expert);
        Some(room as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(expert: u32, room: u32, fresh: bool) -> Come {
        Come { expert, room, fresh }
    }

    /// What comes of each choice, all of one layer.
    fn chosen(kept: &mut Kept, layer: usize, share: u32, away: &[u32]) -> Vec<Come> {
        let mut found = Vec::new();
        kept.choose(layer, away, |count| count.min(share), &mut found);
        found
    }

    #[test]
    fn the_first_of_those_that_are_away_pass_through_where_nothing_stays() {
        let mut kept = Kept::new(2, 0, 16, [true].into_iter());
        assert_eq!(kept.rooms(), 2);
        for _ in 0..2 {
            assert_eq!(chosen(&mut kept, 0, 2, &[2, 4, 7]), [come(2, 0, true), come(4, 1, true)]);
        }
        assert_eq!(chosen(&mut kept, 0, 0, &[2, 4]), []);
    }

    #[test]
    fn what_stayed_is_found_and_what_is_used_less_makes_room() {
        let mut kept = Kept::new(1, 2, 16, [false, true, true].into_iter());
        assert_eq!(kept.rooms(), 5);
        // The second layer's rooms are 1 and 2, the third's 3 and 4. One of the misses comes each time.
        assert_eq!(chosen(&mut kept, 1, 1, &[5, 9]), [come(5, 1, true)]);
        assert_eq!(chosen(&mut kept, 1, 1, &[5, 9]), [come(5, 1, false), come(9, 2, true)]);
        assert_eq!(chosen(&mut kept, 1, 1, &[5, 9]), [come(5, 1, false), come(9, 2, false)]);
        assert_eq!(chosen(&mut kept, 2, 1, &[5, 9]), [come(5, 3, true)]);
        // Both rooms' experts were used more: it passes through.
        assert_eq!(chosen(&mut kept, 1, 1, &[3]), [come(3, 0, true)]);
        // Used as often as they in the end, and later.
        for expected in [come(3, 0, true), come(3, 1, true), come(3, 1, false)] {
            assert_eq!(chosen(&mut kept, 1, 1, &[3]), [expected]);
        }
        // 4 is new and passes through; 5 was used more than 9, whose room it takes, and 3 is of this pass.
        assert_eq!(chosen(&mut kept, 1, 2, &[3, 4, 5]), [come(3, 1, false), come(4, 0, true), come(5, 2, true)]);
        kept.forget();
        assert_eq!(chosen(&mut kept, 1, 1, &[5, 9]), [come(5, 1, true)]);
        assert_eq!(chosen(&mut kept, 0, 1, &[5, 9]), []);
    }
}
