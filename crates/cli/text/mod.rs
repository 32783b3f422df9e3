//! Words in, words out: the tokenizer that a model file describes, its chat template, and text as it streams.
//!
//! Owns everything between characters and token ids. Must never know weights, logits or devices, nor trust a vocabulary
//! or a template: both come with the model file. Text that a user wrote never becomes a control token.
//!
//! The vocabulary counts under the user's ceiling for memory, so it is kept packed: [`vocabulary_bytes`] is what the
//! planner budgets.

mod alphabet;
mod byte_level;
mod chat;
mod error;
mod index;
mod merge;
mod python;
mod sentencepiece;
mod special;
mod split;
mod stream;
mod template;
mod thinking;
mod tokenizer;
mod vocabulary;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

pub use chat::encode_chat;
pub use error::TextError;
pub use stream::{StopStrings, Utf8Stream};
pub use template::{ChatTemplate, OWN_VARIABLES, RenderOptions, TEMPLATE_BYTES_MAX};
pub use thinking::{Marks, Piece, Splitter};
pub use tokenizer::{EncodeOptions, TEXT_BYTES_MAX, Tokenizer};

/// The most bytes of a stretch of text that can be cut nowhere; merging takes [`merge::BYTES_PER_SYMBOL`] for each.
const WORD_BYTES_MAX: usize = 1 << 20;

fn word_too_long(word: &str) -> Result<(), TextError> {
    if word.len() > WORD_BYTES_MAX { Err(TextError::WordTooLong { max: WORD_BYTES_MAX }) } else { Ok(()) }
}

/// Heap bytes of a [`Tokenizer`] with so many tokens, merges and bytes of token text.
///
/// A token costs its text, 4 bytes for its end, 1 for its kind, 8 in the index and 4 for a score; a merge 12 and 8 in the
/// index. A constant covers the patterns' automata (2.0 to 2.9 MiB measured). `SmolLM2`'s 49,152 tokens and 48,900 merges
/// are 1.9 MiB without them, Gemma 3's 262,144 tokens 6.5 MiB.
#[must_use]
pub const fn vocabulary_bytes(tokens: usize, merges: usize, text_bytes: usize) -> usize {
    const PATTERNS: usize = 3 << 20;
    text_bytes + 17 * tokens + 20 * merges + PATTERNS
}

/// Heap bytes that [`Tokenizer::encode`] takes at most beside the vocabulary, for a text of so many bytes whose longest
/// stretch that cannot be cut has `word_bytes`.
#[must_use]
pub const fn encode_bytes_peak(text_bytes: usize, word_bytes: usize) -> usize {
    // An id a byte at most; a vector that grows holds up to three times its content while it moves.
    3 * (text_bytes * size_of::<u32>() + word_bytes * merge::BYTES_PER_SYMBOL)
}
