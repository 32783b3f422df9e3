//! Reads a model's header, strictly, into an [`plan::Inventory`] and its [`Metadata`].
//!
//! Owns the file format. Must never know weights or devices, nor trust a length, offset or count that a file gives.

mod error;
mod metadata;

pub use error::GgufError;
pub use metadata::{Metadata, Strings, Value};

/// A model's header, read and checked.
#[derive(Debug)]
pub struct Model {
    /// What the model holds.
    pub inventory: plan::Inventory,
    /// Its metadata.
    pub metadata: Metadata,
}
