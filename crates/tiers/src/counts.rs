//! What tiers say that they have done.

use std::time::Duration;

/// What the tiers have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Bytes of weights that computation read from RAM-homed units.
    pub ram_bytes: u64,
    /// Bytes of weights that computation was handed from disk. What was read and then forgotten is not among them.
    pub disk_bytes: u64,
    /// Time that the drive had something to read, where there are several the busiest: reckoned by its rate where nobody looked until all had landed.
    pub disk_busy: Duration,
    /// The most reads from disk that were under way at once.
    pub disk_depth: u64,
    /// Time that computation waited for bytes from disk.
    pub disk_stall: Duration,
    /// Bytes of guesses ([`crate::Tiers::guess`]) that were expected then, and that were not.
    pub guessed_bytes: u64,
    /// The others.
    pub wasted_bytes: u64,
}

/// What was read and brought on one card so far.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardCounts {
    /// Bytes of weights that computation read from units homed in its memory.
    pub read_bytes: u64,
    /// Bytes of weights that were brought to it to be computed with there.
    pub up_bytes: u64,
}
