//! Every kernel of the card against the reference, outputs poisoned first. Where there is no card the tests say so and pass.
#![cfg(feature = "cuda")]

#[path = "cuda/card.rs"]
mod card;
mod common;
#[path = "cuda/crossing.rs"]
mod crossing;
#[path = "cuda/experts.rs"]
mod experts;
#[path = "cuda/matvec.rs"]
mod matvec;
#[path = "cuda/memory.rs"]
mod memory;
#[path = "cuda/quantize.rs"]
mod quantize;
