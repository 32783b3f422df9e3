//! [`Tokenizer`]: text to token ids and back, as the model file itself describes it.

use gguf::{GgufError, Metadata};

use super::TextError;
use super::byte_level::ByteLevel;
use super::merge::Merger;
use super::sentencepiece::{SPACE, SentencePiece};
use super::special::{Part, Specials};
use super::vocabulary::{END_NAMES, Kind, Vocabulary, Writing, byte_token};

/// The most bytes of text that one call takes: no context holds as much.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// What to do about special tokens while encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add BOS and EOS as the model's metadata asks for.
    pub add_special: bool,
    /// Recognise control tokens where the text spells them out. For text that a user wrote, leave this off: then no
    /// text whatsoever yields a control token.
    pub parse_special: bool,
}

/// A model's tokenizer.
///
/// It keeps its own packed copy of the vocabulary, so the metadata's may be dropped
/// ([`Metadata::forget`] of `tokenizer.ggml.*`) once it is built.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    specials: Specials,
    model: Model,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    ends: Vec<u32>,
}

enum Model {
    ByteLevel(Box<ByteLevel>),
    SentencePiece(Box<SentencePiece>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("tokens", &self.vocabulary.len())
            .field("merges", &self.merges())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer that `tokenizer.ggml.*` describes: model `gpt2` (byte-level BPE, split as
    /// `tokenizer.ggml.pre` says) or `llama` (`SentencePiece`).
    ///
    /// # Errors
    /// [`TextError`] for a kind that is not built in, and for every contradiction in the vocabulary.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        const MODEL: &str = "tokenizer.ggml.model";
        let name = metadata.text(MODEL)?.ok_or_else(|| GgufError::missing_key(MODEL))?;
        let (writing, defaults) = match name {
            "gpt2" => (Writing::ByteLevel, [None; 3]),
            "llama" => (Writing::Plain, [Some(1), Some(2), Some(0)]),
            other => return Err(TextError::UnknownModel { found: other.to_owned(), known: "gpt2, llama".to_owned() }),
        };
        let vocabulary = Vocabulary::read(metadata, writing)?;
        let in_range = |id: &u32| (*id as usize) < vocabulary.len();
        let special = |key, default: Option<u32>| {
            Ok::<_, TextError>(vocabulary.special(metadata, key)?.or(default.filter(in_range)))
        };
        let bos = special("tokenizer.ggml.bos_token_id", defaults[0])?;
        let eos = special("tokenizer.ggml.eos_token_id", defaults[1])?;
        let unknown = special("tokenizer.ggml.unknown_token_id", defaults[2])?;
        let padding = special("tokenizer.ggml.padding_token_id", None)?;
        let model = match writing {
            Writing::ByteLevel => Model::ByteLevel(Box::new(ByteLevel::read(metadata, &vocabulary, unknown)?)),
            Writing::Plain => Model::SentencePiece(Box::new(SentencePiece::read(metadata, &vocabulary, unknown)?)),
        };
        let adds_bos = match &model {
            Model::ByteLevel(model) => model.adds_bos(),
            Model::SentencePiece(_) => true,
        };
        let ends = ends(metadata, &vocabulary, eos)?;
        Ok(Self {
            specials: Specials::of(&vocabulary, strips_after_special(metadata)?),
            model,
            bos,
            eos,
            unknown,
            padding,
            add_bos: metadata.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos),
            add_eos: metadata.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            ends,
            vocabulary,
        })
    }

