//! Puts what GPUs leave into RAM and on disk, in the order of what a byte there is worth.
//!
//! A unit is in one tier or another, never in two. So where RAM has no room for all that every token reads, the order
//! decides how much of it is left unused, or goes to experts, which few tokens read: two orders are tried, and the one
//! that leaves less on disk is taken ([`Cargo::fill`]). What stays on disk then is spread over the layers, for a drive that reads ahead of
//! use rests while many layers in RAM follow each other, and is waited for where many on disk do. Experts of equal shares go by number before layer, for a layer's
//! RAM and disk are read at the same time and layers one after the other: each gets its part of RAM.

use std::cmp::Reverse;

use super::rules::Wish;
use crate::traffic::Traffic;
use crate::{Inventory, Role, Scheme, Tier, Unit, cost};

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
    class: u8,
    bytes: u64,
    wish: Wish,
    /// Layer and number, of the matrices of an expert: it is used whole, and they stay together.
    expert: Option<(Option<u32>, u32)>,
    /// Its place in a pass: tables, then layers, then the output.
    stage: u32,
}

impl Open {
    /// What cannot go to disk finds its room before what can.
    fn may_be_on_disk(&self) -> bool {
        !matches!(self.wish, Wish::Either(_, Tier::Gpu(_) | Tier::Ram))
    }

    /// Whether every token reads this whole matrix, from RAM or disk as there is room.
    fn waits_for_ram(&self) -> bool {
        let either = matches!(self.wish, Wish::Open | Wish::Either(Tier::Ram, Tier::Disk));
        (1..ROUTED).contains(&self.class) && either
    }
}

/// The units of a model with what is asked for them, ready to be put into rooms of different sizes.
pub(super) struct Cargo {
    /// Homes of pinned units; of the others, anything.
    homes: Vec<Tier>,
    pinned: Vec<(Tier, u64)>,
    open: Vec<Open>,
    /// Places of `open`, in the order in which layers are filled one after the other: tens of thousands are sorted once.
    by_layer: Vec<u32>,
}

/// Bytes left for weights in RAM and on disk, if they may be used; none for disk, which is never full.
pub(super) type Rooms = Vec<(Tier, Option<u64>)>;

impl Cargo {
    pub(super) fn new(inventory: &Inventory, wishes: &[Wish], traffic: Traffic<'_>) -> Self {
        let tied = traffic.tied();
        let mut cargo =
            Self { homes: vec![Tier::Disk; wishes.len()], pinned: Vec::new(), open: Vec::new(), by_layer: Vec::new() };
        for (index, (unit, wish)) in inventory.units.iter().zip(wishes).enumerate() {
            let bytes = cost::resident(unit).0;
            match wish {
                // GPUs have it, or nobody.
                Wish::NotRun | Wish::InTurn => {}
                Wish::Pinned(tier) => {
                    cargo.homes[index] = *tier;
                    match cargo.pinned.iter_mut().find(|(pinned, _)| pinned == tier) {
                        Some((_, sum)) => *sum += bytes,
                        None => cargo.pinned.push((*tier, bytes)),
                    }
                }
                Wish::Either(..) | Wish::Open => {
                    let class = class(unit, inventory, tied);
                    let expert = unit.expert.filter(|_| class == ROUTED).map(|expert| (unit.layer, expert));
                    let stage = match (unit.role, unit.layer) {
                        (Role::Embedding, _) => 0,
                        (_, layer) => layer.map_or(u32::MAX, |layer| layer + 1),
                    };
                    cargo.open.push(Open { unit: index as u32, class, bytes, wish: *wish, expert, stage });
                }
            }
        }
        cargo.open.sort_by_cached_key(|open| {
            let unit = &inventory.units[open.unit as usize];
            // Those that most tokens choose come first. Floats from 0 up are in the order of their bits.
            let rare = Reverse(if open.expert.is_some() { traffic.expert_share(unit).to_bits() } else { 0 });
            let number = open.expert.map(|(_, number)| number);
            // A rule that wants experts somewhere is served before those that may be anywhere.
            let anywhere = open.expert.is_some() && open.wish == Wish::Open;
            (
                open.class,
                open.may_be_on_disk(),
                anywhere,
                rare,
                number,
                unit.layer.unwrap_or(u32::MAX),
                unit.expert,
                open.unit,
            )
        });
        cargo.by_layer = by_layer(&cargo.open);
        cargo
    }

