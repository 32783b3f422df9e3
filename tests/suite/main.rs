//! One integration target: oracles, placements, bad input, memory, the command line.

mod architecture;
mod bad_input;
mod calibration;
#[cfg(feature = "cuda")]
mod cards;
mod command_line;
mod copies;
mod drives;
mod faults;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod gpu_mixtures;
#[cfg(feature = "cuda")]
mod kinds;
mod memory;
mod mixtures;
mod oracle;
mod perplexity;
mod placement;
mod quickstart;
mod sessions;
#[cfg(feature = "cuda")]
mod split;
#[cfg(feature = "cuda")]
mod streaming;
mod support;
mod synth;
mod what_if;
