//! Weights that a link brings to a GPU while the processor computes, through a ring: how long a token takes.
//!
//! Copies go on while the ring has room, whatever is computed, and across the end of a token. A block whose weights come waits for those that
//! are not there yet, and what it has used makes room.

use crate::{Machine, Plan};

/// What comes for one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Coming {
    pub(super) bytes: f64,
    /// Seconds that the GPU computes with them.
    pub(super) gpu_s: f64,
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

/// The seconds of a token: of each stage the seconds before it needs what comes for it, and that.
pub(super) fn seconds(stages: &[(f64, Coming)], ring: Ring) -> f64 {
    let mut there = 0.0;
    let mut seconds = 0.0;
    // The first token fills the ring; the second is like all that follow.
    for _ in 0..2 {
        seconds = 0.0;
        for (before, coming) in stages {
            there = f64::min(ring.bytes, there + before * ring.rate);
            let waits = ((coming.bytes - there) / ring.rate).max(coming.gpu_s);
            there = f64::clamp(there + waits * ring.rate - coming.bytes, 0.0, ring.bytes);
            seconds += before + if coming.bytes > 0.0 { waits } else { 0.0 };
        }
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_waits_for_what_the_ring_has_not_brought() {
        let coming = |bytes| Coming { bytes, gpu_s: 0.5 };
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
            let found = seconds(&stages, Ring { bytes: room, rate: 1.0 });
            assert!((found - expected).abs() < 1e-9, "{stages:?}: {found}, expected {expected}");
        }
    }
}
