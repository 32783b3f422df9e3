//! Whatever a unit's home, and whatever the drive does, a lease holds the bytes of the file or an error says why not.

#[cfg(feature = "cuda")]
mod device;
mod exchange;
mod expectation;
mod failures;
mod guesses;
mod homes;
mod model;
mod random;
