//! A drive that fails, and one that serves again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::memory::{ByteSource, FaultySource};
use tiers::{TierError, Tiers};

use crate::model::{DISK, MIXED, Memory, lease, open, plan, read, truth, whole};

/// A source that fails every read while it is told to.
pub(crate) struct Switched(pub(crate) Memory, pub(crate) Arc<AtomicBool>);

impl ByteSource for Switched {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        // No device error: that would be tried again after a pause.
        if self.1.load(Ordering::Relaxed) {
            Err(io::ErrorKind::NotConnected.into())
        } else {
            self.0.read_at(offset, buf)
        }
    }
}

fn pass(tiers: &mut Tiers) -> Result<(), TierError> {
    let order: Vec<_> = (0..8).map(whole).collect();
    order.iter().try_for_each(|slice| tiers.expect(slice))?;
    for slice in &order {
        assert_eq!(lease(tiers, slice)?, truth(slice));
    }
    Ok(())
}

#[test]
fn a_storm_of_short_and_interrupted_reads_changes_no_byte() {
    for seed in 0..50 {
        let mut tiers = open(&plan(MIXED, 96, 2), |file| FaultySource::seeded(file, seed)).unwrap();
        pass(&mut tiers).unwrap();
        pass(&mut tiers).unwrap();
    }
}

#[test]
fn a_failed_drive_fails_the_pass_once_and_serves_the_next() {
    for on_disk in [DISK, MIXED] {
        let broken = Arc::new(AtomicBool::new(false));
        let mut tiers = open(&plan(on_disk, 64, 2), |file| Switched(file, Arc::clone(&broken))).unwrap();
        for _ in 0..5 {
            pass(&mut tiers).unwrap();
            broken.store(true, Ordering::Relaxed);
            let error = pass(&mut tiers).unwrap_err();
            assert!(matches!(&error, TierError::Read { path, .. } if path == "model-1.gguf"), "{error}");

            // Whether the drive is well again or not, nothing is read on as if nothing had been.
            broken.store(false, Ordering::Relaxed);
            let piece = tiers.pieces(&whole(0)).next().unwrap();
            assert!(matches!(tiers.lease(&piece), Err(TierError::NotForgotten { .. })));
            assert!(matches!(tiers.expect(&whole(0)), Err(TierError::NotForgotten { .. })));
            tiers.forget_expected();
            assert!(matches!(tiers.lease(&piece), Err(TierError::NotExpected { next: None, .. })));
        }
    }
}

#[test]
fn what_was_read_before_the_failure_is_still_good() {
    let (first, rest) = (whole(1), whole(7));
    let mut tiers = open(&plan(DISK, 64, 4), |file| {
        // Only the end of the second file is gone.
        let end = if file.len() > 2000 { 2324 } else { file.len() };
        FaultySource::truncated(file, end)
    })
    .unwrap();
    for _ in 0..3 {
        tiers.expect(&first).unwrap();
        tiers.expect(&rest).unwrap();
        tiers.expect(&first).unwrap();
        assert_eq!(lease(&mut tiers, &first).unwrap(), truth(&first));
        let error = lease(&mut tiers, &rest).unwrap_err().to_string();
        assert!(error.contains("model-2.gguf") && error.contains("ended"), "{error}");
        assert!(matches!(lease(&mut tiers, &first), Err(TierError::NotForgotten { .. })));
        tiers.forget_expected();
    }
}

#[test]
fn a_failure_that_nobody_saw_is_forgotten_too() {
    let broken = Arc::new(AtomicBool::new(true));
    let mut tiers = open(&plan(DISK, 64, 2), |file| Switched(file, Arc::clone(&broken))).unwrap();
    for _ in 0..100 {
        broken.store(true, Ordering::Relaxed);
        tiers.expect(&whole(0)).unwrap();
        tiers.forget_expected();
        // The reader may still be at a piece of what is forgotten: its failure is nobody's.
        broken.store(false, Ordering::Relaxed);
        tiers.expect(&whole(3)).unwrap();
        assert_eq!(lease(&mut tiers, &whole(3)).unwrap(), truth(&whole(3)));
    }
}

/// A source that is a defect itself.
struct Panics(Memory);

impl ByteSource for Panics {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
        panic!("a defect of the source")
    }
}

#[test]
fn a_reader_that_is_gone_is_an_error() {
    let mut tiers = open(&plan(DISK, 64, 2), Panics).unwrap();
    assert!(matches!(read(&mut tiers, &whole(0)), Err(TierError::ReaderGone)));
    tiers.forget_expected();
    assert!(matches!(read(&mut tiers, &whole(0)), Err(TierError::ReaderGone)));
}
