//! Model files for tests: a writer that can write what no sound tool would, and tables of malformed files.
//!
//! Behind the feature `testing`, so that tests of other packages use it without it being in any program:
//! `gguf = { workspace = true, features = ["testing"] }` under `[dev-dependencies]`.
//!
//! ```
//! use gguf::testing::{Field, dense};
//! let mut draft = dense();
//! draft.set("llama.context_length", Field::u32(4096));
//! let bytes = draft.bytes(); // write them to a file and open it
//! # assert_eq!(&bytes[..4], b"GGUF");
//! ```

mod cases;
mod draft;
mod sets;

pub use cases::{Case, malformed};
pub use draft::{Draft, Field, Info, dense, mixture};
pub use sets::{BadSet, bad_sets, split};
