//! One integration target: oracles, placements, bad input, memory, the command line.

mod architecture;
mod bad_input;
mod calibration;
mod command_line;
mod copies;
mod drives;
mod faults;
#[cfg(feature = "cuda")]
mod gpu;
mod memory;
mod mixtures;
mod oracle;
mod perplexity;
mod placement;
mod quickstart;
mod sessions;
mod support;
mod synth;
mod what_if;
