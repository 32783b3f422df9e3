//! How long a drive had something to read, as far as those can know who look at it now and then.
//!
//! Nobody says when a read landed, only that it has. Where some are still under way when somebody looks, or somebody waited for what
//! came, the drive worked all the time since the last look. Where all have landed unseen it worked for a part of that time, and rested for
//! the other: that part is reckoned, as what their bytes take at the rate of the times that are known.

use std::time::{Duration, Instant};

/// One drive's reads.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Time in which the drive is known to have worked, and what landed in it.
    known: Duration,
    known_bytes: usize,
    /// Time that it must have worked besides.
    reckoned: Duration,
    /// Bytes under way, and since when they are, or somebody saw that they are.
    under_way: usize,
    since: Option<Instant>,
}

impl Watch {
    /// A read of so many bytes begins.
    pub(super) fn begins(&mut self, bytes: usize, now: Instant) {
        self.under_way += bytes;
        self.since.get_or_insert(now);
    }

    /// Somebody looks, and reads of so many bytes have landed or failed, the first of which was waited for or not.
    pub(super) fn landed(&mut self, bytes: usize, waited: bool, now: Instant) {
        let Some(since) = self.since.filter(|_| bytes > 0) else { return };
        let elapsed = now.duration_since(since);
        self.under_way = self.under_way.saturating_sub(bytes);
        if waited || self.under_way > 0 {
            self.known += elapsed;
            self.known_bytes += bytes;
        } else {
            self.reckoned += self.takes(bytes).min(elapsed);
        }
        self.since = (self.under_way > 0).then_some(now);
    }

    /// How long the drive had something to read.
    pub(super) fn busy(&self, now: Instant) -> Duration {
        let running = self.since.map_or(Duration::ZERO, |since| now.duration_since(since));
        self.known + self.reckoned + self.takes(self.under_way).min(running)
    }

    /// What so many bytes take at the known rate; for ever where none is known.
    fn takes(&self, bytes: usize) -> Duration {
        if self.known_bytes == 0 { Duration::MAX } else { self.known.mul_f64(bytes as f64 / self.known_bytes as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_nobody_looks_at_is_not_taken_to_work_all_the_time() {
        let start = Instant::now();
        let (ms, at) = (Duration::from_millis, |after| start + Duration::from_millis(after));
        let mut watch = Watch::default();
        assert_eq!(watch.busy(at(5)), ms(0), "nothing was asked for");
        watch.begins(60, at(10));
        watch.begins(60, at(10));
        assert_eq!(watch.busy(at(12)), ms(2));
        // One of two landed: it worked all the time.
        watch.landed(60, false, at(16));
        assert_eq!(watch.busy(at(16)), ms(6));
        // The other was waited for: so it did here.
        watch.landed(60, true, at(22));
        assert_eq!((watch.busy(at(22)), watch.busy(at(90))), (ms(12), ms(12)), "nothing was under way");
        // 100 bytes, 10 ms at the rate so far, were not looked for until 40 ms later.
        watch.begins(100, at(100));
        assert_eq!((watch.busy(at(104)), watch.busy(at(140))), (ms(16), ms(22)));
        watch.landed(100, false, at(140));
        assert_eq!(watch.busy(at(150)), ms(22));
        // Sooner than that rate says.
        watch.begins(100, at(200));
        watch.landed(100, false, at(203));
        assert_eq!(watch.busy(at(210)), ms(25));
        // Looks that find nothing change nothing.
        watch.begins(10, at(300));
        watch.landed(0, false, at(310));
        watch.landed(10, true, at(320));
        assert_eq!(watch.busy(at(400)), ms(45));
    }
}
