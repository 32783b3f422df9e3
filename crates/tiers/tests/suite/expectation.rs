//! What is expected is read ahead and leased in that order, and nothing else is.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kernels::memory::ByteSource;
use plan::{Bytes, Reads};
use tiers::TierError;

use crate::model::{DISK, MIXED, Memory, ROW_BYTES, lease, open, plan, read, slice, truth, whole};

/// Longer than any read takes: waiting this long is a failure.
const LONG: Duration = Duration::from_secs(30);

/// A source that says after each read where it was.
struct Watched(Memory, Sender<u64>);

impl ByteSource for Watched {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(offset, buf);
        let _ = self.1.send(offset);
        read
    }
}

/// Rows of unit 0 whose reads were seen, which are made at once.
fn rows_read(reads: &Receiver<u64>, count: usize) -> Vec<u64> {
    let row = |_| (reads.recv_timeout(LONG).expect("a read ahead") - 100) / ROW_BYTES;
    let mut rows: Vec<u64> = (0..count).map(row).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn resident_and_disk_slices_come_in_the_order_they_are_expected_in() {
    for slots in [1, 2, 5] {
        let mut tiers = open(&plan(MIXED, 64, slots), |file| file).unwrap();
        let order = [whole(5), whole(4), slice(0, 30..33), whole(1), whole(7), whole(5), slice(0, 0..31), whole(4)];
        for _ in 0..3 {
            for slice in &order {
                tiers.expect(slice).unwrap();
            }
            for slice in &order {
                assert_eq!(lease(&mut tiers, slice).unwrap(), truth(slice), "{slots} slots, {slice}");
            }
        }
    }
}

/// A source whose first file waits with each read until the second was read.
struct Waiting(Memory, Arc<(Mutex<bool>, Condvar)>);

impl ByteSource for Waiting {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn drive(&self) -> u64 {
        self.0.drive()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (read, told) = &*self.1;
        let mut read = read.lock().unwrap();
        if self.drive() == 1 {
            *read = true;
            told.notify_all();
        } else {
            read = told.wait_timeout_while(read, LONG, |read| !*read).unwrap().0;
            assert!(*read, "the second drive is read beside the first");
        }
        self.0.read_at(offset, buf)
    }
}

#[test]
fn drives_are_read_side_by_side_whatever_waits_for_one_of_them() {
    for slots in [2, 3, 8] {
        let both = Arc::new((Mutex::new(false), Condvar::new()));
        let mut tiers = open(&plan(DISK, 64, slots), |file| Waiting(file, Arc::clone(&both))).unwrap();
        // A piece of the first file leaves a slot at least.
        let order = [slice(0, 0..2), whole(7), whole(1), whole(2), whole(0), whole(3), whole(1), whole(6)];
        for slice in &order {
            tiers.expect(slice).unwrap();
        }
        for slice in &order {
            assert_eq!(lease(&mut tiers, slice).unwrap(), truth(slice), "{slots} slots, {slice}");
        }
        let drives = tiers.drives();
        assert!(
            drives.len() == 2 && drives.iter().all(|drive| drive.bytes > 0 && drive.files.len() == 1),
            "{drives:?}"
        );
    }
}

#[test]
fn resident_rows_need_not_be_expected() {
    let mut tiers = open(&plan(MIXED, 64, 2), |file| file).unwrap();
    tiers.expect(&whole(0)).unwrap();
    assert_eq!(lease(&mut tiers, &whole(4)).unwrap(), truth(&whole(4)));
    assert_eq!(lease(&mut tiers, &whole(0)).unwrap(), truth(&whole(0)));
}

#[test]
fn the_reader_reads_ahead_as_far_as_there_are_slots() {
    let (sender, reads) = channel();
    let mut tiers = open(&plan(DISK, ROW_BYTES, 3), |file| Watched(file, sender.clone())).unwrap();
    tiers.expect(&slice(0, 5..9)).unwrap();
    tiers.expect(&slice(0, 20..21)).unwrap();
    assert_eq!(rows_read(&reads, 3), [5, 6, 7]);
    // All slots are full. This wait can miss a defect, never make one up.
    assert!(reads.recv_timeout(Duration::from_millis(20)).is_err());
    let pieces: Vec<_> = tiers.pieces(&slice(0, 5..9)).collect();
    let held = tiers.lease(&pieces[0]).unwrap();
    assert!(reads.recv_timeout(Duration::from_millis(20)).is_err(), "a leased slot is not free");
    drop(held);
    assert_eq!(rows_read(&reads, 1), [8]);
    for piece in &pieces[1..] {
        tiers.lease(piece).unwrap();
    }
    assert_eq!(rows_read(&reads, 1), [20]);
}

#[test]
fn what_is_not_expected_next_is_refused_and_changes_nothing() {
    let mut tiers = open(&plan(MIXED, 64, 2), |file| file).unwrap();
    let piece = |tiers: &tiers::Tiers, s| tiers.pieces(&s).next().unwrap();
    let next = piece(&tiers, slice(3, 2..6));
    let error = tiers.lease(&next).map(|_| ()).unwrap_err();
    assert!(matches!(&error, TierError::NotExpected { next: None, .. }), "{error}");

    tiers.expect(&slice(3, 2..6)).unwrap();
    tiers.expect(&whole(0)).unwrap();
    // Another unit, other rows, a later piece, another cut, what comes after.
    let wrong = [slice(5, 2..4), slice(3, 0..2), slice(3, 4..6), slice(3, 2..3), slice(0, 0..2)];
    for wrong in wrong {
        let wrong = piece(&tiers, wrong);
        let error = tiers.lease(&wrong).map(|_| ()).unwrap_err();
        assert!(matches!(&error, TierError::NotExpected { next: Some(n), .. } if *n == slice(3, 2..4)), "{error}");
    }
    assert_eq!(lease(&mut tiers, &slice(3, 2..6)).unwrap(), truth(&slice(3, 2..6)));
    assert_eq!(lease(&mut tiers, &whole(0)).unwrap(), truth(&whole(0)));
    assert!(matches!(tiers.lease(&next), Err(TierError::NotExpected { next: None, .. })), "it is used up");
}

#[test]
fn errors_say_what_was_asked_and_what_comes() {
    let mut tiers = open(&plan(DISK, 64, 2), |file| file).unwrap();
    let piece = tiers.pieces(&whole(7)).next().unwrap();
    let said = tiers.lease(&piece).map(|_| ()).unwrap_err().to_string();
    assert_eq!(said, "rows 0..2 of unit 7 were asked for from disk, and nothing is expected");
    tiers.expect(&slice(0, 9..40)).unwrap();
    let said = tiers.lease(&piece).map(|_| ()).unwrap_err().to_string();
    assert_eq!(said, "rows 0..2 of unit 7 were asked for from disk, and rows 9..11 of unit 0 come next");
}

#[test]
fn what_cannot_come_is_refused_when_it_is_expected() {
    let mut tiers = open(&plan(MIXED, 64, 2), |file| file).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "the bad input")]
    let unknown = [slice(8, 0..1), slice(0, 39..41), slice(4, 0..17), slice(0, 2..1)];
    for unknown in unknown {
        let error = tiers.expect(&unknown).unwrap_err();
        assert!(matches!(&error, TierError::NoSuchRows { slice } if *slice == unknown), "{error}");
    }
    let mut tiers = open(&plan(MIXED, 64, 0), |file| file).unwrap();
    tiers.expect(&whole(4)).unwrap();
    assert!(matches!(tiers.expect(&whole(0)), Err(TierError::NoRing { .. })));
    let piece = tiers.pieces(&whole(0)).next().unwrap();
    assert!(matches!(tiers.lease(&piece), Err(TierError::NoRing { .. })));
    let mut piece = tiers.pieces(&whole(4)).next().unwrap();
    piece.rows = 0..17;
    assert!(matches!(tiers.lease(&piece), Err(TierError::NoSuchRows { .. })));
}

