//! Reads a model's header, strictly, into an [`plan::Inventory`] and its [`Metadata`].
//!
//! Owns the file format. Must never know weights or devices, nor trust a length, offset or count that a file gives.

mod aligned;
mod delta;
mod error;
mod experts;
mod header;
mod inventory;
mod kv;
mod layout;
mod metadata;
mod reader;
mod roles;
mod shape;
mod split;
mod summary;
#[cfg(feature = "testing")]
pub mod testing;
mod vocabulary;

pub use aligned::{Aligned, Moved, aligned};
pub use error::{GgufError, Lookalike};
pub use metadata::{Metadata, Strings, Value};
pub use split::{Files, Model, open, open_among};
pub use summary::{Share, Summary, TemplateMark, Unsupported, summary, template_mark, unsupported};