    /// A home for each unit that has none on a GPU (`on_gpus`, by unit). What fits nowhere is given to the last tier that it may use, whose
    /// sum then shows by how much it is over.
    ///
    /// What every token reads comes first, and RAM takes of it what fits, class by class; or the largest unit that would be left (as a rule the output) and then the others, if at
    /// least half as many bytes less as that unit has stay on disk: less is not worth tearing layers. Then experts and tables have the room that is left.
    pub(super) fn fill(&self, mut rooms: Rooms, on_gpus: &[Option<Tier>], scheme: Scheme) -> Vec<Tier> {
        let mut homes = self.homes.clone();
        for (home, on_gpu) in homes.iter_mut().zip(on_gpus) {
            *home = on_gpu.unwrap_or(*home);
        }
        for (tier, sum) in &self.pinned {
            if !take(&mut rooms, *tier, *sum) {
                // Over already: nothing else goes there, and the sum is refused.
                rooms.iter_mut().filter(|(room, _)| room == tier).for_each(|(_, left)| *left = Some(0));
            }
        }
        let is_left = |open: &&Open| on_gpus[open.unit as usize].is_none();
        if scheme.is_by_layer() {
            let open = self.by_layer.iter().map(|place| &self.open[*place as usize]).filter(is_left).collect();
            fill_by_layer(open, rooms, &mut homes, scheme == Scheme::ExpertsOnCpu);
            return homes;
        }
        let open: Vec<&Open> = self.open.iter().filter(is_left).collect();
        let (each_token, rest) = open.split_at(open.partition_point(|open| open.class < ROUTED));
        let mut waiting = Vec::new();
        for open in each_token {
            if open.waits_for_ram() {
                waiting.push(*open);
            } else {
                homes[open.unit as usize] = place(&mut rooms, open.wish, open.bytes);
            }
        }
        let fill_rest = |rooms: &mut Rooms, homes: &mut [Tier], may_be_on_disk: bool| {
            for group in
                rest.chunk_by(|a, b| together(a, b)).filter(|group| group[0].may_be_on_disk() == may_be_on_disk)
            {
                let bytes = group.iter().map(|open| open.bytes).sum();
                let home = place(rooms, group[0].wish, bytes);
                for open in group {
                    homes[open.unit as usize] = home;
                }
            }
        };
        fill_rest(&mut rooms, &mut homes, false);
        let mut packed = Packed::best(waiting, rooms);
        for (open, home) in packed.order.iter().zip(packed.homes) {
            homes[open.unit as usize] = home;
        }
        fill_rest(&mut packed.rooms, &mut homes, true);
        homes
    }
}

/// Matrices of one expert.
fn together(a: &Open, b: &Open) -> bool {
    a.expert.is_some() && (a.expert, a.wish) == (b.expert, b.wish)
}

/// The places of units from the first layer on, those first that may not go to disk.
fn by_layer(open: &[Open]) -> Vec<u32> {
    let mut places: Vec<u32> = (0..open.len() as u32).collect();
    places.sort_by_key(|place| {
        let open = &open[*place as usize];
        (open.may_be_on_disk(), open.stage, open.expert, open.wish, open.unit)
    });
    places
}

/// Each of these units, which are in the order of layers, in the first tier with room; experts behind everything else, or in their layers.
fn fill_by_layer(mut open: Vec<&Open>, mut rooms: Rooms, homes: &mut [Tier], experts_last: bool) {
    if experts_last {
        open.sort_by_key(|open| (open.may_be_on_disk(), open.expert.is_some()));
    }
    for group in open.chunk_by(|a, b| together(a, b)) {
        let home = place(&mut rooms, group[0].wish, group.iter().map(|open| open.bytes).sum());
        for open in group {
            homes[open.unit as usize] = home;
        }
    }
}

