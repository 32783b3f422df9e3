//! The tokens: their texts, what kind each is, and the way from a text to its token.
//!
//! Texts are packed into one allocation and found through an [`Index`] of positions, so that a token costs its text and
//! 13 bytes. Owns the checks of what a file says about its tokens; must never know merges or scores.

use gguf::Metadata;

use super::TextError;
use super::alphabet;
use super::error::printable;
use super::index::Index;

/// The most tokens that a vocabulary may hold: four times the largest in use, and far below [`u32::MAX`].
const TOKENS_MAX: usize = 1 << 20;

/// What kind a token is: GGUF's `tokenizer.ggml.token_type`, and one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
    /// An ordinary token of a byte-level vocabulary that is not written in its alphabet: no text becomes it.
    Foreign,
}

impl Kind {
    const fn of(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Whether the token is cut out of a text before that is split and merged: it is written as it stands.
    pub(super) const fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// How a vocabulary writes its ordinary tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// One printable character for each byte: decoded while loading.
    ByteLevel,
    /// As text, with ▁ for a space.
    Plain,
}

/// All tokens of a model.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    index: Index,
}

impl Vocabulary {
    /// Reads `tokenizer.ggml.tokens` and `tokenizer.ggml.token_type`.
    pub(super) fn read(metadata: &Metadata, writing: Writing) -> Result<Self, TextError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const TYPES: &str = "tokenizer.ggml.token_type";
        let texts = metadata.strings(TOKENS)?.ok_or_else(|| gguf::GgufError::missing_key(TOKENS))?;
        if texts.is_empty() || texts.len() > TOKENS_MAX {
            return Err(TextError::Size { tokens: texts.len(), max: TOKENS_MAX });
        }
        let types = metadata.integers(TYPES)?;
        if let Some(types) = types.filter(|types| types.len() != texts.len()) {
            return Err(TextError::WrongLength { key: TYPES, expected: texts.len(), found: types.len() });
        }
        let mut vocabulary = Self {
            bytes: Vec::with_capacity(texts.total_bytes()),
            ends: Vec::with_capacity(texts.len()),
            kinds: Vec::with_capacity(texts.len()),
            index: Index::with_room(texts.len()),
        };
        for (id, text) in (0..).zip(texts.iter()) {
            let kind = match types {
                None => Kind::Normal,
                Some(types) => {
                    Kind::of(types[id as usize]).ok_or(TextError::BadTokenType { id, found: types[id as usize] })?
                }
            };
            vocabulary.add(id, text, kind, writing)?;
        }
        vocabulary.bytes.shrink_to_fit();
        vocabulary.mark_control_by_name();
        Ok(vocabulary)
    }

    fn add(&mut self, id: u32, text: &[u8], kind: Kind, writing: Writing) -> Result<(), TextError> {
        let start = self.bytes.len();
        let mut kind = kind;
        if kind == Kind::Byte && byte_token(text).is_none() {
            return Err(TextError::BadByteToken { id, text: printable(text) });
        }
        let ordinary = matches!(kind, Kind::Normal | Kind::Unused);
        if !(writing == Writing::ByteLevel && ordinary && alphabet::decode(text, &mut self.bytes)) {
            self.bytes.extend_from_slice(text);
            if writing == Writing::ByteLevel && ordinary {
                kind = Kind::Foreign;
            }
        }
        self.ends.push(self.bytes.len() as u32);
        self.kinds.push(kind);
        let own = &self.bytes[start..];
        if own.is_empty() {
            return Ok(()); // no text becomes an empty token; it only keeps its id
        }
        // Texts of the two classes are written differently: "Ġ" (a space) and an added " " are not the same.
        let written_alike = own.iter().all(|byte| (0x21..=0x7E).contains(byte));
        let same_class = |other: Kind| other.is_special() == kind.is_special();
        let twin = |other| same_class(self.kinds[other as usize]) || written_alike;
        if let Some(first) = self.index.find(&own, |other| self.text(other) == own && twin(other)) {
            return Err(TextError::DuplicateToken { text: printable(text), first, second: id });
        }
        self.index.insert(&own, id);
        Ok(())
    }

    /// Ends of a turn and fill-in-the-middle marks are control tokens whatever the file says: typed as ordinary
    /// text they could be written by a user.
    fn mark_control_by_name(&mut self) {
        for name in END_NAMES.iter().chain(MIDDLE_NAMES).chain(&["</s>"]) {
            if let Some(id) = self.find(name.as_bytes(), |_| true) {
                self.kinds[id as usize] = Kind::Control;
            }
        }
    }

    /// How many tokens there are.
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// A token's text as stored; empty for an id outside the vocabulary.
    pub(super) fn text(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// A token's kind.
    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// The token with this text whose kind `wanted` accepts.
    pub(super) fn find(&self, text: &[u8], wanted: impl Fn(Kind) -> bool) -> Option<u32> {
        self.index.find(&text, |id| wanted(self.kinds[id as usize]) && self.text(id) == text)
    }

    /// Every token with its kind and text.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Kind, &[u8])> {
        (0..).zip(&self.kinds).map(|(id, kind)| (id, *kind, self.text(id)))
    }

    /// The id that a metadata key gives, checked.
    pub(super) fn special(&self, metadata: &Metadata, key: &'static str) -> Result<Option<u32>, TextError> {
        match metadata.unsigned(key)? {
            Some(id) if id >= self.len() as u64 => Err(TextError::IdOutOfRange { key, id, tokens: self.len() }),
            id => Ok(id.map(|id| id as u32)),
        }
    }

    /// Heap bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<u32>() + self.kinds.capacity() + self.index.bytes()
    }
}

/// The byte that `<0x41>` stands for.
pub(super) fn byte_token(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// How models write the end of a turn, of a message or of a document.
pub(super) const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// How models write the parts of a text whose middle is to be filled in.
const MIDDLE_NAMES: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
];
