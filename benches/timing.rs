//! The clock that the benches share.

use std::time::Instant;

/// Seconds of the fastest of so many runs: other programs share the machine.
pub(crate) fn best_of(runs: usize, mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
