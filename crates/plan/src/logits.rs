//! What logits are made for: it decides how many of them are held at once.

use serde::{Deserialize, Serialize};

use crate::cost::LOGIT_ROWS;

/// Who reads logits. A vocabulary of 262,144 tokens has a MiB of them in each row, a large part of what a small model occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logits {
    /// A sampler, which chooses a token by those of the last position.
    #[default]
    Sampled,
    /// Nobody: only their time is wanted.
    Unread,
    /// Somebody who wants those of every position, or may.
    Every,
}

impl Logits {
    /// Rows that are computed at once.
    #[must_use]
    pub const fn rows(self) -> u32 {
        match self {
            Self::Sampled | Self::Unread => 1,
            Self::Every => LOGIT_ROWS,
        }
    }

    /// Numbers of 4 bytes for each token of the vocabulary: the rows, the last one's copy, and the three that a sampler's candidate has.
    #[must_use]
    pub fn numbers(self) -> u64 {
        u64::from(self.rows()) + if self == Self::Unread { 1 } else { 4 }
    }
}
