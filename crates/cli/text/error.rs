//! What can be wrong with a vocabulary, a text or a chat template.

use gguf::GgufError;

/// One thing that is wrong with a vocabulary, a text or a chat template, with where, why and a way out.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A metadata key is missing, or its value has the wrong type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// `tokenizer.ggml.model` names an algorithm that is not built in.
    #[error(
        "tokenizer.ggml.model is {found:?}, which this program cannot tokenize (known: {known})\n\nhint: a model of the same family with one of these tokenizers will do, or feed token ids"
    )]
    UnknownModel {
        /// The name in the file.
        found: String,
        /// The names that are known.
        known: String,
    },
    /// `tokenizer.ggml.pre` names a way of splitting text that is not built in.
    #[error(
        "tokenizer.ggml.pre is {found:?}, a way of splitting text that this program does not know\n\nhint: guessing would cost quality without a word; known are {known}"
    )]
    UnknownPre {
        /// The name in the file.
        found: String,
        /// The names that are known.
        known: String,
    },
    /// The vocabulary holds no token, or more than fit token ids.
    #[error(
        "the vocabulary holds {tokens} tokens; between 1 and {max} can be used\n\nhint: the file was cut or converted wrongly; get it again"
    )]
    Size {
        /// How many tokens the file gives.
        tokens: usize,
        /// The most that can be used.
        max: usize,
    },
    /// Two arrays that describe the same tokens differ in length.
    #[error(
        "{key} describes {found} tokens, but the vocabulary holds {expected}\n\nhint: the file was cut or converted wrongly; get it again"
    )]
    WrongLength {
        /// The array's key.
        key: &'static str,
        /// The vocabulary's length.
        expected: usize,
        /// The array's length.
        found: usize,
    },
    /// Two tokens have the same text.
    #[error(
        "tokens {first} and {second} are both {text:?}\n\nhint: the file was converted wrongly; get another conversion"
    )]
    DuplicateToken {
        /// Their text, made printable.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A token that stands for one byte does not say which.
    #[error(
        "token {id} is typed as a byte, but its text {text:?} is not <0x00> to <0xFF>\n\nhint: the file was converted wrongly; get another conversion"
    )]
    BadByteToken {
        /// The token.
        id: u32,
        /// Its text, made printable.
        text: String,
    },
    /// A token's type is none of GGUF's.
    #[error(
        "token {id} has type {found}; types are 1 to 6\n\nhint: the file was converted wrongly; get another conversion"
    )]
    BadTokenType {
        /// The token.
        id: u32,
        /// Its type.
        found: i64,
    },
    /// A score is not a number.
    #[error(
        "token {id} has a score that is not a number\n\nhint: the file was converted wrongly; get another conversion"
    )]
    BadScore {
        /// The token.
        id: u32,
    },
    /// A merge is not two tokens of the vocabulary, or what it makes is none.
    #[error("merge {line} ({text:?}): {why}\n\nhint: the file was cut or converted wrongly; get it again")]
    BadMerge {
        /// The merge's place in `tokenizer.ggml.merges`.
        line: usize,
        /// Its text, made printable.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A special token's id lies outside the vocabulary.
    #[error(
        "{key} is {id}, but the vocabulary holds {tokens} tokens\n\nhint: the file was converted wrongly; get another conversion"
    )]
    IdOutOfRange {
        /// The key that holds the id.
        key: &'static str,
        /// The id.
        id: u64,
        /// The vocabulary's length.
        tokens: usize,
    },
    /// A byte of the text can be written with no token.
    #[error(
        "the text holds the byte 0x{byte:02X}, for which the vocabulary has neither a token nor an unknown token\n\nhint: remove that character, or get another conversion of the model"
    )]
    NoTokenForByte {
        /// The byte.
        byte: u8,
    },
    /// The text is longer than one call takes.
    #[error(
        "the text is {bytes} bytes long; at most {max} are taken at once\n\nhint: no context holds that much; split the text"
    )]
    TextTooLong {
        /// Its bytes.
        bytes: usize,
        /// The most that is taken.
        max: usize,
    },
    /// A stretch of text without a place to cut is longer than can be merged within bounded memory.
    #[error(
        "the text holds a stretch of over {max} bytes without a space or other place to cut it\n\nhint: is this a binary file or encoded data? Break it into lines"
    )]
    WordTooLong {
        /// The longest stretch that is taken.
        max: usize,
    },
    /// The model brings no chat template.
    #[error(
        "the model brings no chat template{named}\n\nhint: `plimsoll run --raw` completes plain text; or take a conversion of the model that keeps tokenizer.chat_template"
    )]
    NoTemplate {
        /// ` named "…"`, where one was asked for by name, and which there are.
        named: String,
    },
    /// The chat template is longer than any sensible one.
    #[error(
        "the chat template is {bytes} bytes long; at most {max} are taken\n\nhint: no real template is that long; mistrust this file"
    )]
    TemplateTooLong {
        /// Its bytes.
        bytes: usize,
        /// The most that is taken.
        max: usize,
    },
    /// The chat template does not parse, or failed on these messages.
    #[error(
        "the chat template failed: {message}\n\nhint: the template comes with the model; `plimsoll run --raw` completes plain text without it"
    )]
    TemplateFailed {
        /// What the template engine said, with the line.
        message: String,
    },
    /// The template itself refuses these messages.
    #[error(
        "the chat template refuses these messages: {message}\n\nhint: the template decides which roles may follow each other"
    )]
    TemplateRefused {
        /// The template's own words.
        message: String,
    },
    /// The template ran past one of its limits.
    #[error(
        "the chat template ran past its limit of {limit}\n\nhint: a template that needs more is broken or hostile; mistrust this file"
    )]
    TemplateLimit {
        /// The limit, in words.
        limit: String,
    },
    /// A thread to render the template on could not be started.
    #[error("cannot start a thread for the chat template: {source}")]
    Thread {
        /// What the system said.
        source: std::io::Error,
    },
}

/// Bytes of the file made printable and short, for messages.
pub(super) fn printable(bytes: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 60;
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}
