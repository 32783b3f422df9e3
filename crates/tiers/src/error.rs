//! What can go wrong between a file and a computation.

use kernels::memory::{AllocError, ReadError};
use plan::{Bytes, Tier};

use crate::RowSlice;

/// Why bytes are not at hand.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The plan places units on a GPU, and this build has no code for any.
    #[error(
        "the plan places weights on {tier}, and this build computes on the CPU only\n\nhint: build with --features cuda, or \
         leave {tier} out"
    )]
    NoGpu {
        /// The tier that was asked for.
        tier: Tier,
    },
    /// A card is not there, has too little memory, or failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] kernels::cuda::CudaError),
    /// The system refused memory that the plan counts.
    #[error("{what}: {bytes} refused by the system\n\nhint: lower the ram ceiling (--ram) or free memory")]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// How much was asked.
        bytes: Bytes,
        /// What the system said.
        source: AllocError,
    },
    /// A read failed, or the file is not what it was.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What went wrong.
        source: ReadError,
    },
    /// A row of a unit is longer than a slot of the ring.
    #[error(
        "a row of {tensor} is {row}, longer than the ring's slot of {slot}\n\nhint: a plan made for another model?"
    )]
    RowTooLong {
        /// The tensor.
        tensor: String,
        /// Bytes of one row.
        row: Bytes,
        /// Bytes of one slot.
        slot: Bytes,
    },
    /// Rows that are to come to a GPU together are longer than a slot of its ring.
    #[error(
        "{slice} need {needed} of a slot on their way to a GPU, and slots take {slot}\n\nhint: a plan made for another model?"
    )]
    SlotTooSmall {
        /// The rows, the last of those that come together.
        slice: RowSlice,
        /// Bytes of all of them, or of one row.
        needed: Bytes,
        /// Bytes that a slot takes.
        slot: Bytes,
    },
    /// Rows were leased from disk, or on a GPU that they are brought to, that are not the next ones expected. A defect of the caller.
    #[error("{asked} were asked for from disk, and {}", said(next.as_ref()))]
    NotExpected {
        /// What was asked for.
        asked: RowSlice,
        /// What comes next, if anything was expected.
        next: Option<RowSlice>,
    },
    /// A read failed, and the caller went on without [`forget_expected`](crate::Tiers::forget_expected). A defect of
    /// the caller.
    #[error("{slice} were asked for from disk after a failed read, and what was expected then is not forgotten yet")]
    NotForgotten {
        /// What was asked for.
        slice: RowSlice,
    },
    /// Rows were asked for that the model has not. A defect of the caller.
    #[error("the model has no {slice}")]
    NoSuchRows {
        /// What was asked for.
        slice: RowSlice,
    },
    /// Rows homed on disk were asked for, and the plan has no ring that they could come through.
    #[error(
        "{slice} are homed on disk, and the plan has no ring to read them through\n\nhint: a plan made for another model?"
    )]
    NoRing {
        /// What was asked for.
        slice: RowSlice,
    },
    /// Rows were asked for on a GPU, and the plan streams nothing to it. A defect of the caller.
    #[cfg(feature = "cuda")]
    #[error("{slice} were asked for on a GPU that the plan streams nothing to")]
    NoDeviceRing {
        /// What was asked for.
        slice: RowSlice,
    },
    /// Reads from disk were lost: whoever reads is gone. A defect of the ring or of a source.
    #[error("reads from disk were lost")]
    ReaderGone,
}

fn said(next: Option<&RowSlice>) -> String {
    next.map_or_else(|| "nothing is expected".to_owned(), |slice| format!("{slice} come next"))
}
