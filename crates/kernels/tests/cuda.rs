//! Every kernel of the card against the reference, outputs poisoned first. Where there is no card the tests say so and pass.
#![cfg(feature = "cuda")]

#[path = "cuda/attention.rs"]
mod attention;
#[path = "cuda/card.rs"]
mod card;
mod common;
#[path = "cuda/crossing.rs"]
mod crossing;
#[path = "cuda/elementwise.rs"]
mod elementwise;
#[path = "cuda/expand.rs"]
mod expand;
#[path = "cuda/experts.rs"]
mod experts;
#[path = "cuda/head_product.rs"]
mod head_product;
#[path = "cuda/heads.rs"]
mod heads;
#[path = "cuda/matmul.rs"]
mod matmul;
#[path = "cuda/matvec.rs"]
mod matvec;
#[path = "cuda/memory.rs"]
mod memory;
#[path = "cuda/norm.rs"]
mod norm;
#[path = "cuda/quantize.rs"]
mod quantize;
#[path = "cuda/recording.rs"]
mod recording;
#[path = "cuda/route.rs"]
mod route;
