//! The schedule over two streams of a device that is not there: queues whose work is done as early or as late as marks allow.

use std::collections::{BTreeSet, VecDeque};

use plan::Tier;

use super::*;
use crate::rows::tests::places;

/// Rows and bytes of a row of each unit, in RAM but for the last two.
const UNITS: [(u64, u64); 9] =
    [(700, 64), (3, 100), (1, 4000), (300, 40), (40, 144), (40, 144), (40, 210), (900, 32), (64, 48)];
const DISK_FROM: usize = 7;
/// Bytes of a slot of the ring from disk.
const DISK_SLOT: u64 = 640;

fn slice(unit: u32, rows: std::ops::Range<u64>) -> RowSlice {
    RowSlice { unit: plan::UnitId(unit), rows }
}

fn whole(unit: u32) -> RowSlice {
    slice(unit, 0..UNITS[unit as usize].0)
}

/// What a row holds.
fn content(unit: u32, row: u64) -> u32 {
    (row as u32 + 7919 * unit).wrapping_mul(2_654_435_761)
}

/// Work of a stream. A mark is set for the n-th time; who waits for it waits for that time, or for nothing if there was none.
enum Work {
    Copy(Placed),
    Use(Placed),
    SetFilled(usize, u32),
    SetFreed(usize, u32),
    WaitFilled(usize, u32),
    WaitFreed(usize, u32),
}

/// Times that a mark was asked for, and was set.
#[derive(Clone, Copy, Default)]
struct Mark(u32, u32);

struct Device {
    copies: VecDeque<Work>,
    kernels: VecDeque<Work>,
    filled: Vec<Mark>,
    freed: Vec<Mark>,
    /// By slot: unit, row and content by first byte.
    memory: Vec<Vec<(u64, u64, u32)>>,
    used: usize,
    copied: usize,
}

impl Device {
    fn new(slots: usize) -> Self {
        let marks = vec![Mark::default(); slots];
        let (filled, freed, memory) = (marks.clone(), marks, vec![Vec::new(); slots]);
        Self { copies: VecDeque::new(), kernels: VecDeque::new(), filled, freed, memory, used: 0, copied: 0 }
    }

    fn kernel_uses(&mut self, placed: &Placed) {
        self.kernels.push_back(Work::Use(placed.clone()));
    }

    /// Does the next work of a stream, if nothing holds it up.
    fn step(&mut self, copies: bool) -> bool {
        let queue = if copies { &mut self.copies } else { &mut self.kernels };
        let Some(work) = queue.pop_front() else { return false };
        match &work {
            Work::WaitFilled(slot, times) if self.filled[*slot].1 < *times => {
                queue.push_front(work);
                return false;
            }
            Work::WaitFreed(slot, times) if self.freed[*slot].1 < *times => {
                queue.push_front(work);
                return false;
            }
            Work::WaitFilled(..) | Work::WaitFreed(..) => {}
            Work::SetFilled(slot, times) => self.filled[*slot].1 = *times,
            Work::SetFreed(slot, times) => self.freed[*slot].1 = *times,
            Work::Copy(placed) => self.copy_now(placed),
            Work::Use(placed) => self.use_now(placed),
        }
        true
    }

    fn copy_now(&mut self, placed: &Placed) {
        let (memory, bytes) = (&mut self.memory[placed.slot], UNITS[placed.piece.unit.0 as usize].1);
        let end = placed.at + placed.piece.bytes();
        memory.retain(|(from, to, _)| *to <= placed.at || *from >= end);
        for (row, from) in placed.piece.rows.clone().zip((placed.at..).step_by(bytes as usize)) {
            memory.push((from, from + bytes, content(placed.piece.unit.0, row)));
        }
        self.copied += 1;
    }

    fn use_now(&mut self, placed: &Placed) {
        let bytes = UNITS[placed.piece.unit.0 as usize].1;
        let there: BTreeSet<_> = self.memory[placed.slot].iter().copied().collect();
        for (row, from) in placed.piece.rows.clone().zip((placed.at..).step_by(bytes as usize)) {
            let wanted = (from, from + bytes, content(placed.piece.unit.0, row));
            assert!(there.contains(&wanted), "row {row} of unit {} is not there", placed.piece.unit.0);
        }
        self.used += 1;
    }

