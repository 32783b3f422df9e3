//! Byte-level BPE: each byte of a word is a token to begin with, and the merges join them in the order of the list.
//!
//! A merge costs 20 bytes here: two parts, the token that they make, and two slots of the index; `HashMap`s of string
//! pairs cost five times that. Owns the merges; must never know special tokens.

use gguf::{GgufError, Metadata};

use super::TextError;
use super::alphabet;
use super::error::printable;
use super::index::Index;
use super::merge::{Merger, NO_TOKEN, Pairs};
use super::split::Splitter;
use super::vocabulary::{Kind, Vocabulary};
use super::word_too_long;

/// The list of merges, by the ids of both parts.
struct Merges {
    /// Left part, right part and what they make; the rank is the position.
    list: Vec<[u32; 3]>,
    index: Index,
}

/// Byte-level BPE over a vocabulary.
pub(super) struct ByteLevel {
    splitter: Splitter,
    merges: Merges,
    of_byte: [u32; 256],
    unknown: Option<u32>,
}

impl ByteLevel {
    /// Reads `tokenizer.ggml.pre` and `tokenizer.ggml.merges`.
    pub(super) fn read(metadata: &Metadata, vocabulary: &Vocabulary, unknown: Option<u32>) -> Result<Self, TextError> {
        let splitter = Splitter::named(metadata.text("tokenizer.ggml.pre")?.unwrap_or("default"))?;
        let mut of_byte = [NO_TOKEN; 256];
        for byte in 0..=u8::MAX {
            of_byte[usize::from(byte)] = vocabulary.find(&[byte], is_ordinary).unwrap_or(NO_TOKEN);
        }
        Ok(Self { splitter, merges: Merges::read(metadata, vocabulary)?, of_byte, unknown })
    }

    /// Whether texts begin with BOS where the metadata does not say.
    pub(super) const fn adds_bos(&self) -> bool {
        self.splitter.adds_bos
    }

    /// How many merges there are.
    pub(super) const fn merges(&self) -> usize {
        self.merges.list.len()
    }

    /// Heap bytes of the merges; the patterns' automata come on top.
    pub(super) fn heap_bytes(&self) -> usize {
        self.merges.list.capacity() * size_of::<[u32; 3]>() + self.merges.index.bytes()
    }

    /// Appends the tokens of a text without special tokens.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        merger: &mut Merger,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        self.splitter.split(text, &mut |word: &str| {
            if self.splitter.whole_words
                && let Some(id) = vocabulary.find(word.as_bytes(), is_ordinary)
            {
                ids.push(id);
                return Ok(());
            }
            word_too_long(word)?;
            let first = word.bytes().map(|byte| (1, self.of_byte[usize::from(byte)]));
            merger.merge(word.as_bytes(), first, &self.merges, |symbol, token| {
                let token = if token == NO_TOKEN { self.unknown } else { Some(token) };
                ids.push(token.ok_or(TextError::NoTokenForByte { byte: symbol[0] })?);
                Ok(())
            })
        })
    }
}

/// Tokens that stand for text, as opposed to those that are cut out of it.
const fn is_ordinary(kind: Kind) -> bool {
    matches!(kind, Kind::Normal | Kind::Unused)
}

impl Merges {
    fn read(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self, TextError> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let lines = metadata.strings(MERGES)?.ok_or_else(|| GgufError::missing_key(MERGES))?;
        let mut merges = Self { list: Vec::with_capacity(lines.len()), index: Index::with_room(lines.len()) };
        let mut bytes = Vec::new();
        for (line, text) in lines.iter().enumerate() {
            let bad = |why| TextError::BadMerge { line, text: printable(text), why };
            // A part may itself begin with the separator, so the first character never separates.
            let space = text.iter().skip(1).position(|byte| *byte == b' ').ok_or_else(|| bad("it is not two parts"))?;
            let (left, right) = (&text[..=space], &text[space + 2..]);
            let part = |part: &[u8], bytes: &mut Vec<u8>| {
                let start = bytes.len();
                alphabet::decode(part, bytes).then(|| vocabulary.find(&bytes[start..], is_ordinary)).flatten()
            };
            bytes.clear();
            let left = part(left, &mut bytes).ok_or_else(|| bad("its first part is no token of the vocabulary"))?;
            let right = part(right, &mut bytes).ok_or_else(|| bad("its second part is no token of the vocabulary"))?;
            let made = vocabulary.find(&bytes, |kind| is_ordinary(kind) || kind.is_special());
            let made = made.ok_or_else(|| bad("what it makes is no token of the vocabulary"))?;
            merges.add(left, right, made);
        }
        // A merge that would write a control token out of plain text keeps its rank but never happens.
        for merge in &mut merges.list {
            if matches!(vocabulary.kind(merge[2]), Some(Kind::Control | Kind::Unknown)) {
                merge[2] = NO_TOKEN;
            }
        }
        Ok(merges)
    }

    fn add(&mut self, left: u32, right: u32, made: u32) {
        let rank = self.list.len() as u32;
        self.list.push([left, right, made]);
        // Of two equal merges the first counts, and the list keeps both so that ranks stay positions.
        if self.rank(left, right).is_none() {
            self.index.insert(&(left, right), rank);
        }
    }

    fn rank(&self, left: u32, right: u32) -> Option<u32> {
        self.index.find(&(left, right), |rank| self.list[rank as usize][..2] == [left, right])
    }
}

impl Pairs for Merges {
    fn join(&self, left: u32, right: u32, _: &[u8]) -> Option<(u32, u32)> {
        let rank = self.rank(left, right)?;
        let made = self.list[rank as usize][2];
        (made != NO_TOKEN).then_some((rank, made))
    }
}