    /// The token ids of a text.
    ///
    /// Time grows as n log n; beside the ids, memory grows with the longest stretch that cannot be cut, not with the
    /// text (see [`encode_bytes_peak`](super::encode_bytes_peak)).
    ///
    /// # Errors
    /// [`TextError::TextTooLong`] and [`TextError::WordTooLong`] past the bounds, [`TextError::NoTokenForByte`] where
    /// the vocabulary cannot write the text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        if options.add_special && self.add_bos {
            ids.extend(self.bos);
        }
        self.append(text, options.parse_special, &mut ids)?;
        if options.add_special && self.add_eos {
            ids.extend(self.eos);
        }
        Ok(ids)
    }

    /// Appends the ids of a text that begins anew: at the beginning of all, or after a special token.
    pub(super) fn append(&self, text: &str, parse_special: bool, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TextTooLong { bytes: text.len(), max: TEXT_BYTES_MAX });
        }
        let mut merger = Merger::default();
        let mut begins = true;
        self.specials.cut(&self.vocabulary, text, parse_special, |part| {
            match (part.token, &self.model) {
                (Some(id), _) => ids.push(id),
                (None, Model::ByteLevel(model)) => model.encode(&self.vocabulary, &mut merger, part.text, ids)?,
                (None, Model::SentencePiece(model)) => {
                    model.encode(&self.vocabulary, &mut merger, (part.text, begins), ids)?;
                }
            }
            begins = part.token.is_some();
            Ok(())
        })
    }

    /// The parts of a text at its control tokens, with user-defined tokens left in the text.
    pub(super) fn cut_at_control<'a>(&self, text: &'a str) -> Vec<Part<'a>> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        for part in self.specials.parts(&self.vocabulary, text, true) {
            let is_control = part.token.is_some_and(|id| self.is_control(id));
            match parts.last_mut().filter(|last| last.token.is_none() && !is_control) {
                Some(last) => last.text = &text[last.start..part.start + part.text.len()],
                None => parts.push(Part { token: part.token.filter(|_| is_control), ..part }),
            }
        }
        parts
    }

    /// The text of these tokens, control tokens spelled out; what is not UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.piece(*id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that one token stands for: perhaps a part of a character. Control tokens are spelled out; an id outside
    /// the vocabulary stands for nothing.
    #[must_use]
    pub fn piece(&self, id: u32) -> Vec<u8> {
        let text = self.vocabulary.text(id);
        match (self.vocabulary.kind(id), &self.model) {
            (Some(Kind::Byte), _) => byte_token(text).into_iter().collect(),
            (Some(Kind::Normal | Kind::Unused), Model::SentencePiece(_)) => match std::str::from_utf8(text) {
                Ok(text) => text.replace(SPACE, " ").into_bytes(),
                Err(_) => text.to_vec(),
            },
            _ => text.to_vec(),
        }
    }

    /// The token that begins a text.
    #[must_use]
    pub const fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    #[must_use]
    pub const fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether the model's texts begin with BOS.
    #[must_use]
    pub const fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// The token for what the vocabulary cannot write.
    #[must_use]
    pub const fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The token that fills batches up.
    #[must_use]
    pub const fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Every token that ends a turn, a message or a document, in ascending order: generation stops at each.
    #[must_use]
    pub fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    /// Whether a token is a control token: never shown, and never made from a user's text.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), Some(Kind::Control | Kind::Unknown))
    }

    /// How many tokens there are.
    #[must_use]
    pub const fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// How many merges there are; none in a `SentencePiece` vocabulary.
    #[must_use]
    pub const fn merges(&self) -> usize {
        match &self.model {
            Model::ByteLevel(model) => model.merges(),
            Model::SentencePiece(_) => 0,
        }
    }

    /// Heap bytes of the vocabulary and merges, counted.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let model = match &self.model {
            Model::ByteLevel(model) => model.heap_bytes(),
            Model::SentencePiece(model) => model.heap_bytes(),
        };
        self.vocabulary.heap_bytes() + model
    }

    /// The texts of all control tokens.
    pub(super) fn control_texts(&self) -> impl Iterator<Item = &str> {
        let control = self.vocabulary.iter().filter(|(id, ..)| self.is_control(*id));
        control.filter_map(|(_, _, text)| std::str::from_utf8(text).ok()).filter(|text| !text.is_empty())
    }
}

/// EOS, end of turn, end of message, and whatever is named like one of them.
fn ends(metadata: &Metadata, vocabulary: &Vocabulary, eos: Option<u32>) -> Result<Vec<u32>, TextError> {
    let named = |name: &str| vocabulary.find(name.as_bytes(), |kind| kind == Kind::Control);
    let mut ends: Vec<u32> = END_NAMES.iter().filter_map(|name| named(name)).collect();
    // Where messages are ended by <|return|> and <|call|>, <|end|> only parts them.
    let parts_messages = named("<|call|>").and(named("<|return|>")).or(named("<|calls|>").and(named("<|flush|>")));
    if parts_messages.is_some() {
        ends.retain(|id| Some(*id) != named("<|end|>"));
    }
    ends.extend(eos);
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        ends.extend(vocabulary.special(metadata, key)?);
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// Phi-3's special tokens take the whitespace after them; no metadata says so, only the model's name.
fn strips_after_special(metadata: &Metadata) -> Result<bool, TextError> {
    let name = metadata.text("general.name")?.unwrap_or_default().to_lowercase();
    Ok(name.contains("phi-3") || name.contains("phi3"))
}
