//! Weights that a link brings to a GPU through a ring, while something else is computed: how long a pass takes.
//!
//! GPUs work in turn; their links fill their rings all the same. Copies go on while the ring has room, whatever is computed, in decode across the end of a token too. A block whose weights come waits for those that
//! are not there yet, and what it has used makes room.

use crate::{Machine, Plan, Staging};

/// What comes for one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Coming {
    pub(super) bytes: f64,
    /// Seconds that the GPU computes with them.
    pub(super) gpu_s: f64,
    /// Seconds that the processor computes beside both.
    pub(super) beside_s: f64,
    /// The ring through which they come, by its place among those of the plan.
    pub(super) ring: usize,
}

/// The room of a ring and the rate of the link that fills it.
#[derive(Clone, Copy, Debug)]
struct Ring {
    gpu: u32,
    bytes: f64,
    slot: f64,
    rate: f64,
}

/// The rings of a plan's GPUs. Each link fills its own, whichever GPU computes.
#[derive(Clone, Debug)]
pub(super) struct Rings(Vec<Ring>);

impl Rings {
    /// Those of a plan.
    pub(super) fn of(plan: &Plan, machine: &Machine) -> Self {
        let ring = |(gpu, ring): &(u32, Staging)| {
            let rate = machine.gpus.get(*gpu as usize).map_or(0.0, |gpu| gpu.link.rate.0);
            Ring { gpu: *gpu, bytes: ring.bytes().as_f64(), slot: ring.slot.as_f64().max(1.0), rate: rate.max(1.0) }
        };
        Self(plan.device_staging.iter().map(ring).collect())
    }

    /// The ring of a GPU: its place, or the first.
    pub(super) fn place(&self, gpu: u32) -> usize {
        self.0.iter().position(|ring| ring.gpu == gpu).unwrap_or(0)
    }

    /// The GPU of a ring, and how many of its slots so many bytes take.
    pub(super) fn slots(&self, ring: usize, bytes: f64) -> Option<(u32, f64)> {
        self.0.get(ring).map(|ring| (ring.gpu, (bytes / ring.slot).ceil()))
    }

    /// What comes in so many seconds of a drive.
    pub(super) fn bytes_in(&self, ring: usize, seconds: f64) -> f64 {
        self.0.get(ring).map_or(0.0, |ring| seconds * ring.rate)
    }

    /// Seconds that links take for all that comes.
    pub(super) fn seconds(&self, coming: impl Iterator<Item = Coming>) -> f64 {
        coming.map(|coming| self.0.get(coming.ring).map_or(0.0, |ring| coming.bytes / ring.rate)).sum()
    }

    /// The seconds of a pass whose rings are empty, as a prompt's are: of each stage the seconds before it needs what comes for it, and that.
    pub(super) fn first(&self, stages: &[(f64, Coming)]) -> f64 {
        self.pass(stages, &mut vec![0.0; self.0.len()])
    }

    /// The seconds of a token like all that follow the first one, which fills the rings.
    pub(super) fn steady(&self, stages: &[(f64, Coming)]) -> f64 {
        let mut there = vec![0.0; self.0.len()];
        self.pass(stages, &mut there);
        self.pass(stages, &mut there)
    }

    /// The seconds of a pass that finds so many bytes in each ring, and leaves others there.
    fn pass(&self, stages: &[(f64, Coming)], there: &mut [f64]) -> f64 {
        let fill = |there: &mut [f64], seconds: f64, but: usize| {
            let others = there.iter_mut().zip(&self.0).enumerate().filter(|(place, _)| *place != but);
            for (_, (there, ring)) in others {
                *there = f64::min(ring.bytes, *there + seconds * ring.rate);
            }
        };
        let mut seconds = 0.0;
        for (before, coming) in stages {
            fill(there, *before, usize::MAX);
            seconds += before;
            let Some(ring) = self.0.get(coming.ring).filter(|_| coming.bytes > 0.0) else {
                fill(there, coming.beside_s, usize::MAX);
                seconds += coming.beside_s;
                continue;
            };
            let mine = &mut there[coming.ring];
            let waits = ((coming.bytes - *mine) / ring.rate).max(coming.gpu_s).max(coming.beside_s);
            *mine = f64::clamp(*mine + waits * ring.rate - coming.bytes, 0.0, ring.bytes);
            fill(there, waits, coming.ring);
            seconds += waits;
        }
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_waits_for_what_the_ring_has_not_brought() {
        let coming = |bytes| Coming { bytes, gpu_s: 0.5, ..Coming::default() };
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
            let found = Rings(vec![Ring { gpu: 0, bytes: room, slot: 1.0, rate: 1.0 }]).steady(&stages);
            assert!((found - expected).abs() < 1e-9, "{stages:?}: {found}, expected {expected}");
        }
    }

    #[test]
    fn a_prompt_begins_with_an_empty_ring_and_longer_ones_bridge_longer_stages() {
        let coming = |bytes| Coming { bytes, gpu_s: 1.0, ..Coming::default() };
        let beside = |bytes, beside_s| Coming { beside_s, ..coming(bytes) };
        for (stages, room, expected) in [
            (vec![(0.0, coming(2.0)), (0.0, coming(2.0))], 4.0, 4.0),
            // While 5 s of something else are computed 2 of the next 4 can come, or all of them.
            (vec![(0.0, coming(4.0)), (5.0, coming(4.0))], 2.0, 4.0 + 5.0 + 2.0),
            (vec![(0.0, coming(4.0)), (5.0, coming(4.0))], 8.0, 4.0 + 5.0 + 1.0),
            // The processor is slower than the link for the first stage, while the ring brings half of the second's.
            (vec![(0.0, beside(4.0, 6.0)), (0.0, beside(4.0, 1.0))], 2.0, 6.0 + 2.0),
            (vec![(1.0, beside(0.0, 6.0))], 2.0, 7.0),
        ] {
            let found = Rings(vec![Ring { gpu: 0, bytes: room, slot: 1.0, rate: 1.0 }]).first(&stages);
            assert!((found - expected).abs() < 1e-9, "{stages:?}: {found}, expected {expected}");
        }
    }

    #[test]
    fn the_ring_of_one_gpu_fills_while_another_computes() {
        let rings = Rings(vec![
            Ring { gpu: 0, bytes: 4.0, slot: 2.0, rate: 1.0 },
            Ring { gpu: 3, bytes: 3.0, slot: 1.5, rate: 2.0 },
        ]);
        assert_eq!((rings.place(0), rings.place(3)), (0, 1));
        assert_eq!(
            (rings.slots(0, 5.0), rings.slots(1, 6.0), rings.slots(2, 1.0)),
            (Some((0, 3.0)), Some((3, 4.0)), None)
        );
        let coming = |bytes, ring| Coming { bytes, gpu_s: 0.5, ring, ..Coming::default() };
        // The first waits 4 s for its own; meanwhile 3 of the second's 7 have come, and the others take 2 s.
        let found = rings.first(&[(0.0, coming(4.0, 0)), (0.0, coming(7.0, 1))]);
        assert!((found - 6.0).abs() < 1e-9, "{found}");
        assert!((rings.seconds([coming(4.0, 0), coming(7.0, 1)].into_iter()) - 7.5).abs() < 1e-9);
    }
}
