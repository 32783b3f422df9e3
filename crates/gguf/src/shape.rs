//! The model's sizes from its metadata, each in a range that later arithmetic can trust.
//!
//! Owns the keys that size a model; those of attention's caches are in [`crate::kv`], those of experts in
//! [`crate::experts`]. Must never know how an architecture computes.

use plan::{ModelShape, Tensor};

use crate::{GgufError, Metadata, Value, delta, experts, kv};

pub(crate) const LAYERS_MAX: u64 = 1024;
pub(crate) const WIDTH_MAX: u64 = 1 << 24;
pub(crate) const HEADS_MAX: u64 = 1 << 16;
pub(crate) const EXPERTS_MAX: u64 = 4096;
const CONTEXT_MAX: u64 = 1 << 30;
const VOCABULARY_MAX: u64 = 1 << 26;

/// A model's sizes with those that only the inventory's making needs.
pub(crate) struct Sizes {
    /// What planning needs.
    pub(crate) shape: ModelShape,
    /// All layers, those that predict further tokens too.
    pub(crate) blocks: u32,
    /// Routed experts by layer; empty in a dense model.
    pub(crate) experts: Vec<u64>,
}

/// Reads the sizes. A file without tensors (a vocabulary alone) need not have any.
pub(crate) fn sizes(metadata: &Metadata, tensors: &[Tensor]) -> Result<Sizes, GgufError> {
    refuse_other_files(metadata)?;
    let architecture = metadata.architecture()?.to_owned();
    if architecture.is_empty() {
        return Err(GgufError::wrong_value("general.architecture", "a name".into(), "an empty string".into()));
    }
    finite(metadata, &architecture)?;
    if tensors.is_empty() {
        return Ok(vocabulary_alone(metadata, architecture));
    }

    let encoder = required(metadata, ".block_count", 1..=LAYERS_MAX)?;
    // T5 counts the layers of its encoder and of its decoder apart.
    let blocks = encoder.max(optional(metadata, ".decoder_block_count", 0..=LAYERS_MAX)?.unwrap_or(0));
    let ahead = optional(metadata, ".nextn_predict_layers", 0..=blocks - 1)?.unwrap_or(0);
    let layers = blocks - ahead;
    let embedding = required(metadata, ".embedding_length", 1..=WIDTH_MAX)?;
    let context_train = required(metadata, ".context_length", 1..=CONTEXT_MAX)?;

    let choice = experts::choice(metadata, blocks)?;
    experts::check(metadata, &choice, layers, tensors)?;
    let heads = kv::heads(metadata, blocks, tensors)?;
    let mut cache = kv::cache(metadata, blocks, embedding, &heads)?;
    cache.per_token.truncate(layers as usize);
    let shape = ModelShape {
        layers: layers as u32,
        embedding: embedding as u32,
        heads: heads.iter().copied().max().unwrap_or(0) as u32,
        feed_forward: feed_forward(metadata, blocks)? as u32,
        vocabulary: vocabulary(metadata, tensors)? as u32,
        context_train: context_train as u32,
        kv_per_token: cache.per_token,
        kv_row: cache.row,
        latent: cache.latent,
        indexer_per_token: kv::indexers(metadata, layers, tensors)?,
        delta: delta::sizes(metadata, blocks, layers, &heads)?,
        experts: choice.most() as u32,
        experts_used: choice.used as u32,
        architecture,
    };
    Ok(Sizes { shape, blocks: blocks as u32, experts: choice.experts })
}

/// GGUF files also hold adapters, vision projectors and statistics; each is refused by what it is.
fn refuse_other_files(metadata: &Metadata) -> Result<(), GgufError> {
    let found = match metadata.text("general.type")? {
        Some("adapter") => "a LoRA adapter",
        Some("mmproj") => "a vision or audio projector",
        Some("imatrix") => "an importance matrix",
        Some("controlvector") => "a control vector",
        _ if metadata.text("general.architecture")? == Some("clip") => "a vision or audio projector",
        _ => return Ok(()),
    };
    Err(GgufError::NotAModel { found: found.to_owned() })
}

