//! Rows that pass through a card hold the bytes of the file, wherever they live. Runs where `PLIMSOLL_GPU` is set.

use kernels::cuda::DeviceBuffer;
use plan::{Bytes, Staging};
use tiers::{RowSlice, TierError, Tiers};

use crate::model::{DISK, MIXED, Memory, OnDisk, RAM, open, plan, slice, truth, whole};

/// Bytes of a slot that no piece takes.
const TAIL: u64 = 512;

fn card(test: &str) -> bool {
    let set = std::env::var_os("PLIMSOLL_GPU").is_some();
    if !set {
        eprintln!("skipped: {test}, since PLIMSOLL_GPU is not set");
    }
    set
}

/// `slots` of `room` bytes on the card, and as many from disk as is said.
fn streaming(on_disk: OnDisk, room: u64, slots: u32, from_disk: u32) -> Tiers {
    let mut plan = plan(on_disk, 96, from_disk);
    plan.device_staging = vec![(0, Staging { slot: Bytes(room + TAIL), slots })];
    open(&plan, |file: Memory| file).unwrap()
}

/// Expects all groups and leases them, a slot's worth at a time, and copies what they hold aside on the card: nobody waits before the end.
fn all(tiers: &mut Tiers, groups: &[Vec<RowSlice>]) -> Result<Vec<u8>, TierError> {
    for group in groups {
        tiers.expect_on(0, group)?;
    }
    let mut rest = groups.concat();
    let count = rest.iter().map(|slice| truth(slice).len()).sum();
    let gpu = tiers.card(0).unwrap().clone();
    let mut aside = DeviceBuffer::<u8>::new(&gpu, "a test", count).unwrap();
    let mut end = 0;
    while !rest.is_empty() {
        let lease = tiers.lease_on(0, &rest)?;
        assert!(!lease.is_empty());
        let mut taken = 0;
        for run in 0..lease.len() {
            let bytes = lease.bytes(run);
            gpu.compute().copy(bytes, &mut aside.slice_mut().range(end..end + bytes.len()))?;
            end += bytes.len();
            rest[taken].rows.start = lease.rows(run).end;
            taken += usize::from(rest[taken].rows.is_empty());
        }
        drop(lease);
        rest.drain(..taken);
    }
    let mut bytes = vec![0; count];
    gpu.compute().download_now(aside.slice(), &mut bytes)?;
    Ok(bytes)
}

/// Gives the stream of copies milliseconds of work, so that what is copied from memory that is written again too early is seen:
/// as long as the caller holds what they write.
fn hold_up(tiers: &Tiers) -> DeviceBuffer<u8> {
    let gpu = tiers.card(0).unwrap().clone();
    let mut weight = DeviceBuffer::<u8>::new(&gpu, "what holds copies up", 256 << 20).unwrap();
    (0..20).for_each(|_| gpu.copies().fill(&mut weight.slice_mut(), 0).unwrap());
    weight
}

#[test]
fn what_passes_through_a_card_is_what_the_file_has() {
    if !card("what_passes_through_a_card_is_what_the_file_has") {
        return;
    }
    let one = |unit| vec![whole(unit)];
    let groups: Vec<Vec<RowSlice>> = vec![
        one(0),
        vec![whole(3), whole(4), whole(5)],
        one(1),
        vec![slice(0, 3..40)],
        one(2),
        vec![whole(6), whole(7)],
        vec![slice(0, 7..8)],
        one(0),
    ];
    let expected: Vec<u8> = groups.concat().iter().flat_map(truth).collect();
    for on_disk in [RAM, MIXED, DISK] {
        for (room, slots, from_disk) in [
            (1536, 1, 2),
            (1536, 1, 6),
            (1536, 2, 7),
            (1700, 3, 2),
            (2048, 3, 12),
            (1 << 20, 3, 2),
            (1 << 20, 3, 6),
            (1 << 20, 3, 50),
        ] {
            let mut tiers = streaming(on_disk, room, slots, from_disk);
            let said = tiers.fallbacks().iter().any(|said| said.contains("the ring from disk"));
            assert_eq!(said, on_disk != RAM && from_disk < 6, "{:?}", tiers.fallbacks());
            for turn in 0..5 {
                let _busy = (turn % 2 == 1).then(|| hold_up(&tiers));
                assert!(all(&mut tiers, &groups).unwrap() == expected, "{room} bytes, {slots} and {from_disk} slots");
            }
            let (counts, up) = (tiers.counts(), tiers.card_counts(0).up_bytes);
            assert_eq!(up, 5 * expected.len() as u64);
            assert_eq!(counts.ram_bytes + counts.disk_bytes, up);
        }
    }
}

#[test]
fn what_was_forgotten_leaves_no_trace() {
    if !card("what_was_forgotten_leaves_no_trace") {
        return;
    }
    let groups: Vec<_> = [0, 5, 0, 2, 0].map(|unit| vec![whole(unit)]).to_vec();
    let expected: Vec<u8> = groups.concat().iter().flat_map(truth).collect();
    for on_disk in [RAM, MIXED, DISK] {
        let mut tiers = streaming(on_disk, 1536, 2, 6);
        for leased in 0..4 {
            for unit in [0, 3, 0, 7] {
                tiers.expect_on(0, &[whole(unit)]).unwrap();
            }
            if leased > 0 {
                drop(tiers.lease_on(0, &[whole(0)]).unwrap());
            }
            if leased > 1 {
                let error = tiers.lease_on(0, &[whole(7)]).map(|_| ()).unwrap_err();
                assert!(matches!(error, TierError::NotExpected { .. }), "{error}");
            }
            tiers.forget_expected();
            assert!(all(&mut tiers, &groups).unwrap() == expected);
        }
    }
}

#[test]
fn what_has_no_way_to_a_card_is_refused() {
    if !card("what_has_no_way_to_a_card_is_refused") {
        return;
    }
    let mut tiers = streaming(RAM, 1024, 2, 2);
    let error = tiers.expect_on(0, &[whole(3), whole(4), whole(5)]).unwrap_err();
    assert!(matches!(error, TierError::SlotTooSmall { .. }), "{error}");
    let error = tiers.expect_on(1, &[whole(3)]).unwrap_err();
    assert!(matches!(error, TierError::NoDeviceRing { .. }), "{error}");
    assert!(tiers.streams_to(0) && !tiers.streams_to(1));
    assert!(tiers.fallbacks().is_empty(), "{:?}", tiers.fallbacks());
}