    /// Lets streams go on at random; `late` is the stream that goes on only when the other cannot.
    fn run(&mut self, steps: usize, late: bool) {
        for _ in 0..steps {
            if !self.step(!late) && !self.step(late) {
                return;
            }
        }
    }
}

impl Streams for Device {
    type Marks = Self;

    fn marks(&mut self) -> &mut Self {
        self
    }

    fn is_at_hand(&self, slice: &RowSlice) -> bool {
        (slice.unit.0 as usize) < DISK_FROM
    }

    fn copy<'p>(&mut self, placed: impl Iterator<Item = &'p Placed>) -> Result<(), TierError> {
        let before = self.copies.len();
        self.copies.extend(placed.map(|placed| Work::Copy(placed.clone())));
        let slot = |work: &Work| if let Work::Copy(placed) = work { Some(placed.slot) } else { None };
        let mut slots = self.copies.range(before..).map(slot);
        let first = slots.next().expect("something is copied");
        assert!(slots.all(|slot| slot == first), "one slot");
        Ok(())
    }
}

impl Marks for Device {
    fn wait_freed(&mut self, slot: usize) -> Result<(), TierError> {
        assert!(self.freed[slot].0 > 0, "a mark that was never set holds nobody up");
        self.copies.push_back(Work::WaitFreed(slot, self.freed[slot].0));
        Ok(())
    }

    fn mark_filled(&mut self, slot: usize) -> Result<(), TierError> {
        self.filled[slot].0 += 1;
        self.copies.push_back(Work::SetFilled(slot, self.filled[slot].0));
        Ok(())
    }

    fn wait_filled(&mut self, slot: usize) -> Result<(), TierError> {
        self.kernels.push_back(Work::WaitFilled(slot, self.filled[slot].0));
        Ok(())
    }

    fn mark_freed(&mut self, slot: usize) -> Result<(), TierError> {
        self.freed[slot].0 += 1;
        self.kernels.push_back(Work::SetFreed(slot, self.freed[slot].0));
        Ok(())
    }
}

fn schedule(slot: u64, slots: u32) -> Schedule {
    let homes = |unit| if unit < DISK_FROM { Tier::Ram } else { Tier::Disk };
    let units = UNITS.iter().enumerate().map(|(unit, (rows, bytes))| (*rows, *bytes, homes(unit)));
    Schedule::new(Arc::new(places(units, DISK_SLOT)), Bytes(slot), slots)
}

/// Leases all of `slices`, several pieces at a time, and says what each lease had.
fn use_all(schedule: &mut Schedule, device: &mut Device, slices: &[RowSlice]) -> Result<Vec<Vec<RowSlice>>, TierError> {
    let (mut rest, mut all) = (slices.to_vec(), Vec::new());
    while !rest.is_empty() {
        let leased = schedule.lease(device, &rest)?;
        for placed in &leased {
            device.kernel_uses(placed);
            rest[0].rows.start = placed.piece.rows.end;
            if rest[0].rows.is_empty() {
                rest.remove(0);
            }
        }
        for placed in &leased {
            schedule.give_back(device, placed.slot)?;
        }
        all.push(leased.iter().map(|placed| placed.piece.slice()).collect());
    }
    Ok(all)
}

