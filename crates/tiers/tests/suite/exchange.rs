//! Experts that change places keep their bytes, and those that are chosen stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::memory::FaultySource;
use plan::expert_cache::Policy;
use plan::{Plan, UnitId};
use tiers::Tiers;

use crate::failures::Switched;
use crate::model::{DISK, OnDisk, RAM, lease, open, plan, truth, whole};

/// Two of four experts in RAM.
const HALF: OnDisk = [true, false, false, false, true, false, true, true];

fn exchanging(on_disk: OnDisk) -> Plan {
    let mut plan = plan(on_disk, 96, 2);
    plan.placements[3..7].iter_mut().for_each(|placement| placement.exchanges = true);
    plan
}

/// A pass through the one layer whose router chose these units; whether each was in RAM when it was chosen.
fn pass(tiers: &mut Tiers, chosen: &[u32]) -> Result<Vec<bool>, tiers::TierError> {
    tiers.expect(&whole(0))?;
    assert_eq!(lease(tiers, &whole(0))?, truth(&whole(0)));
    tiers.chose(chosen.iter().map(|unit| UnitId(*unit)));
    let hits = chosen.iter().map(|unit| tiers.is_resident(UnitId(*unit))).collect();
    chosen.iter().try_for_each(|unit| tiers.expect(&whole(*unit)))?;
    for unit in chosen {
        let slice = whole(*unit);
        let bytes = match tiers.resident(&slice) {
            Some(bytes) => bytes.to_vec(),
            None => lease(tiers, &slice)?,
        };
        assert_eq!(bytes, truth(&slice), "unit {unit}");
    }
    Ok(hits)
}

#[test]
fn who_makes_room_is_the_plans_policy() {
    // Used once, where the others were used three times before: by use they pass through, by the most recent use they stay.
    for (policy, stays) in [(Policy::USUAL, false), (Policy::Recent, true), (Policy::Fixed, false)] {
        let plan = Plan { exchange: policy, ..exchanging(HALF) };
        let mut tiers = open(&plan, |file| file).unwrap();
        for _ in 0..3 {
            pass(&mut tiers, &[3, 5]).unwrap();
        }
        assert_eq!(pass(&mut tiers, &[4, 6]).unwrap(), [false, false]);
        assert_eq!(pass(&mut tiers, &[4, 6]).unwrap(), [stays, stays], "{policy:?}");
    }
}

#[test]
fn what_is_chosen_comes_and_what_is_not_goes() {
    let mut tiers = open(&exchanging(HALF), |file| file).unwrap();
    let held = tiers.allocated();
    for (chosen, hits) in [
        ([3, 5], [true, true]),
        ([4, 6], [false, false]),
        ([4, 6], [true, true]),
        ([4, 6], [true, true]),
        // Used once, they are worth less than what was used three times, and pass through.
        ([3, 5], [false, false]),
        ([4, 6], [true, true]),
        ([5, 6], [false, true]),
        ([5, 6], [false, true]),
        // Now it has been used more often than 4.
        ([5, 6], [true, true]),
    ] {
        assert_eq!(pass(&mut tiers, &chosen).unwrap(), hits, "{chosen:?}");
    }
    assert_eq!(tiers.allocated(), held);
    // All of a layer at once: nothing is driven out by what passes through.
    for _ in 0..3 {
        assert_eq!(pass(&mut tiers, &[3, 4, 5, 6]).unwrap(), [false, false, true, true]);
    }
}

#[test]
fn what_the_plan_fixes_stays() {
    for plan in
        [plan(HALF, 96, 2), exchanging(DISK), exchanging([true, false, false, false, false, false, false, true])]
    {
        let mut tiers = open(&plan, |file| file).unwrap();
        let first: Vec<bool> = (3..7).map(|unit| tiers.is_resident(UnitId(unit))).collect();
        for chosen in [[4, 6], [4, 6], [3, 5]] {
            pass(&mut tiers, &chosen).unwrap();
            assert_eq!((3..7).map(|unit| tiers.is_resident(UnitId(unit))).collect::<Vec<_>>(), first);
        }
    }
    assert!(open(&exchanging(RAM), |file| file).unwrap().is_resident(UnitId(3)));
}

#[test]
fn a_place_that_was_not_filled_is_given_back() {
    let broken = Arc::new(AtomicBool::new(false));
    let mut tiers = open(&exchanging(HALF), |file| Switched(file, Arc::clone(&broken))).unwrap();
    for round in 0..20_u32 {
        broken.store(true, Ordering::Relaxed);
        tiers.chose([4, 6].into_iter().map(UnitId));
        for unit in [4, 6] {
            if !tiers.is_resident(UnitId(unit)) {
                tiers.expect(&whole(unit)).unwrap();
                assert!(lease(&mut tiers, &whole(unit)).is_err());
                break;
            }
        }
        tiers.forget_expected();
        broken.store(false, Ordering::Relaxed);
        let chosen = [[3, 5], [4, 6], [3, 4], [5, 6]][round as usize % 4];
        pass(&mut tiers, &chosen).unwrap();
    }
}

#[test]
fn any_choices_over_a_stuttering_drive_give_the_bytes_of_the_file() {
    for seed in 0..20 {
        let mut tiers = open(&exchanging(HALF), |file| FaultySource::seeded(file, seed)).unwrap();
        let mut draw = seed + 1;
        for _ in 0..60 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chosen: Vec<u32> = (0..4).filter(|bit| draw >> (40 + bit) & 1 == 1).map(|bit| bit + 3).collect();
            pass(&mut tiers, &chosen).unwrap();
        }
    }
}
