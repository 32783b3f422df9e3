//! Puts units into tiers, in the order of what a byte there is worth.

use std::cmp::Reverse;

use super::rules::Wish;
use crate::traffic::Traffic;
use crate::{Inventory, Role, Tier, Unit, cost};

/// The class of experts that a router chooses.
const ROUTED: u8 = 5;

/// What a byte of this unit near the compute is worth; lower goes first.
///
/// Everything that every token reads is worth the same per byte, so the order among those keeps things together:
/// small vectors (a disk read each, for nothing), then attention (beside the KV cache), then feed-forward by layer,
/// then the output. Routed experts are read rarely, and of the embedding only a row. The bias of an expert is one row,
/// read by itself: it goes with the small vectors.
fn class(unit: &Unit, inventory: &Inventory, tied: bool) -> u8 {
    match unit.role {
        _ if inventory.tensor_of(unit).dims.len() < 2 => 0,
        Role::Norm | Role::Router => 0,
        Role::RoutedExpert if unit.rows == 1 => 0,
        Role::Attention => 1,
        Role::SharedExpert => 2,
        Role::DenseFfn => 3,
        Role::Output => 4,
        Role::Embedding if tied => 4,
        Role::RoutedExpert => ROUTED,
        Role::Embedding => 6,
        Role::MultiToken => 7,
    }
}

struct Open {
    unit: u32,
    bytes: u64,
    wish: Wish,
    /// Layer and number, of the matrices of an expert: it is used whole, and they stay together.
    expert: Option<(Option<u32>, u32)>,
    /// A table of which only rows are read gains nothing from a GPU.
    may_use_gpu: bool,
}

/// The units of a model with what is asked for them, ready to be put into rooms of different sizes.
pub(super) struct Cargo {
    /// Homes of pinned units; of the others, anything.
    homes: Vec<Tier>,
    pinned: Vec<(Tier, u64)>,
    open: Vec<Open>,
}

/// Bytes left for weights in each tier that may be used, nearest to compute first; none for disk, which is never full.
pub(super) type Rooms = Vec<(Tier, Option<u64>)>;

impl Cargo {
    pub(super) fn new(inventory: &Inventory, wishes: &[Wish], traffic: Traffic<'_>) -> Self {
        let tied = traffic.tied();
        let mut cargo = Self { homes: vec![Tier::Disk; wishes.len()], pinned: Vec::new(), open: Vec::new() };
        for (index, (unit, wish)) in inventory.units.iter().zip(wishes).enumerate() {
            let bytes = cost::resident(unit).0;
            match wish {
                Wish::NotRun => {}
                Wish::Pinned(tier) => {
                    cargo.homes[index] = *tier;
                    match cargo.pinned.iter_mut().find(|(pinned, _)| pinned == tier) {
                        Some((_, sum)) => *sum += bytes,
                        None => cargo.pinned.push((*tier, bytes)),
                    }
                }
                Wish::Either(..) | Wish::Open => {
                    let may_use_gpu = unit.role != Role::Embedding || tied;
                    let expert = unit.expert.filter(|_| class(unit, inventory, tied) == ROUTED);
                    let expert = expert.map(|expert| (unit.layer, expert));
                    cargo.open.push(Open { unit: index as u32, bytes, wish: *wish, expert, may_use_gpu });
                }
            }
        }
        cargo.open.sort_by_cached_key(|open| {
            let unit = &inventory.units[open.unit as usize];
            let class = class(unit, inventory, tied);
            // What cannot go to disk finds its room before what can.
            let may_wait = !matches!(open.wish, Wish::Either(_, Tier::Gpu(_) | Tier::Ram));
            // Those that most tokens choose come first. Floats from 0 up are in the order of their bits.
            let rare = if class == ROUTED { Reverse(traffic.expert_share(unit).to_bits()) } else { Reverse(0) };
            (class, may_wait, rare, unit.layer.unwrap_or(u32::MAX), unit.expert, open.unit)
        });
        cargo
    }

    /// A home for each unit. What fits nowhere is given to the last tier that it may use, whose sum then shows by how
    /// much it is over.
    pub(super) fn fill(&self, mut rooms: Rooms) -> Vec<Tier> {
        let mut homes = self.homes.clone();
        for (tier, sum) in &self.pinned {
            if !take(&mut rooms, *tier, *sum) {
                // Over already: nothing else goes there, and the sum is refused.
                rooms.iter_mut().filter(|(room, _)| room == tier).for_each(|(_, left)| *left = Some(0));
            }
        }
        let together = |a: &Open, b: &Open| a.expert.is_some() && (a.expert, a.wish) == (b.expert, b.wish);
        for group in self.open.chunk_by(together) {
            let (first, bytes) = (&group[0], group.iter().map(|open| open.bytes).sum());
            let home = match first.wish {
                Wish::Either(home, overflow) => {
                    if take(&mut rooms, home, bytes) {
                        home
                    } else {
                        take(&mut rooms, overflow, bytes);
                        overflow
                    }
                }
                _ => first_with_room(&mut rooms, bytes, first.may_use_gpu),
            };
            for open in group {
                homes[open.unit as usize] = home;
            }
        }
        homes
    }
}

fn first_with_room(rooms: &mut Rooms, bytes: u64, may_use_gpu: bool) -> Tier {
    let mut last = Tier::Ram;
    for (tier, left) in rooms.iter_mut() {
        if matches!(tier, Tier::Gpu(_)) && !may_use_gpu {
            continue;
        }
        last = *tier;
        match left {
            None => return *tier,
            Some(left) if *left >= bytes => {
                *left -= bytes;
                return *tier;
            }
            Some(_) => {}
        }
    }
    last
}

/// Takes room in a tier; false where there is not enough.
fn take(rooms: &mut Rooms, tier: Tier, bytes: u64) -> bool {
    match rooms.iter_mut().find(|(known, _)| *known == tier) {
        Some((_, None)) => true,
        Some((_, Some(left))) if *left >= bytes => {
            *left -= bytes;
            true
        }
        Some((_, Some(_))) | None => false,
    }
}
