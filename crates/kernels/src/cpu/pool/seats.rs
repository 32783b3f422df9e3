//! Where workers sleep, and who wakes them.
//!
//! Owns a seat for each worker. Must never know what they wait for.
//!
//! # Why nobody sleeps through news
//! A worker adds itself to `sleepers`, marks its seat, and only then looks once more for news. A waker makes its news
//! and only then reads `sleepers` and the marks. All of it is `SeqCst`, so there is one order of all: if the waker's
//! reads come before the worker's writes, the worker's last look comes after the news. Whoever takes the mark away
//! decides: the worker goes on by itself, or a call of `unpark` is on its way, which may come early. One that comes
//! late, when the worker has gone on, makes a later `park` return at once, to a mark that is still there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};

use super::Line;

pub(super) struct Seats {
    /// Workers whose seats are marked, or are about to be.
    sleepers: AtomicUsize,
    seats: Vec<Line<Seat>>,
}

#[derive(Default)]
struct Seat {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Seats {
    pub(super) fn new(seats: usize) -> Self {
        Self { sleepers: AtomicUsize::new(0), seats: (0..seats).map(|_| Line::default()).collect() }
    }

    /// Makes this thread the one that sleeps in this seat.
    pub(super) fn take(&self, seat: usize) {
        self.seats[seat].0.thread.get_or_init(thread::current);
    }

    /// Sleeps until woken, unless there is news.
    pub(super) fn sleep(&self, seat: usize, news: impl Fn() -> bool) {
        let Seat { asleep, .. } = &self.seats[seat].0;
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        asleep.store(true, Ordering::SeqCst);
        if news() && self.rouse(seat) {
            return;
        }
        while asleep.load(Ordering::SeqCst) {
            thread::park();
        }
    }

    /// Wakes some of those who sleep.
    pub(super) fn wake(&self, most: usize) {
        if self.sleepers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut woken = 0;
        for (number, Line(seat)) in self.seats.iter().enumerate() {
            if woken == most {
                return;
            }
            if self.rouse(number) {
                woken += 1;
                // A worker takes its seat before it sleeps in it.
                seat.thread.get().inspect(|thread| thread.unpark());
            }
        }
    }

    /// How many sleep, or are about to.
    #[cfg(test)]
    pub(super) fn sleepers(&self) -> usize {
        self.sleepers.load(Ordering::SeqCst)
    }

    /// Takes the mark from a seat; says whether there was one.
    fn rouse(&self, seat: usize) -> bool {
        let Seat { asleep, .. } = &self.seats[seat].0;
        let was = asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst);
        if was {
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        was
    }
}
