//! What can be wrong with a model file.

use std::path::PathBuf;

/// One thing that is wrong with a model file, with where, why and a way out.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A metadata key that must be there is not.
    #[error("metadata key {key} is missing\n\nhint: the file was cut or converted wrongly; get it again")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value has the wrong type or an impossible value.
    #[error("metadata key {key}: expected {expected}, found {found}")]
    WrongValue {
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl GgufError {
    /// [`Self::MissingKey`] for this key.
    #[must_use]
    pub fn missing_key(key: &str) -> Self {
        Self::MissingKey { key: key.to_owned() }
    }

    /// [`Self::WrongValue`] for a value of another type.
    #[must_use]
    pub fn wrong_type(key: &str, expected: &str, found: &str) -> Self {
        Self::wrong_value(key, expected.to_owned(), found.to_owned())
    }

    /// [`Self::WrongValue`] for this key.
    #[must_use]
    pub fn wrong_value(key: &str, expected: String, found: String) -> Self {
        Self::WrongValue { key: key.to_owned(), expected, found }
    }
}