/// Infinite and undefined hyperparameters would spread silently through every logit.
fn finite(metadata: &Metadata, architecture: &str) -> Result<(), GgufError> {
    let own = format!("{architecture}.");
    for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with(&own)) {
        let bad = match value {
            Value::Float(x) => (!x.is_finite()).then_some(*x),
            Value::Floats(list) => list.iter().find(|x| !x.is_finite()).map(|x| f64::from(*x)),
            _ => None,
        };
        if let Some(bad) = bad {
            return Err(GgufError::wrong_value(key, "finite numbers".into(), bad.to_string()));
        }
    }
    for key in [".rope.freq_base", ".attention.layer_norm_rms_epsilon", ".attention.layer_norm_epsilon"] {
        if let Some(found) = metadata.float(key)?.filter(|x| *x < 0.0 || (*x == 0.0 && key == ".rope.freq_base")) {
            return Err(GgufError::wrong_value(&metadata.full_key(key), "a positive number".into(), found.to_string()));
        }
    }
    Ok(())
}

fn vocabulary_alone(metadata: &Metadata, architecture: String) -> Sizes {
    let size = |key: &str| metadata.unsigned(key).ok().flatten().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let shape = ModelShape {
        architecture,
        layers: 0,
        embedding: size(".embedding_length"),
        heads: 0,
        feed_forward: 0,
        vocabulary: metadata.strings("tokenizer.ggml.tokens").ok().flatten().map_or(0, |tokens| tokens.len() as u32),
        context_train: size(".context_length"),
        kv_per_token: Vec::new(),
        kv_row: (0, 0),
        latent: None,
        indexer_per_token: Vec::new(),
        delta: None,
        experts: 0,
        experts_used: 0,
    };
    Sizes { shape, blocks: 0, experts: Vec::new() }
}

/// A number that must be there and in range.
pub(crate) fn required(metadata: &Metadata, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, GgufError> {
    optional(metadata, key, range)?.ok_or_else(|| GgufError::missing_key(&metadata.full_key(key)))
}

/// A number in range, where it is there.
pub(crate) fn optional(
    metadata: &Metadata,
    key: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, GgufError> {
    match metadata.unsigned(key)? {
        Some(found) if !range.contains(&found) => Err(GgufError::wrong_value(
            &metadata.full_key(key),
            format!("{} to {}", range.start(), range.end()),
            found.to_string(),
        )),
        found => Ok(found),
    }
}

/// A number for each layer, each at most `most`.
pub(crate) fn per_block(metadata: &Metadata, key: &str, blocks: u64, most: u64) -> Result<Option<Vec<u64>>, GgufError> {
    let Some(list) = metadata.per_layer(key, blocks as usize)? else { return Ok(None) };
    match list.iter().find(|n| **n > most) {
        None => Ok(Some(list)),
        Some(found) => {
            Err(GgufError::wrong_value(&metadata.full_key(key), format!("at most {most}"), found.to_string()))
        }
    }
}

/// The widest inner width of a dense layer or of the shared experts, which run as one.
fn feed_forward(metadata: &Metadata, blocks: u64) -> Result<u64, GgufError> {
    let widest = |key: &str| per_block(metadata, key, blocks, WIDTH_MAX).map(|list| list.into_iter().flatten().max());
    let dense = widest(".feed_forward_length")?.unwrap_or(0);
    let expert = widest(".expert_feed_forward_length")?.unwrap_or(0);
    let shared_count = optional(metadata, ".expert_shared_count", 0..=EXPERTS_MAX)?.unwrap_or(0);
    let shared = widest(".expert_shared_feed_forward_length")?.unwrap_or(0);
    Ok(dense.max(shared).max((expert * shared_count).min(WIDTH_MAX)))
}

/// Tokens in the vocabulary: rows of the embedding table, which the token list must match.
fn vocabulary(metadata: &Metadata, tensors: &[Tensor]) -> Result<u64, GgufError> {
    let listed = metadata.strings("tokenizer.ggml.tokens")?.map(|tokens| tokens.len() as u64);
    let table = tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let tokens = match (table, listed) {
        (Some(table), Some(listed)) if table.rows() != listed => {
            return Err(GgufError::TensorMismatch {
                tensor: table.name.clone(),
                expected: format!("{listed} rows, one for each token of tokenizer.ggml.tokens"),
                found: format!("{} rows", table.rows()),
            });
        }
        (Some(table), _) => table.rows(),
        (None, Some(listed)) => listed,
        (None, None) => optional(metadata, ".vocab_size", 0..=VOCABULARY_MAX)?.unwrap_or(0),
    };
    if tokens <= VOCABULARY_MAX {
        return Ok(tokens);
    }
    Err(GgufError::Limit { what: "tokens in the vocabulary".into(), found: tokens, limit: VOCABULARY_MAX })
}
