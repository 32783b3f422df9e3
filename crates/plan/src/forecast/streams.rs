//! Weights that a link brings to a GPU through a ring, while something else is computed: how long a pass takes.
//!
//! Copies go on while the ring has room, whatever is computed, in decode across the end of a token too. A block whose weights come waits for those that
//! are not there yet, and what it has used makes room.

use crate::{Machine, Plan};

/// What comes for one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Coming {
    pub(super) bytes: f64,
    /// Seconds that the GPU computes with them.
    pub(super) gpu_s: f64,
    /// Seconds that the processor computes beside both.
    pub(super) beside_s: f64,
}

/// The room of a ring and the rate of the link that fills it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    bytes: f64,
    rate: f64,
}

impl Ring {
    /// That of the first GPU of a plan that has one.
    pub(super) fn of(plan: &Plan, machine: &Machine) -> Self {
        let first = plan.device_staging.first();
        let rate = first.and_then(|(gpu, _)| machine.gpus.get(*gpu as usize)).map_or(0.0, |gpu| gpu.link.rate.0);
        Self { bytes: first.map_or(0.0, |(_, ring)| ring.bytes().as_f64()), rate: rate.max(1.0) }
    }
}

impl Ring {
    /// Bytes that come in so many seconds.
    pub(super) fn bytes_in(self, seconds: f64) -> f64 {
        seconds * self.rate
    }

    /// Seconds until so many bytes have come.
    pub(super) fn seconds(self, bytes: f64) -> f64 {
        bytes / self.rate
    }

    /// The seconds of a pass whose ring is empty, as a prompt's is: of each stage the seconds before it needs what comes for it, and that.
    pub(super) fn first(self, stages: &[(f64, Coming)]) -> f64 {
        self.pass(stages, &mut 0.0)
    }

    /// The seconds of a token like all that follow the first one, which fills the ring.
    pub(super) fn steady(self, stages: &[(f64, Coming)]) -> f64 {
        let mut there = 0.0;
        self.pass(stages, &mut there);
        self.pass(stages, &mut there)
    }

    /// The seconds of a pass that finds so many bytes in the ring, and leaves others there.
    fn pass(self, stages: &[(f64, Coming)], there: &mut f64) -> f64 {
        let mut seconds = 0.0;
        for (before, coming) in stages {
            *there = f64::min(self.bytes, *there + before * self.rate);
            let waits = ((coming.bytes - *there) / self.rate).max(coming.gpu_s).max(coming.beside_s);
            *there = f64::clamp(*there + waits * self.rate - coming.bytes, 0.0, self.bytes);
            seconds += before + waits;
        }
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_waits_for_what_the_ring_has_not_brought() {
        let coming = |bytes| Coming { bytes, gpu_s: 0.5, beside_s: 0.0 };
        let none = Coming::default();
        for (stages, room, expected) in [
            (vec![(3.0, none), (2.0, none)], 4.0, 5.0),
            // All is there when it is wanted: the GPU's time alone.
            (vec![(3.0, coming(2.0))], 4.0, 3.5),
            // Two of six are on their way in 2 s; the next two come in the half second behind, and so on: the link is the clock.
            (vec![(2.0, coming(6.0))], 4.0, 6.0),
            // The ring is full after 4 s of 9, so 6 of 10 are waited for.
            (vec![(9.0, coming(10.0))], 4.0, 15.0),
            // What one stage leaves serves the next.
            (vec![(4.0, coming(1.0)), (0.0, coming(3.0))], 4.0, 5.0),
        ] {
            let found = Ring { bytes: room, rate: 1.0 }.steady(&stages);
            assert!((found - expected).abs() < 1e-9, "{stages:?}: {found}, expected {expected}");
        }
    }

    #[test]
    fn a_prompt_begins_with_an_empty_ring_and_longer_ones_bridge_longer_stages() {
        let coming = |bytes| Coming { bytes, gpu_s: 1.0, beside_s: 0.0 };
        let beside = |bytes, beside_s| Coming { bytes, gpu_s: 1.0, beside_s };
        for (stages, room, expected) in [
            (vec![(0.0, coming(2.0)), (0.0, coming(2.0))], 4.0, 4.0),
            // While 5 s of something else are computed 2 of the next 4 can come, or all of them.
            (vec![(0.0, coming(4.0)), (5.0, coming(4.0))], 2.0, 4.0 + 5.0 + 2.0),
            (vec![(0.0, coming(4.0)), (5.0, coming(4.0))], 8.0, 4.0 + 5.0 + 1.0),
            // The processor is slower than the link for the first stage, while the ring brings half of the second's.
            (vec![(0.0, beside(4.0, 6.0)), (0.0, beside(4.0, 1.0))], 2.0, 6.0 + 2.0),
            (vec![(1.0, beside(0.0, 6.0))], 2.0, 7.0),
        ] {
            let found = Ring { bytes: room, rate: 1.0 }.first(&stages);
            assert!((found - expected).abs() < 1e-9, "{stages:?}: {found}, expected {expected}");
        }
    }
}