#[test]
fn after_forgetting_another_order_gives_its_own_bytes() {
    for slots in [1, 2, 7] {
        for leased in [0, 1, 2, 3, 19, 20] {
            let mut tiers = open(&plan(DISK, 64, slots), |file| file).unwrap();
            tiers.forget_expected();
            tiers.expect(&whole(0)).unwrap();
            let pieces: Vec<_> = tiers.pieces(&whole(0)).take(leased).collect();
            for piece in &pieces {
                tiers.lease(piece).unwrap();
            }
            tiers.forget_expected();
            tiers.forget_expected();
            let next = tiers.pieces(&whole(0)).nth(leased).unwrap_or_else(|| pieces[0].clone());
            assert!(matches!(tiers.lease(&next), Err(TierError::NotExpected { next: None, .. })));
            for unit in [3, 3, 0, 4, 2, 1, 0, 0, 7] {
                assert_eq!(read(&mut tiers, &whole(unit)).unwrap(), truth(&whole(unit)), "unit {unit}");
            }
        }
    }
}

#[test]
fn slots_come_back_from_what_is_forgotten() {
    let (sender, reads) = channel();
    let mut tiers = open(&plan(DISK, ROW_BYTES, 2), |file| Watched(file, sender.clone())).unwrap();
    for turn in 0..100 {
        tiers.expect(&slice(0, 0..20)).unwrap();
        // Forgotten at any point: before the reader hears of it, while it reads, and after a lease.
        if turn % 3 > 0 {
            rows_read(&reads, 1);
        }
        if turn % 3 > 1 {
            lease(&mut tiers, &slice(0, 0..1)).unwrap();
        }
        tiers.forget_expected();
    }
    // A slot that was being filled meanwhile is back with the lease after it has landed at the latest.
    let forgotten = std::iter::repeat_with(|| reads.recv_timeout(Duration::from_millis(50))).take_while(Result::is_ok);
    assert!(forgotten.count() > 0);
    tiers.expect(&slice(0, 30..34)).unwrap();
    lease(&mut tiers, &slice(0, 30..31)).unwrap();
    let ahead = std::iter::repeat_with(|| rows_read(&reads, 1)[0]).filter(|row| *row > 30);
    let mut ahead: Vec<u64> = ahead.take(2).collect();
    ahead.sort_unstable();
    assert_eq!(ahead, [31, 32]);
}

