//! What is guessed is read where nothing else waits, handed over where it comes true, and given up for what is expected.

use crate::model::{DISK, MIXED, lease, open, plan, read, slice, truth, whole};

#[test]
fn guesses_that_come_true_are_told_from_others() {
    // A unit is a piece, and half of the slots are for guesses.
    let mut tiers = open(&plan(DISK, 2048, 8), |file| file).unwrap();
    for unit in [3, 4, 5] {
        tiers.guess(&whole(unit)).unwrap();
    }
    for unit in [5, 6, 3] {
        tiers.expect(&whole(unit)).unwrap();
    }
    tiers.give_up_guesses();
    for unit in [5, 6, 3] {
        assert_eq!(lease(&mut tiers, &whole(unit)).unwrap(), truth(&whole(unit)), "unit {unit}");
    }
    // 4 was guessed in vain, 6 came without a guess; each has 16 rows of 32 bytes.
    let counts = tiers.counts();
    assert_eq!((counts.guessed_bytes, counts.wasted_bytes, counts.disk_bytes), (2 * 512, 512, 3 * 512));
}

#[test]
fn guesses_never_hold_up_what_is_expected() {
    for slots in [1, 2, 3, 8] {
        let mut tiers = open(&plan(DISK, 64, slots), |file| file).unwrap();
        for _ in 0..20 {
            for unit in 0..8 {
                tiers.guess(&whole(unit)).unwrap();
            }
            for unit in [7, 2, 0] {
                assert_eq!(read(&mut tiers, &whole(unit)).unwrap(), truth(&whole(unit)), "{slots} slots, unit {unit}");
            }
            // Those that nobody gave up do not outlive what follows.
            tiers.forget_expected();
        }
    }
}

#[test]
fn what_is_resident_or_unknown_is_not_guessed() {
    let mut tiers = open(&plan(MIXED, 2048, 8), |file| file).unwrap();
    tiers.guess(&whole(4)).unwrap();
    tiers.guess(&slice(3, 10..17)).unwrap();
    tiers.guess(&slice(99, 0..1)).unwrap();
    tiers.give_up_guesses();
    assert_eq!((tiers.counts().guessed_bytes, tiers.counts().wasted_bytes), (0, 0));
}