/// Units that wait for RAM, put there or on disk in some order.
struct Packed<'a> {
    order: Vec<&'a Open>,
    /// In the same order.
    homes: Vec<Tier>,
    rooms: Rooms,
    /// Bytes that stay on disk.
    left: u64,
}

impl<'a> Packed<'a> {
    /// In the order that is given, or with the largest unit that it leaves on disk before all others, where that leaves
    /// less there by half of this unit or more.
    fn best(waiting: Vec<&'a Open>, rooms: Rooms) -> Self {
        let given = Self::new(waiting, rooms.clone());
        let on_disk = (0..given.homes.len()).filter(|place| given.homes[*place] == Tier::Disk);
        let Some(largest) = on_disk.max_by_key(|place| (given.order[*place].bytes, Reverse(*place))) else {
            return given;
        };
        let (mut order, half) = (given.order.clone(), given.order[largest].bytes.div_ceil(2));
        order[..=largest].rotate_right(1);
        let other = Self::new(order, rooms.clone());
        let best = if other.left + half <= given.left { other } else { given };
        best.spread(rooms)
    }

    /// The same with the units of each class in an order of which every first part is spread over all layers: by the fractions of the
    /// multiples of the golden ratio (<https://en.wikipedia.org/wiki/Low-discrepancy_sequence>). Where that leaves a
    /// thirty-second more on disk, or worse, this order stays.
    fn spread(self, rooms: Rooms) -> Self {
        let mut order = self.order.clone();
        for class in order.chunk_by_mut(|a, b| a.class == b.class) {
            let fraction = |place: usize| (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut spread: Vec<_> = class.iter().enumerate().map(|(place, open)| (fraction(place), *open)).collect();
            spread.sort_by_key(|(fraction, _)| *fraction);
            class.iter_mut().zip(spread).for_each(|(open, (_, spread))| *open = spread);
        }
        let spread = Self::new(order, rooms);
        if spread.left <= self.left + self.left / 32 { spread } else { self }
    }

    fn new(order: Vec<&'a Open>, mut rooms: Rooms) -> Self {
        let homes: Vec<Tier> = order.iter().map(|open| place(&mut rooms, open.wish, open.bytes)).collect();
        let on_disk = order.iter().zip(&homes).filter(|(_, home)| **home == Tier::Disk);
        let left = on_disk.map(|(open, _)| open.bytes).sum();
        Self { order, homes, rooms, left }
    }
}

/// The tier that is wished for, or the first with room; the room is taken. A GPU that is wished for had none.
fn place(rooms: &mut Rooms, wish: Wish, bytes: u64) -> Tier {
    match wish {
        Wish::Either(home, _) if take(rooms, home, bytes) => home,
        Wish::Either(_, overflow) => {
            take(rooms, overflow, bytes);
            overflow
        }
        _ => first_with_room(rooms, bytes),
    }
}

fn first_with_room(rooms: &mut Rooms, bytes: u64) -> Tier {
    let mut last = Tier::Ram;
    for (tier, left) in rooms.iter_mut() {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Tier::{Disk, Ram};

    fn cargo(units: &[(u8, u64, u8)]) -> Cargo {
        let wish = |wish: u8| match wish {
            0 => Wish::Either(Tier::Ram, Tier::Disk),
            1 => Wish::Either(Tier::Gpu(0), Tier::Disk),
            2 => Wish::Either(Tier::Gpu(0), Tier::Ram),
            _ => Wish::Open,
        };
        let open = |(unit, (class, bytes, asked)): (usize, &(u8, u64, u8))| {
            let expert = (*class == ROUTED).then_some((Some(0), unit as u32));
            Open { unit: unit as u32, class: *class, bytes: *bytes, wish: wish(*asked), expert, stage: 0 }
        };
        let mut open: Vec<Open> = units.iter().enumerate().map(open).collect();
        open.sort_by_key(|open| (open.class, open.unit));
        let by_layer = by_layer(&open);
        Cargo { homes: vec![Tier::Disk; units.len()], pinned: Vec::new(), open, by_layer }
    }

    /// Bytes of each tier that every token reads, and of all units.
    fn sums(cargo: &Cargo, homes: &[Tier], tier: Tier) -> (u64, u64) {
        let here = |classes: u8| {
            let here = cargo.open.iter().filter(|open| homes[open.unit as usize] == tier && open.class < classes);
            here.map(|open| open.bytes).sum()
        };
        (here(ROUTED), here(u8::MAX))
    }

    #[test]
    fn a_large_output_is_not_left_for_experts() {
        // Two layers, an output of 60 and experts, in 95 bytes of RAM.
        let cargo =
            cargo(&[(1, 20, 3), (1, 20, 3), (3, 10, 3), (3, 10, 3), (4, 60, 3), (ROUTED, 5, 3), (ROUTED, 5, 3)]);
        let homes = cargo.fill(vec![(Tier::Ram, Some(95)), (Tier::Disk, None)], &[None; 7], Scheme::ByUse);
        assert_eq!(homes, [Ram, Disk, Ram, Disk, Ram, Ram, Disk]);
        // With room for the layers and little more it would take the place of as much as it has.
        let homes = cargo.fill(vec![(Tier::Ram, Some(62)), (Tier::Disk, None)], &[None; 7], Scheme::ByUse);
        assert_eq!(homes, [Ram, Ram, Ram, Ram, Disk, Disk, Disk]);
    }

    #[test]
    fn what_stays_on_disk_is_spread_over_the_layers() {
        // Sixteen layers of three matrices, of which RAM has room for 30 of 48.
        let cargo = cargo(&[(3, 10, 3); 48]);
        let homes = cargo.fill(vec![(Tier::Ram, Some(300)), (Tier::Disk, None)], &[None; 48], Scheme::ByUse);
        let on_disk = |homes: &[Tier]| homes.iter().filter(|home| **home == Disk).count();
        assert_eq!(on_disk(&homes), 18);
        for layers in homes.chunks(12) {
            assert!((3..=6).contains(&on_disk(layers)), "{homes:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_more_is_left_on_disk_than_class_by_class(
            units in proptest::collection::vec((0_u8..7, 1_u64..60, 0_u8..8), 1..24),
            ram in 0_u64..500,
            on_gpus in proptest::collection::vec(proptest::option::weighted(0.2, Just(Tier::Gpu(0))), 24),
        ) {
            let cargo = cargo(&units);
            let rooms: Rooms = vec![(Tier::Ram, Some(ram)), (Tier::Disk, None)];
            let mut left = rooms.clone();
            let mut by_class = vec![Tier::Disk; units.len()];
            for open in &cargo.open {
                by_class[open.unit as usize] =
                    on_gpus[open.unit as usize].unwrap_or_else(|| place(&mut left, open.wish, open.bytes));
            }
            // Over: refused either way.
            prop_assume!(sums(&cargo, &by_class, Tier::Ram).1 <= ram);
            let homes = cargo.fill(rooms, &on_gpus[..units.len()], Scheme::ByUse);
            prop_assert!(sums(&cargo, &homes, Tier::Ram).1 <= ram, "{homes:?}");
            let (found, before) = (sums(&cargo, &homes, Tier::Disk).0, sums(&cargo, &by_class, Tier::Disk).0);
            prop_assert!(found <= before + before / 32, "{found} bytes on disk, and {before} class by class");
            for (unit, home) in homes.iter().enumerate() {
                prop_assert_eq!(matches!(home, Tier::Gpu(_)), on_gpus[unit].is_some());
            }
        }
    }
}
