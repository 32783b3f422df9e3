//! Each home gives the bytes of the file, and counts them.

use kernels::memory::{Fault, FaultySource};
use plan::{Bytes, Tier, UnitId};
use tiers::{TierError, Tiers};

use crate::model::{DISK, MIXED, RAM, ROW_BYTES, ROWS, lease, open, plan, read, slice, truth, whole};

#[test]
fn every_pass_gives_the_bytes_of_the_file_from_any_home() {
    for on_disk in [RAM, MIXED, DISK] {
        for slot in [32, 100, 1 << 20] {
            let mut tiers = open(&plan(on_disk, slot, 2), |file| file).unwrap();
            for _ in 0..3 {
                for slice in (0..8).map(whole) {
                    assert_eq!(read(&mut tiers, &slice).unwrap(), truth(&slice), "{on_disk:?} {slot} {slice}");
                }
            }
        }
    }
}

#[test]
fn parts_of_units_are_served_too() {
    // Experts start inside their tensor; what counts is where the unit starts.
    let parts = [slice(0, 13..40), slice(3, 15..16), slice(5, 2..9), slice(6, 0..1), slice(6, 7..7), slice(7, 1..3)];
    for on_disk in [RAM, MIXED, DISK] {
        let mut tiers = open(&plan(on_disk, 70, 2), |file| file).unwrap();
        for part in &parts {
            assert_eq!(read(&mut tiers, part).unwrap(), truth(part), "{on_disk:?} {part}");
        }
    }
}

#[test]
fn pieces_fit_a_slot_and_cover_each_row_once() {
    let tiers = open(&plan(MIXED, 100, 2), |file| file).unwrap();
    let pieces: Vec<_> = tiers.pieces(&whole(0)).collect();
    assert!(pieces.iter().all(|piece| piece.bytes() <= 100));
    let rows: Vec<u64> = pieces.iter().flat_map(|piece| piece.rows.clone()).collect();
    assert_eq!(rows, (0..40).collect::<Vec<_>>());
    assert_eq!(tiers.pieces(&whole(4)).count(), 1, "resident rows are not cut");
}

#[test]
fn resident_rows_are_borrowed_side_by_side() {
    let tiers = open(&plan(MIXED, 64, 2), |file| file).unwrap();
    let borrowed = [whole(1), whole(4), slice(4, 3..9), slice(2, 7..7)].map(|s| (tiers.resident(&s), truth(&s)));
    for (bytes, truth) in &borrowed {
        assert_eq!(bytes.unwrap(), truth);
    }
    assert_eq!(tiers.counts().ram_bytes, (1 + 16 + 6) * ROW_BYTES);
    for (unit, disk) in (0..).zip(MIXED) {
        assert_eq!(tiers.is_resident(UnitId(unit)), !disk);
        assert_eq!(tiers.resident(&whole(unit)).is_none(), disk);
    }
    assert!(!tiers.is_resident(UnitId(8)));
    assert_eq!(tiers.resident(&slice(8, 0..1)), None);
    assert_eq!(tiers.resident(&slice(4, 10..17)), None);
}

#[test]
fn rows_are_gathered_one_by_one_from_any_home() {
    // The last plan has no ring: a table that is only looked up in needs none, and no slot that fits its rows.
    for plan in [plan(RAM, 64, 2), plan(DISK, 64, 2), plan(DISK, 0, 0)] {
        let mut tiers = open(&plan, |file| file).unwrap();
        let mut row = [0; ROW_BYTES as usize];
        for (unit, index) in [(0, 39), (0, 0), (4, 15), (5, 0), (7, 2)] {
            tiers.gather(UnitId(unit), index, &mut row).unwrap();
            assert_eq!(row[..], truth(&slice(unit, index..index + 1))[..]);
        }
    }
}

#[test]
fn counts_say_what_came_from_where() {
    let mut tiers = open(&plan(MIXED, 64, 2), |file| file).unwrap();
    for unit in 0..8 {
        read(&mut tiers, &whole(unit)).unwrap();
    }
    let rows = |disk: bool| ROWS.iter().zip(MIXED).filter(|(_, d)| *d == disk).map(|(rows, _)| rows).sum::<u64>();
    assert_eq!(tiers.counts().ram_bytes, rows(false) * ROW_BYTES);
    assert_eq!(tiers.counts().disk_bytes, rows(true) * ROW_BYTES);
    // What is forgotten was not used.
    tiers.expect(&whole(0)).unwrap();
    tiers.forget_expected();
    assert_eq!(tiers.counts().disk_bytes, rows(true) * ROW_BYTES);
}

#[test]
fn a_ring_is_there_only_where_units_are_on_disk() {
    for (on_disk, slots, ring) in [(RAM, 2, false), (DISK, 2, true), (DISK, 3, true), (DISK, 0, true)] {
        let plan = plan(on_disk, 64, slots);
        let tiers = open(&plan, |file| file).unwrap();
        let ring = if ring { plan.staging.bytes() } else { Bytes(0) };
        let arena = if on_disk == RAM {
            Bytes(ROWS.iter().map(|r| (r * ROW_BYTES).next_multiple_of(64)).sum())
        } else {
            Bytes(0)
        };
        assert_eq!(tiers.allocated(), arena + ring, "{slots} slots");
    }
}

#[test]
fn a_row_longer_than_a_slot_is_refused() {
    let result = open(&plan(MIXED, 31, 2), |file| file);
    assert!(matches!(result, Err(TierError::RowTooLong { tensor, .. }) if tensor == "t0"));
    open(&plan(RAM, 31, 2), |file| file).unwrap();
}

#[test]
fn a_home_on_a_gpu_that_is_not_there_is_refused() {
    let mut plan = plan(MIXED, 64, 2);
    plan.placements[4].home = Tier::Gpu(99);
    let result = open(&plan, |file| file);
    #[cfg(not(feature = "cuda"))]
    assert!(matches!(result, Err(TierError::NoGpu { tier: Tier::Gpu(99) })));
    #[cfg(feature = "cuda")]
    assert!(matches!(result, Err(TierError::Gpu(_))));
}

#[test]
fn a_device_error_while_loading_is_an_error() {
    let result = open(&plan(RAM, 64, 2), |file| FaultySource::scheduled(file, &[Fault::Device]));
    assert!(matches!(result, Err(TierError::Read { .. })));
}

#[test]
fn tiers_can_move_to_another_thread() {
    let mut tiers: Tiers = open(&plan(MIXED, 64, 2), |file| file).unwrap();
    tiers.expect(&whole(0)).unwrap();
    let bytes = std::thread::spawn(move || lease(&mut tiers, &whole(0)).unwrap()).join().unwrap();
    assert_eq!(bytes, truth(&whole(0)));
}