/// A few numbers that look drawn.
fn draw(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

#[test]
fn every_row_is_there_when_it_is_used_however_streams_run() {
    let together = [vec![whole(4), whole(5), whole(6)], vec![whole(7)], vec![whole(0)], vec![whole(8), whole(3)]];
    let alone = (0..9).map(|unit| vec![whole(unit)]);
    let parts = [vec![slice(0, 5..600)], vec![slice(3, 299..300), slice(1, 0..2)], vec![slice(7, 100..900)]];
    let groups: Vec<_> = alone.chain(together).chain(parts).collect();
    for (slot, slots) in [(20_992, 1), (20_992, 2), (20_992, 3), (24_000, 3), (64_000, 4), (1 << 20, 2)] {
        for mut seed in 0..40 {
            let (mut schedule, mut device) = (schedule(slot, slots), Device::new(slots as usize));
            let (mut ahead, mut pieces) = (VecDeque::new(), 0);
            for _ in 0..60 {
                let group = groups[draw(&mut seed) % groups.len()].clone();
                schedule.expect(&group).unwrap();
                schedule.pump(&mut device, false).unwrap();
                ahead.push_back(group);
                if draw(&mut seed).is_multiple_of(3) {
                    let group: Vec<_> = ahead.drain(..=draw(&mut seed) % ahead.len()).flatten().collect();
                    let leases = use_all(&mut schedule, &mut device, &group).unwrap();
                    pieces += leases.iter().map(Vec::len).sum::<usize>();
                }
                let late = draw(&mut seed).is_multiple_of(2);
                device.run(draw(&mut seed) % 30, late);
            }
            device.run(usize::MAX, true);
            assert!(device.kernels.is_empty() && device.copies.len() <= 1 + pieces, "streams stand");
            assert_eq!(device.used, pieces);
        }
    }
}

#[test]
fn what_fits_a_slot_is_not_cut_and_what_does_not_is_cut_by_tiles() {
    // A slot takes 20,480 bytes: 320 rows of unit 0, 284 of the 512 of unit 3.
    let mut schedule = schedule(20_480 + TAIL.0, 2);
    let mut device = Device::new(2);
    let mut leases = |together: &[&[RowSlice]]| {
        for slices in together {
            schedule.expect(slices).unwrap();
        }
        let all: Vec<_> = together.concat();
        use_all(&mut schedule, &mut device, &all).unwrap()
    };
    for (together, expected) in [
        // 44,800 bytes: two tiles, two tiles, and the last rows.
        (&[&[whole(0)][..]][..], vec![vec![slice(0, 0..256)], vec![slice(0, 256..512)], vec![slice(0, 512..700)]]),
        // Behind 12,000 bytes there is room for one tile, but not for what fits a slot.
        (
            &[&[whole(3)], &[whole(0)]],
            vec![
                vec![whole(3)],
                vec![slice(0, 0..128)],
                vec![slice(0, 128..384)],
                // 20,224 bytes.
                vec![slice(0, 384..700)],
            ],
        ),
        (&[&[whole(3)], &[whole(3)]], vec![vec![whole(3)], vec![whole(3)]]),
        // Three matrices of an expert stay together, one such after another.
        (
            &[&[whole(4), whole(5), whole(6)], &[whole(4), whole(5), whole(6)]],
            vec![vec![whole(4), whole(5), whole(6)], vec![whole(4), whole(5), whole(6)]],
        ),
        (&[&[whole(1)], &[whole(4), whole(5)], &[whole(2)]], vec![vec![whole(1), whole(4), whole(5), whole(2)]]),
        // From disk, by as many rows as come at once: 20.
        (&[&[whole(7)]], vec![vec![slice(7, 0..640)], vec![slice(7, 640..900)]]),
    ] {
        assert_eq!(leases(together), expected, "{together:?}");
    }
}

#[test]
fn copies_run_ahead_as_far_as_slots_are_free_and_drives_are_not_waited_for() {
    let (mut schedule, mut device) = (schedule(20_480 + TAIL.0, 2), Device::new(2));
    for unit in [0, 7, 3] {
        schedule.expect(&[whole(unit)]).unwrap();
    }
    schedule.pump(&mut device, false).unwrap();
    device.run(usize::MAX, true);
    assert_eq!(device.copied, 2, "two slots are full");
    use_all(&mut schedule, &mut device, &[slice(0, 0..256)]).unwrap();
    assert!(use_all(&mut schedule, &mut device, &[slice(0, 0..256)]).is_err(), "it is used up");
    device.run(usize::MAX, true);
    assert_eq!(device.copied, 3, "a slot is free again; what comes next comes from a drive");
    use_all(&mut schedule, &mut device, &[slice(0, 256..700)]).unwrap();
    device.run(usize::MAX, true);
    assert_eq!(device.copied, 3);
    use_all(&mut schedule, &mut device, &[whole(7), whole(3)]).unwrap();
    device.run(usize::MAX, true);
    assert!(device.copies.is_empty() && device.kernels.is_empty());
}

#[test]
fn what_is_forgotten_makes_room_for_another_order() {
    for leased in 0..3 {
        let (mut schedule, mut device) = (schedule(20_992, 3), Device::new(3));
        for _ in 0..5 {
            for unit in [0, 3, 0] {
                schedule.expect(&[whole(unit)]).unwrap();
            }
            let rows = [0..256, 256..512, 512..700];
            for rows in &rows[..leased] {
                use_all(&mut schedule, &mut device, &[slice(0, rows.clone())]).unwrap();
            }
            schedule.forget(&mut device).unwrap();
            let error = schedule.lease(&mut device, &[whole(3)]).map(|_| ()).unwrap_err();
            assert!(matches!(error, TierError::NotExpected { next: None, .. }), "{error}");
            schedule.expect(&[whole(3)]).unwrap();
            use_all(&mut schedule, &mut device, &[whole(3)]).unwrap();
        }
        device.run(usize::MAX, false);
        assert!(device.copies.is_empty() && device.kernels.is_empty());
    }
}

#[test]
fn what_cannot_come_is_refused() {
    let mut schedule = schedule(2048 + TAIL.0, 2);
    for (together, needed) in [(&[whole(2)][..], 4096), (&[whole(1), whole(1), whole(3)], 512 + 512 + 12_032)] {
        let error = schedule.expect(together).unwrap_err();
        let expected = (Bytes(needed), Bytes(2048));
        assert!(
            matches!(&error, TierError::SlotTooSmall { needed, slot, .. } if (*needed, *slot) == expected),
            "{error}"
        );
    }
    assert!(matches!(schedule.expect(&[slice(1, 0..4)]), Err(TierError::NoSuchRows { .. })));
    schedule.expect(&[slice(1, 2..2)]).unwrap();
    schedule.expect(&[whole(1)]).unwrap();
    let mut device = Device::new(2);
    for wrong in [whole(3), slice(1, 1..3), slice(1, 0..2)] {
        let error = schedule.lease(&mut device, &[wrong]).map(|_| ()).unwrap_err();
        assert!(matches!(&error, TierError::NotExpected { next: Some(next), .. } if *next == whole(1)), "{error}");
    }
}

#[test]
fn matrices_that_came_together_are_leased_one_by_one() {
    // Units 4 and 5 take 5,760 bytes each, unit 6 takes 8,400.
    let expert = [whole(4), whole(5), whole(6)];
    for slots in 1..4 {
        let (mut schedule, mut device) = (schedule(20_736, slots), Device::new(slots as usize));
        for _ in 0..2 {
            for _ in 0..40 {
                schedule.expect(&expert).unwrap();
                schedule.pump(&mut device, false).unwrap();
            }
            for turn in 0..40 {
                for part in &expert {
                    let leased = use_all(&mut schedule, &mut device, std::slice::from_ref(part));
                    assert_eq!(leased.unwrap(), [[part.clone()]], "{slots} slots, turn {turn}");
                }
            }
        }
        device.run(usize::MAX, true);
        assert_eq!(device.used, 2 * 40 * 3);
    }
}

#[test]
fn a_matrix_that_nobody_takes_stands_in_the_way_of_what_follows() {
    // The last matrices of three experts, of which somebody multiplies with the second one elsewhere.
    let lasts = [slice(6, 0..10), slice(6, 10..20), slice(6, 20..30)];
    let (mut schedule, mut device) = (schedule(20_736, 2), Device::new(2));
    for last in &lasts {
        schedule.expect(std::slice::from_ref(last)).unwrap();
    }
    use_all(&mut schedule, &mut device, &lasts[..1]).unwrap();
    let error = schedule.lease(&mut device, &lasts[2..]).map(|_| ()).unwrap_err();
    assert!(matches!(&error, TierError::NotExpected { next: Some(next), .. } if *next == lasts[1]), "{error}");
    use_all(&mut schedule, &mut device, &lasts[1..]).unwrap();
}
