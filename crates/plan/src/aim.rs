//! What a plan is to be fast at, and the ways of placing that it is measured against.
//!
//! Owns the aims, the lengths that they are measured with, and the seconds that follow. Must never know how anything is placed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is to be fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// The answer: seconds of its tokens.
    Decode,
    /// The prompt: seconds until the answer begins.
    Prefill,
    /// Both, one after the other.
    #[default]
    Balanced,
}

impl Aim {
    /// Every aim, in the order of messages.
    pub const ALL: [Self; 3] = [Self::Decode, Self::Prefill, Self::Balanced];

    /// The name in profiles.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
            Self::Balanced => "balanced",
        }
    }
}

/// The conversation that plans are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    /// Tokens of a prompt.
    pub prompt: u32,
    /// Tokens of an answer.
    pub answer: u32,
}

impl Default for Lengths {
    /// What benchmarks of peers measure: 512 and 128.
    fn default() -> Self {
        Self { prompt: 512, answer: 128 }
    }
}

impl Lengths {
    /// The seconds that an aim counts of a conversation whose prompt and answer take so long.
    #[must_use]
    pub fn seconds(aim: Aim, prompt_s: f64, answer_s: f64) -> f64 {
        match aim {
            Aim::Decode => answer_s,
            Aim::Prefill => prompt_s,
            Aim::Balanced => prompt_s + answer_s,
        }
    }
}

/// A way to place what no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// By what a byte saves: what every token reads nearest, and of experts those that are used most.
    #[default]
    ByUse,
    /// The same, but of dense layers attention first, of all of them, so that less is streamed of each and none of them rests the link; what
    /// they keep of a conversation takes the room of weights.
    AttentionFirst,
    /// Whole layers, as llama.cpp's `-ngl` does: the last ones on a GPU until it is full, the others from the first one on in RAM, and on disk
    /// what does not fit there.
    Layers,
    /// The same with routed experts left to the processor, as `-cmoe` does.
    ExpertsOnCpu,
}

impl Scheme {
    /// Every scheme, the planner's own first.
    pub const ALL: [Self; 4] = [Self::ByUse, Self::AttentionFirst, Self::Layers, Self::ExpertsOnCpu];

    /// Whether it is one of the simple ways, which place whole layers.
    #[must_use]
    pub const fn is_by_layer(self) -> bool {
        matches!(self, Self::Layers | Self::ExpertsOnCpu)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ByUse => "by use",
            Self::AttentionFirst => "attention first",
            Self::Layers => "by layer (-ngl)",
            Self::ExpertsOnCpu => "experts on the CPU (-cmoe)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_count_what_they_are_about() {
        for (aim, seconds) in [(Aim::Decode, 3.0), (Aim::Prefill, 2.0), (Aim::Balanced, 5.0)] {
            assert!((Lengths::seconds(aim, 2.0, 3.0) - seconds).abs() < 1e-12, "{aim:?}");
        }
    }
}
