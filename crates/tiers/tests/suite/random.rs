//! Random uses of the tiers, step by step beside a plain queue of pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::memory::FaultySource;
use tiers::{Piece, RowSlice, TierError, Tiers};

use crate::failures::Switched;
use crate::model::{ROWS, open, plan, slice, truth};

/// Numbers that are random enough, and the same at each run (xorshift64*, <https://doi.org/10.18637/jss.v008.i14>).
struct Random(u64);

impl Random {
    /// Less than `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn slice(&mut self) -> RowSlice {
        let unit = self.below(8);
        let start = self.below(ROWS[unit as usize] + 1);
        let rows = self.below(ROWS[unit as usize] - start + 1);
        slice(unit as u32, start..start + rows)
    }
}

/// What should happen, and what does.
struct Beside {
    tiers: Tiers,
    /// Disk pieces expected and not leased.
    queue: VecDeque<Piece>,
    /// Whether a failed lease was not forgotten.
    failed: bool,
    /// Whether the drive was broken at some time since all was forgotten.
    doubtful: bool,
    broken: Arc<AtomicBool>,
}

impl Beside {
    fn expect(&mut self, slice: &RowSlice) {
        let resident = self.tiers.is_resident(slice.unit);
        match self.tiers.expect(slice) {
            Ok(()) if resident => {}
            Ok(()) => {
                assert!(!self.failed);
                self.queue.extend(self.tiers.pieces(slice));
            }
            Err(error) => assert!(self.failed && !resident && matches!(error, TierError::NotForgotten { .. })),
        }
    }

    fn lease(&mut self, piece: &Piece) {
        let truth = truth(&RowSlice { unit: piece.unit, rows: piece.rows.clone() });
        let resident = self.tiers.is_resident(piece.unit);
        let right = self.queue.front() == Some(piece);
        match self.tiers.lease(piece) {
            Ok(lease) => {
                assert_eq!(*lease, truth[..]);
                assert!(resident || (right && !self.failed));
                if !resident {
                    self.queue.pop_front();
                }
            }
            Err(TierError::NotForgotten { .. }) => assert!(self.failed && !resident),
            Err(TierError::NotExpected { next, .. }) => {
                assert!(!right && !self.failed && !resident);
                assert_eq!(next.map(|n| (n.unit, n.rows)), self.queue.front().map(|p| (p.unit, p.rows.clone())));
            }
            Err(TierError::Read { .. }) => {
                assert!(right && self.doubtful && !self.failed);
                self.failed = true;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn forget(&mut self) {
        self.tiers.forget_expected();
        self.queue.clear();
        (self.failed, self.doubtful) = (false, self.broken.load(Ordering::Relaxed));
    }

    fn step(&mut self, random: &mut Random) {
        match random.below(46) {
            0..14 => self.expect(&random.slice()),
            14..34 => {
                if let Some(piece) = self.queue.front().cloned() {
                    self.lease(&piece);
                }
            }
            34..36 => {
                if let Some(piece) = self.tiers.pieces(&random.slice()).next() {
                    self.lease(&piece);
                }
            }
            36..38 => self.forget(),
            38 => {
                self.broken.store(true, Ordering::Relaxed);
                self.doubtful = true;
            }
            39 => self.broken.store(false, Ordering::Relaxed),
            40..45 => self.tiers.guess(&random.slice()).unwrap(),
            _ => self.tiers.give_up_guesses(),
        }
    }
}

#[test]
fn any_sequence_of_uses_gives_the_bytes_of_the_files_or_a_fitting_error() {
    for seed in 1..=150 {
        let mut random = Random(seed);
        // The first numbers of small seeds are alike.
        (0..8).for_each(|_| _ = random.below(2));
        let on_disk = [(); 8].map(|()| random.below(3) > 0);
        let slot = [32, 64, 100, 1 << 16][random.below(4) as usize];
        let plan = plan(on_disk, slot, 1 + random.below(4) as u32);
        let broken = Arc::new(AtomicBool::new(false));
        let source = |file| FaultySource::seeded(Switched(file, Arc::clone(&broken)), seed);
        let tiers = open(&plan, source).unwrap();
        let (queue, broken) = (VecDeque::new(), Arc::clone(&broken));
        let mut beside = Beside { tiers, queue, failed: false, doubtful: false, broken };
        (0..200).for_each(|_| beside.step(&mut random));

        // Whatever happened, all is well after it was forgotten.
        beside.broken.store(false, Ordering::Relaxed);
        beside.forget();
        beside.expect(&random.slice());
        while let Some(piece) = beside.queue.front().cloned() {
            beside.lease(&piece);
        }
    }
}
