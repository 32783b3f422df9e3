//! `SentencePiece`'s BPE: characters are joined as long as the result is a token, that with the highest score first.
//!
//! A space is written ▁; a character that no token writes falls back to its bytes. Owns the scores; must never know
//! special tokens.

use gguf::{GgufError, Metadata};

use super::TextError;
use super::merge::{Merger, NO_TOKEN, Pairs};
use super::vocabulary::{Kind, Vocabulary};
use super::word_too_long;

/// How a space is written.
pub(super) const SPACE: char = '▁';

/// `SentencePiece`'s BPE over a vocabulary.
pub(super) struct SentencePiece {
    /// For each token, its score turned into a rank: the higher the score, the lower.
    ranks: Vec<u32>,
    of_byte: [u32; 256],
    /// A text, and what follows a special token, begins with a space that is not in it.
    adds_space: bool,
    /// No token holds a space after another character, so a text can be cut before each of its words.
    cuts_at_spaces: bool,
    unknown: Option<u32>,
}

impl SentencePiece {
    /// Reads `tokenizer.ggml.scores` and `tokenizer.ggml.add_space_prefix`.
    pub(super) fn read(metadata: &Metadata, vocabulary: &Vocabulary, unknown: Option<u32>) -> Result<Self, TextError> {
        let mut of_byte = [NO_TOKEN; 256];
        for byte in 0..=u8::MAX {
            let text = format!("<0x{byte:02X}>");
            let token = vocabulary.find(text.as_bytes(), |kind| matches!(kind, Kind::Byte | Kind::Normal));
            let token = token.or_else(|| vocabulary.find(&[byte], is_mergeable));
            of_byte[usize::from(byte)] = token.unwrap_or(NO_TOKEN);
        }
        let holds_inner_space = |(_, kind, text): (u32, Kind, &[u8])| {
            is_mergeable(kind) && std::str::from_utf8(text).is_ok_and(has_inner_space)
        };
        Ok(Self {
            ranks: ranks(metadata, vocabulary.len())?,
            of_byte,
            adds_space: metadata.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            cuts_at_spaces: !vocabulary.iter().any(holds_inner_space),
            unknown,
        })
    }

    /// Heap bytes.
    pub(super) const fn heap_bytes(&self) -> usize {
        self.ranks.capacity() * size_of::<u32>()
    }

    /// Appends the tokens of a text without special tokens; `begins` where nothing or a special token came before it.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        merger: &mut Merger,
        (text, begins): (&str, bool),
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let mut word = String::new();
        if self.adds_space && begins {
            word.push(SPACE);
        }
        let mut after_space = true;
        for character in text.chars() {
            let is_space = matches!(character, ' ' | SPACE);
            if is_space && !after_space && self.cuts_at_spaces {
                self.encode_word(vocabulary, merger, &word, ids)?;
                word.clear();
            }
            after_space = is_space;
            word.push(if is_space { SPACE } else { character });
            word_too_long(&word)?;
        }
        self.encode_word(vocabulary, merger, &word, ids)
    }

    fn encode_word(
        &self,
        vocabulary: &Vocabulary,
        merger: &mut Merger,
        word: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let first = word.char_indices().map(|(start, character)| {
            let end = start + character.len_utf8();
            let token = vocabulary.find(&word.as_bytes()[start..end], is_mergeable);
            (character.len_utf8(), token.unwrap_or(NO_TOKEN))
        });
        let pairs = Scored { vocabulary, ranks: &self.ranks };
        merger.merge(word.as_bytes(), first, &pairs, |symbol, token| {
            if token != NO_TOKEN {
                ids.push(token);
                return Ok(());
            }
            for byte in symbol {
                let id = self.of_byte[usize::from(*byte)];
                let id = if id == NO_TOKEN { self.unknown } else { Some(id) };
                ids.push(id.ok_or(TextError::NoTokenForByte { byte: *byte })?);
            }
            Ok(())
        })
    }
}

/// Tokens that merging may make: a user never writes a control token, and a byte token only stands in for a character.
const fn is_mergeable(kind: Kind) -> bool {
    matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Unused)
}

/// Whether a space follows another character.
fn has_inner_space(text: &str) -> bool {
    text.trim_start_matches(SPACE).contains(SPACE)
}

fn ranks(metadata: &Metadata, tokens: usize) -> Result<Vec<u32>, TextError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = metadata.floats(SCORES)?.ok_or_else(|| GgufError::missing_key(SCORES))?;
    if scores.len() != tokens {
        return Err(TextError::WrongLength { key: SCORES, expected: tokens, found: scores.len() });
    }
    let rank =
        |(id, score): (u32, &f32)| if score.is_nan() { Err(TextError::BadScore { id }) } else { Ok(rank(*score)) };
    (0..).zip(scores).map(rank).collect()
}

/// A number that is lower the higher the score is, over all scores.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // −0 becomes 0: the two are equal
    // Ascending order of floats as integers: flip all bits of a negative number, the sign of a positive one.
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

struct Scored<'a> {
    vocabulary: &'a Vocabulary,
    ranks: &'a [u32],
}

impl Pairs for Scored<'_> {
    fn join(&self, _: u32, _: u32, text: &[u8]) -> Option<(u32, u32)> {
        let token = self.vocabulary.find(text, is_mergeable)?;
        Some((self.ranks[token as usize], token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_descend_as_scores_ascend() {
        let scores = [f32::NEG_INFINITY, -1e9, -1000.0, -0.5, 0.0, 1e-30, 7.0, f32::INFINITY];
        assert!(scores.windows(2).all(|pair| rank(pair[0]) > rank(pair[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }

    #[test]
    fn a_space_inside_a_token_forbids_cutting_there() {
        for (text, inner) in [("▁the", false), ("▁▁", false), ("a▁", true), ("▁a▁b", true), ("", false)] {
            assert_eq!(has_inner_space(text), inner, "{text}");
        }
    }
}
