//! What can go wrong while a model is opened or run.

use gguf::GgufError;
use kernels::memory::AllocError;
use plan::{Bytes, Tier};
use tiers::TierError;

/// Why a model cannot be opened, or a request ended early.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The architecture is not one of ours.
    #[error("architecture {name} is not supported\n\nhint: supported are {known}")]
    UnknownArchitecture {
        /// GGUF's name for it.
        name: String,
        /// The names that would do.
        known: String,
    },
    /// Tensors are stored in types that no kernel computes.
    #[error("no kernel for {list}\n\nhint: get the model in another quantization, such as Q4_K_M or Q8_0")]
    UnsupportedTypes {
        /// Types with the number of their tensors.
        list: String,
    },
    /// Tensors are missing, misshapen or unknown.
    #[error(
        "{architecture} model does not fit its architecture:\n{list}\n\nhint: the file was cut or converted wrongly"
    )]
    Tensors {
        /// The architecture.
        architecture: String,
        /// The first few differences, a line each.
        list: String,
    },
    /// Metadata is missing or impossible.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// A tier could not give what it should.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The plan gives a GPU something that this version does not compute there.
    #[error("{tier} cannot be used as planned: {why}\n\nhint: give it other layers, or leave {tier} out (--gpu-mem 0)")]
    NotOnGpu {
        /// The GPU.
        tier: Tier,
        /// What stands in the way.
        why: String,
    },
    /// A GPU failed, or has too little memory.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] kernels::cuda::CudaError),
    /// The system refused memory that the plan counts.
    #[error("{what}: {bytes} refused by the system\n\nhint: lower the context (-c) or the ram ceiling, or free memory")]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// How much was asked.
        bytes: Bytes,
        /// What the system said.
        source: AllocError,
    },
    /// A plan for another model, or a defect of the planner.
    #[error("the plan counts {planned} of {what}, and the engine needs {needed}\n\nhint: plan this model anew")]
    PlanTooSmall {
        /// What the memory is for.
        what: &'static str,
        /// What the plan counts.
        planned: Bytes,
        /// What the model takes.
        needed: Bytes,
    },
    /// The system refused worker threads.
    #[error("worker threads: {source}\n\nhint: lower the threads (-t)")]
    Threads {
        /// What the system said.
        source: std::io::Error,
    },
    /// More tokens than the context holds.
    #[error(
        "context full: {position} tokens kept and {asked} more asked, {capacity} fit\n\nhint: raise the context (-c), or \
         shorten the prompt"
    )]
    ContextFull {
        /// Tokens in the session.
        position: usize,
        /// Tokens that were to be added.
        asked: usize,
        /// Tokens that fit in all.
        capacity: usize,
    },
    /// A pass over no token.
    #[error("the prompt is empty\n\nhint: give at least one token")]
    EmptyPrompt,
    /// A token id beyond the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    NoSuchToken {
        /// The id.
        token: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// A logit is infinite or not a number: weights or a kernel are broken.
    #[error("logits are not finite at position {position}\n\nhint: the file may be damaged; get it again")]
    NotFinite {
        /// Position of the token.
        position: usize,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// candle refused an operation. A defect of the engine.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}
