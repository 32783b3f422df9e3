//! The model's sizes from its metadata, each in a range that later arithmetic can trust.
//!
//! Owns the keys that size a model. Must never know how an architecture computes.

use plan::{ModelShape, Tensor};

use crate::{GgufError, Metadata, Value};

const LAYERS_MAX: u64 = 1024;
const WIDTH_MAX: u64 = 1 << 24;
const HEADS_MAX: u64 = 1 << 16;
const EXPERTS_MAX: u64 = 4096;
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

    let experts = per_block(metadata, ".expert_count", blocks, EXPERTS_MAX)?.unwrap_or_default();
    let experts_most = experts.iter().copied().max().unwrap_or(0);
    let used = per_block(metadata, ".expert_used_count", blocks, EXPERTS_MAX)?.unwrap_or_default();
    let used = used.into_iter().max().unwrap_or(0);
    if used > experts_most || (used == 0 && experts_most > 0) {
        let expected = format!("1 to {experts_most}, the number of experts");
        return Err(GgufError::wrong_value(&metadata.full_key(".expert_used_count"), expected, used.to_string()));
    }

    let heads = heads(metadata, blocks, tensors)?;
    let (mut kv_per_token, kv_row) = kv_cache(metadata, blocks, embedding, &heads)?;
    kv_per_token.truncate(layers as usize);
    let shape = ModelShape {
        layers: layers as u32,
        embedding: embedding as u32,
        heads: heads.iter().copied().max().unwrap_or(0) as u32,
        feed_forward: feed_forward(metadata, blocks)? as u32,
        vocabulary: vocabulary(metadata, tensors)? as u32,
        context_train: context_train as u32,
        kv_per_token,
        kv_row,
        experts: experts_most as u32,
        experts_used: used as u32,
        architecture,
    };
    Ok(Sizes { shape, blocks: blocks as u32, experts })
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
        experts: 0,
        experts_used: 0,
    };
    Sizes { shape, blocks: 0, experts: Vec::new() }
}

/// A number that must be there and in range.
fn required(metadata: &Metadata, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, GgufError> {
    optional(metadata, key, range)?.ok_or_else(|| GgufError::missing_key(&metadata.full_key(key)))
}

/// A number in range, where it is there.
fn optional(metadata: &Metadata, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, GgufError> {
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
fn per_block(metadata: &Metadata, key: &str, blocks: u64, most: u64) -> Result<Option<Vec<u64>>, GgufError> {
    let Some(list) = metadata.per_layer(key, blocks as usize)? else { return Ok(None) };
    match list.iter().find(|n| **n > most) {
        None => Ok(Some(list)),
        Some(found) => {
            Err(GgufError::wrong_value(&metadata.full_key(key), format!("at most {most}"), found.to_string()))
        }
    }
}

/// Query heads of each layer. Only a model without attention may have none.
fn heads(metadata: &Metadata, blocks: u64, tensors: &[Tensor]) -> Result<Vec<u64>, GgufError> {
    const KEY: &str = ".attention.head_count";
    let attends = tensors.iter().any(|t| t.name.contains(".attn_q.") || t.name.contains(".attn_qkv."));
    match per_block(metadata, KEY, blocks, HEADS_MAX)? {
        None if attends => Err(GgufError::missing_key(&metadata.full_key(KEY))),
        None => Ok(vec![0; blocks as usize]),
        Some(heads) if attends && heads.iter().all(|n| *n == 0) => {
            Err(GgufError::wrong_value(&metadata.full_key(KEY), "1 or more".into(), "0".into()))
        }
        Some(heads) => Ok(heads),
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

/// Which layers keep a state of fixed size instead of keys and values.
fn recurrent(metadata: &Metadata, blocks: u64) -> Result<Vec<bool>, GgufError> {
    const LIST: &str = ".attention.recurrent_layers";
    match metadata.get(LIST) {
        Some(Value::Bools(list)) if list.len() == blocks as usize => return Ok(list.clone()),
        Some(Value::Bools(list)) => {
            let expected = format!("one boolean for each of {blocks} layers");
            return Err(GgufError::wrong_value(&metadata.full_key(LIST), expected, format!("{} of them", list.len())));
        }
        _ => {}
    }
    // Every n-th layer attends, counted from 1.
    let every = optional(metadata, ".full_attention_interval", 1..=LAYERS_MAX)?.unwrap_or(1);
    Ok((1..=blocks).map(|number| number % every != 0).collect())
}

/// For K and for V, numbers.
type Kv = (u32, u32);

/// The numbers that one token adds to each layer's K and V cache, and those of one row there.
///
/// Plain attention keeps `head_count_kv × key_length` and `head_count_kv × value_length`. MLA keeps one latent of
/// `kv_lora_rank` and the rotated part, in K (DeepSeek-V2, arXiv 2405.04434, section 2.1).
fn kv_cache(metadata: &Metadata, blocks: u64, embedding: u64, heads: &[u64]) -> Result<(Vec<Kv>, Kv), GgufError> {
    const KV_HEADS: &str = ".attention.head_count_kv";
    let kv_heads = per_block(metadata, KV_HEADS, blocks, HEADS_MAX)?.unwrap_or_else(|| heads.to_vec());
    for (kv, all) in kv_heads.iter().zip(heads) {
        if *kv > 0 && !all.is_multiple_of(*kv) {
            let expected = format!("a divisor of the {all} query heads");
            return Err(GgufError::wrong_value(&metadata.full_key(KV_HEADS), expected, kv.to_string()));
        }
    }
    let most_heads = heads.iter().copied().max().unwrap_or(0).max(1);
    let width = |key: &str| {
        let own = optional(metadata, &format!(".attention.{key}"), 1..=WIDTH_MAX)?.unwrap_or(embedding / most_heads);
        // Layers with a window may have heads of another width. The wider counts for all: never too little.
        let window = optional(metadata, &format!(".attention.{key}_swa"), 1..=WIDTH_MAX)?.unwrap_or(0);
        Ok::<u64, GgufError>(own.max(window))
    };
    let (key_length, value_length) = (width("key_length")?, width("value_length")?);
    let latent = optional(metadata, ".attention.kv_lora_rank", 0..=WIDTH_MAX)?.unwrap_or(0);
    let rotated = optional(metadata, ".rope.dimension_count", 0..=WIDTH_MAX)?.unwrap_or(0);
    let recurrent = recurrent(metadata, blocks)?;

    let each = kv_heads.iter().zip(recurrent).map(|(kv_heads, recurrent)| match (kv_heads * key_length, latent) {
        (0, _) => (0, 0),
        _ if recurrent => (0, 0),
        (keys, 0) => (keys, kv_heads * value_length),
        // Files with `key_length_mla` give the latent with the rotated part as `key_length`; older ones do not.
        _ if metadata.get(".attention.key_length_mla").is_some() => (key_length, 0),
        _ => (latent + rotated, 0),
    });
    let each = each.map(|(k, v)| {
        u32::try_from(k).and_then(|k| Ok((k, u32::try_from(v)?))).map_err(|_| {
            let key = metadata.full_key(".attention.key_length");
            GgufError::wrong_value(&key, "heads below 2^32 numbers together".into(), k.max(v).to_string())
        })
    });
    let per_token: Vec<Kv> = each.collect::<Result<_, _>>()?;
    let latent_row = per_token.iter().find(|(k, v)| *k > 0 && *v == 0).copied();
    Ok((per_token, latent_row.unwrap_or((key_length as u32, value_length as u32))))
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
