//! What goes wrong with a GPU, and the way out.

use plan::Bytes;

/// A GPU that is not there, memory that it lacks, or a call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// No driver, or one that finds no card to drive.
    #[error(
        "no NVIDIA driver here ({reason})\n\nhint: install the driver of the card, or leave gpu tiers out of the profile"
    )]
    NoDriver {
        /// What the look-up or the driver said.
        reason: String,
    },
    /// The driver lacks calls that are used here, or does not take the code that was compiled.
    #[error("the NVIDIA driver knows CUDA {found}, and this build needs {needed}\n\nhint: update the driver")]
    OldDriver {
        /// The driver's version of CUDA.
        found: String,
        /// The oldest that serves.
        needed: String,
    },
    /// A number that no card has.
    #[error(
        "there is no gpu:{ordinal}: the driver shows {count}\n\nhint: nvidia-smi lists them, CUDA_VISIBLE_DEVICES hides some"
    )]
    NoDevice {
        /// The number asked for, from 0.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// A card from before `sm_80`.
    #[error(
        "gpu:{ordinal} is a {name} (sm_{major}{minor}), and cards from sm_80 (Ampere, 2020) up are supported\n\nhint: leave it out of \
         the profile; the CPU computes"
    )]
    OldDevice {
        /// Its number.
        ordinal: u32,
        /// Its name.
        name: String,
        /// Compute capability, major.
        major: u32,
        /// Compute capability, minor.
        minor: u32,
    },
    /// More than the profile allows.
    #[error(
        "gpu:{ordinal}: {what} asks for {asked}, and {used} of {ceiling} are taken\n\nhint: raise its `memory` or give it less"
    )]
    OverCeiling {
        /// The card's number.
        ordinal: u32,
        /// For what.
        what: String,
        /// Bytes asked for, as the driver would take them.
        asked: Bytes,
        /// Bytes taken so far.
        used: Bytes,
        /// Bytes allowed.
        ceiling: Bytes,
    },
    /// Less than the profile allows is free.
    #[error(
        "gpu:{ordinal} has no {asked} for {what}: {free} are free\n\nhint: other programs hold its memory (nvidia-smi); lower `memory`"
    )]
    OutOfMemory {
        /// The card's number.
        ordinal: u32,
        /// For what.
        what: String,
        /// Bytes asked for.
        asked: Bytes,
        /// Bytes that the driver says are free.
        free: Bytes,
    },
    /// RAM that cannot be pinned.
    #[error(
        "{asked} of RAM cannot be pinned for gpu:{ordinal} ({reason})\n\nhint: raise ulimit -l, or lower the ceiling of `ram`"
    )]
    NotPinned {
        /// The card's number.
        ordinal: u32,
        /// Bytes asked for.
        asked: Bytes,
        /// The driver's name for why.
        reason: String,
    },
    /// A kernel failed or the card fell off; nothing on it can be used any more by this process.
    #[error(
        "gpu:{ordinal} was lost while {doing} ({reason})\n\nhint: start again; if it happens again, see dmesg for the driver's Xid"
    )]
    Lost {
        /// The card's number.
        ordinal: u32,
        /// What was going on. Work is asynchronous: the cause may be an earlier kernel.
        doing: &'static str,
        /// The driver's name for why.
        reason: String,
    },
    /// Any other call that the driver refused: a defect of this program.
    #[error("gpu:{ordinal}: {doing} failed ({reason})")]
    Call {
        /// The card's number.
        ordinal: u32,
        /// Which call.
        doing: &'static str,
        /// The driver's name for why.
        reason: String,
    },
    /// Work that touches the host, while kernels are recorded: a defect of this program.
    #[error("gpu:{ordinal}: {doing} cannot be recorded")]
    Recording {
        /// The card's number.
        ordinal: u32,
        /// What was asked for.
        doing: &'static str,
    },
    /// A kernel that no embedded module has: a defect of this program.
    #[error("gpu:{ordinal}: no kernel {name} was compiled into this program")]
    NoKernel {
        /// The card's number.
        ordinal: u32,
        /// The kernel's name.
        name: String,
    },
}
