//! Llama 4 (<https://ai.meta.com/blog/llama-4-multimodal-intelligence/>): three layers that see chunks of 8192 tokens to one
//! that sees everything and knows no positions, where queries grow with the context instead. One expert a token, whose
//! input is weighed by a sigmoid, beside a shared one. Scout norms queries and keys without weights; Maverick, of 128
//! experts, does not.

use kernels::cpu::{Gate, RopeStyle};

use super::{Family, HeadNorms, Locality, MixtureRules, PLAIN};
use crate::spec::Temperature;

pub(crate) const LLAMA4: Family = Family {
    names: &["llama4"],
    rope: RopeStyle::Interleaved,
    locality: Locality::Chunks {
        global_every: 4,
        length: 8192,
        temperature: Temperature { floor: 8192.0, scale: 0.1 },
    },
    head_norms: HeadNorms::PlainWhereTurned { unless_experts: 128 },
    mixtures: MixtureRules { gate: Gate::Sigmoid, weights_normalized: false, weighs_input: true },
    ..PLAIN
};
