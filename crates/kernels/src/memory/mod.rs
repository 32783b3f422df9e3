//! Memory and the bytes of files: owned page-aligned buffers, and the one seam through which file bytes come.
//!
//! Must never know what the bytes mean: no tensor, type or layer.

mod buffer;
mod checksum;
mod faulty;
mod file;
mod progress;
mod queue;
mod readers;
mod source;
mod through;
#[cfg(target_os = "linux")]
mod uring;
mod watch;

#[cfg(feature = "cuda")]
pub(crate) use buffer::Mapping;
pub use buffer::{AllocError, Buffer, PAGE};
pub use checksum::Checksum;
pub use faulty::{Fault, FaultySource};
pub use file::FileSource;
pub use queue::{Depth, Landed, Method, Queue, QueueGone, Reading};
pub use source::{ByteSource, ReadError, read_exact_at};
pub use through::{ThroughError, read_through};
