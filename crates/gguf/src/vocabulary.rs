//! Checks of the vocabulary that need no tokenizer, so that whoever builds one can index without fear.

use plan::{Bytes, VocabularySize};

use crate::{GgufError, Metadata, Strings, Value};

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// The type of a token that stands for one byte: `<0x0A>`.
const BYTE: i64 = 6;

/// Checks the token list and all that refers to it; sizes it for planning.
pub(crate) fn check(metadata: &Metadata) -> Result<VocabularySize, GgufError> {
    let none = Strings::default();
    let tokens = metadata.strings(TOKENS)?;
    let merges = metadata.strings(MERGES)?;
    if let Some(tokens) = tokens {
        if tokens.is_empty() {
            return Err(GgufError::wrong_value(TOKENS, "a token or more".into(), "none".into()));
        }
        as_long(TYPES, metadata.integers(TYPES)?.map(<[i64]>::len), tokens.len())?;
        as_long(SCORES, metadata.floats(SCORES)?.map(<[f32]>::len), tokens.len())?;
        byte_tokens(tokens, metadata.integers(TYPES)?.unwrap_or_default())?;
        special_ids(metadata, tokens.len() as u64)?;
        if metadata.text("tokenizer.ggml.model")? == Some("gpt2") && merges.is_none() {
            return Err(GgufError::missing_key(MERGES));
        }
    }
    if let Some(bad) = metadata.floats(SCORES)?.unwrap_or_default().iter().find(|score| score.is_nan()) {
        return Err(GgufError::wrong_value(SCORES, "numbers".into(), bad.to_string()));
    }
    let merges = merges.unwrap_or(&none);
    if let Some((rank, bad)) = merges.iter().enumerate().find(|(_, rule)| !is_pair(rule)) {
        let found = format!("rule {rank}, {:?}", String::from_utf8_lossy(bad));
        return Err(GgufError::wrong_value(MERGES, "two parts with a space between".into(), found));
    }
    let tokens = tokens.unwrap_or(&none);
    Ok(VocabularySize {
        tokens: tokens.len() as u64,
        merges: merges.len() as u64,
        text_bytes: Bytes((tokens.total_bytes() + merges.total_bytes() + other_text(metadata)) as u64),
    })
}

/// Bytes of strings and arrays beside tokens and merges: chat templates, licences, whatever a file brings along. They
/// are held while the model is opened, and a ceiling of RAM counts them.
fn other_text(metadata: &Metadata) -> usize {
    let others = metadata.iter().filter(|(key, _)| *key != TOKENS && *key != MERGES);
    others
        .map(|(_, value)| match value {
            Value::Text(text) => text.len(),
            Value::Strings(strings) => strings.total_bytes(),
            Value::Integers(list) => list.len() * size_of::<i64>(),
            Value::Floats(list) => list.len() * size_of::<f32>(),
            Value::Bools(list) => list.len(),
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Bool(_) => 0,
        })
        .sum()
}

fn as_long(key: &str, found: Option<usize>, tokens: usize) -> Result<(), GgufError> {
    match found {
        Some(found) if found != tokens => {
            Err(GgufError::wrong_value(key, format!("one for each of {tokens} tokens"), found.to_string()))
        }
        _ => Ok(()),
    }
}

/// A merge rule is two texts, each of a byte or more, and a space between; the first may itself start with a space.
fn is_pair(rule: &[u8]) -> bool {
    rule.len() >= 3 && rule[1..rule.len() - 1].contains(&b' ')
}

/// A byte token is written `<0x0A>`, or is the byte itself.
fn byte_tokens(tokens: &Strings, types: &[i64]) -> Result<(), GgufError> {
    let is_byte = |text: &[u8]| match text {
        [b'<', b'0', b'x', high, low, b'>'] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => text.len() == 1,
    };
    let bad = types.iter().zip(tokens.iter()).enumerate().find(|(_, (kind, text))| **kind == BYTE && !is_byte(text));
    match bad {
        None => Ok(()),
        Some((id, (_, text))) => {
            let found = format!("token {id}, {:?}", String::from_utf8_lossy(text));
            Err(GgufError::wrong_value(TOKENS, "byte tokens such as <0x0A>".into(), found))
        }
    }
}

/// Checks every `tokenizer.ggml.…_token_id`, and lists of them.
fn special_ids(metadata: &Metadata, tokens: u64) -> Result<(), GgufError> {
    let names_ids = |key: &str| key.starts_with("tokenizer.ggml.") && key.contains("_token_id");
    for (key, value) in metadata.iter().filter(|(key, _)| names_ids(key)) {
        let outside = match value {
            Value::Integers(list) => list.iter().copied().find(|id| u64::try_from(*id).map_or(true, |id| id >= tokens)),
            // Some converters write -1 for a token that the model lacks. Generation cannot start or end without these.
            _ if !key.ends_with("bos_token_id") && !key.ends_with("eos_token_id") && is_none(value) => None,
            _ => match metadata.unsigned(key)? {
                Some(id) if id >= tokens => Some(id.min(i64::MAX as u64).cast_signed()),
                _ => None,
            },
        };
        if let Some(id) = outside {
            return Err(GgufError::wrong_value(key, format!("an id below {tokens}"), id.to_string()));
        }
    }
    Ok(())
}

fn is_none(value: &Value) -> bool {
    matches!(value, Value::Signed(-1)) || *value == Value::Unsigned(u32::MAX.into())
}
