//! Reads a model's header, strictly, into an [`plan::Inventory`] and its [`Metadata`].
//!
//! Owns the file format. Must never know weights or devices, nor trust a length, offset or count that a file gives.

mod error;
mod header;
mod inventory;
mod layout;
mod metadata;
mod reader;
mod roles;
mod shape;
mod split;
mod vocabulary;

pub use error::{GgufError, Lookalike};
pub use metadata::{Metadata, Strings, Value};
pub use split::{Model, open};