#[test]
fn tiers_close_while_their_reader_is_ahead() {
    for turn in 0..300 {
        let (sender, reads) = channel();
        let mut tiers = open(&plan(DISK, 32, 2), |file| Watched(file, sender.clone())).unwrap();
        tiers.expect(&whole(0)).unwrap();
        match turn % 3 {
            0 => {
                let piece = tiers.pieces(&whole(0)).next().unwrap();
                drop(tiers.lease(&piece).unwrap());
            }
            1 => tiers.forget_expected(),
            _ => drop(rows_read(&reads, 2)),
        }
    }
}

#[test]
fn reads_go_on_where_somebody_looks_who_leases_nothing() {
    let (seen, reads) = channel();
    let mut plan = plan(DISK, 64, 4);
    plan.disk_reads = Reads { at_once: 1, bytes: Bytes(4096) };
    let mut tiers = open(&plan, |file| Watched(file, seen.clone())).unwrap();
    tiers.expect(&whole(0)).unwrap();
    // A thread has one read more before it.
    rows_read(&reads, 2);
    assert!(reads.recv_timeout(Duration::from_millis(50)).is_err(), "nobody looks");
    let started = Instant::now();
    for read in 3..=4 {
        while reads.recv_timeout(Duration::from_millis(1)).is_err() {
            assert_eq!(tiers.read_on(), 2 * 4096, "twice what is under way");
            assert!(started.elapsed() < LONG, "read {read} of four slots");
        }
    }
    assert_eq!(lease(&mut tiers, &whole(0)).unwrap(), truth(&whole(0)));
    assert_eq!(tiers.read_on(), u64::MAX, "nothing is to come");
}

#[test]
fn resident_rows_come_in_runs_that_fit() {
    let tiers = open(&plan(MIXED, 64, 2), |file| file).unwrap();
    let (unit, rows, all) = (4, 16, truth(&whole(4)));
    for room in [0, 1, ROW_BYTES, 3 * ROW_BYTES + 5, 10 * ROW_BYTES, u64::MAX] {
        let (mut rest, mut found) = (whole(unit), Vec::new());
        while !rest.rows.is_empty() {
            let (bytes, count) = tiers.resident_run(&rest, room).unwrap();
            let (fit, left) = ((room / ROW_BYTES).max(1), rest.rows.end - rest.rows.start);
            assert!(count == left || count == fit, "{count} of {left} rows in {room} bytes");
            assert!(count <= fit.saturating_add(fit / 2), "{count} of {left} rows in {room} bytes");
            found.extend_from_slice(bytes);
            rest.rows.start += count;
        }
        assert!(found == all, "{room}");
    }
    assert!(tiers.resident_run(&slice(unit, 0..rows + 1), 100).is_none(), "rows that it has not");
    assert!(tiers.resident_run(&whole(0), 100).is_none(), "on disk");
}
