//! What can go wrong between a file and a computation.

use kernels::memory::{AllocError, ReadError};
use plan::{Bytes, Tier, UnitId};

/// Why bytes are not at hand.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The plan places units on a GPU, which this version cannot use.
    #[error("the plan places weights on {tier}, and this version computes on the CPU only\n\nhint: leave {tier} out")]
    NoGpu {
        /// The tier that was asked for.
        tier: Tier,
    },
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
    /// A unit homed on disk was asked for that is not in the order of use. A defect of the caller.
    #[error("unit {} is not in the order of use", unit.0)]
    NotScheduled {
        /// The unit.
        unit: UnitId,
    },
    /// The thread that reads from disk is gone. A defect of the ring.
    #[error("the disk reader stopped")]
    ReaderGone,
}
