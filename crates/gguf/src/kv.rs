//! What attention keeps of each token: the sizes of the caches.
//!
//! Owns the keys of heads, of latents (MLA) and of indexers. Must never know how attention computes.

use plan::{Latent, Tensor};

use crate::shape::{HEADS_MAX, LAYERS_MAX, WIDTH_MAX, optional, per_block, required};
use crate::{GgufError, Metadata, Value};

/// Query heads of each layer. Only a model without attention may have none.
pub(crate) fn heads(metadata: &Metadata, blocks: u64, tensors: &[Tensor]) -> Result<Vec<u64>, GgufError> {
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

/// Which layers keep a state of fixed size instead of keys and values.
pub(crate) fn recurrent(metadata: &Metadata, blocks: u64) -> Result<Vec<bool>, GgufError> {
    const LIST: &str = ".attention.recurrent_layers";
    match metadata.get(LIST) {
        Some(Value::Bools(list)) if list.len() == blocks as usize => return Ok(list.clone()),
        Some(Value::Bools(list)) => {
            let expected = format!("one boolean for each of {blocks} layers");
            return Err(GgufError::wrong_value(&metadata.full_key(LIST), expected, format!("{} of them", list.len())));
        }
        Some(_) => {
            let expected = "a list of booleans, one for each layer".to_owned();
            return Err(GgufError::wrong_value(&metadata.full_key(LIST), expected, "another type".to_owned()));
        }
        None => {}
    }
    // Every n-th layer attends, counted from 1. The first files of these models did not say that it is the fourth.
    let hybrid = matches!(metadata.architecture()?, "qwen3next" | "qwen35" | "qwen35moe");
    let usual = if hybrid { 4 } else { 1 };
    let every = optional(metadata, ".full_attention_interval", 1..=LAYERS_MAX)?.unwrap_or(usual);
    Ok((1..=blocks).map(|number| number % every != 0).collect())
}

/// For K and for V, numbers.
type Kv = (u32, u32);

/// What attention keeps, and how wide it is.
pub(crate) struct Cache {
    /// The numbers that one token adds to each layer's K and V cache.
    pub(crate) per_token: Vec<Kv>,
    /// Those of one row there.
    pub(crate) row: Kv,
    /// The widths of latents, where layers keep them.
    pub(crate) latent: Option<Latent>,
}

/// The sizes of the caches of all layers.
///
/// Plain attention keeps `head_count_kv × key_length` and `head_count_kv × value_length`. MLA keeps one latent of
/// `kv_lora_rank` and the rotated part, in K (DeepSeek-V2, arXiv 2405.04434, section 2.1).
pub(crate) fn cache(metadata: &Metadata, blocks: u64, embedding: u64, heads: &[u64]) -> Result<Cache, GgufError> {
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
    let latent = latent(metadata, kv_heads.iter().any(|heads| *heads > 0), value_length)?;
    let recurrent = recurrent(metadata, blocks)?;

    let each = kv_heads.iter().zip(recurrent).map(|(kv_heads, recurrent)| match (kv_heads * key_length, latent) {
        (0, _) => (0, 0),
        _ if recurrent => (0, 0),
        (keys, None) => (keys, kv_heads * value_length),
        (_, Some((latent, rotated))) => (u64::from(latent.rank) + rotated, 0),
    });
    let each = each.map(|(k, v)| {
        u32::try_from(k).and_then(|k| Ok((k, u32::try_from(v)?))).map_err(|_| {
            let key = metadata.full_key(".attention.key_length");
            GgufError::wrong_value(&key, "heads below 2^32 numbers together".into(), k.max(v).to_string())
        })
    });
    let per_token: Vec<Kv> = each.collect::<Result<_, _>>()?;
    let latent_row = per_token.iter().find(|(k, v)| *k > 0 && *v == 0).copied();
    let row = latent_row.unwrap_or((key_length as u32, value_length as u32));
    Ok(Cache { per_token, row, latent: latent.map(|(latent, _)| latent) })
}

/// The widths of a model with multi-head latent attention, and how many numbers rotate.
///
/// Today's files give the latent with its rotated key as `key_length`, and the heads' own as `key_length_mla`; older files
/// give the heads' own as `key_length`. Either way a head has more numbers than those that rotate. Values are named
/// alike; `value_length` is what the file says without `_mla`, or what its heads would have.
fn latent(metadata: &Metadata, attends: bool, value_length: u64) -> Result<Option<(Latent, u64)>, GgufError> {
    const KEY: &str = ".attention.key_length";
    const KEY_MLA: &str = ".attention.key_length_mla";
    let rank = optional(metadata, ".attention.kv_lora_rank", 0..=WIDTH_MAX)?.unwrap_or(0);
    if rank == 0 || !attends {
        return Ok(None);
    }
    let rotated = required(metadata, ".rope.dimension_count", 1..=WIDTH_MAX)?;
    let key = required(metadata, KEY, 1..=WIDTH_MAX)?;
    let wrong = |key: &str, expected: String, found: u64| {
        Err(GgufError::wrong_value(&metadata.full_key(key), expected, found.to_string()))
    };
    let more = format!("more than the {rotated} numbers that rotate (rope.dimension_count)");
    let own_key = optional(metadata, KEY_MLA, 1..=WIDTH_MAX)?;
    match own_key {
        Some(own) if own <= rotated => wrong(KEY_MLA, more, own),
        Some(_) if key != rank + rotated => {
            wrong(KEY, format!("{} (kv_lora_rank {rank} + rope.dimension_count {rotated})", rank + rotated), key)
        }
        None if key <= rotated => wrong(KEY, more, key),
        _ => {
            let value = optional(metadata, ".attention.value_length_mla", 1..=WIDTH_MAX)?.unwrap_or(value_length);
            let (rank, key, value) = (rank as u32, own_key.unwrap_or(key) as u32, value as u32);
            Ok(Some((Latent { rank, key, value }, rotated)))
        }
    }
}

/// The numbers that each layer's indexer keeps of a token (DeepSeek-V3.2's lightning indexer has one key of
/// `indexer.key_length`); empty where no layer has one.
pub(crate) fn indexers(metadata: &Metadata, layers: u64, tensors: &[Tensor]) -> Result<Vec<u32>, GgufError> {
    let layer_of = |name: &str| -> Option<usize> {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        matches!(rest, "indexer.attn_k.weight" | "indexer.k_proj.weight").then(|| layer.parse().ok())?
    };
    let mut keys = Vec::new();
    for layer in tensors.iter().filter_map(|tensor| layer_of(&tensor.name)).filter(|layer| (*layer as u64) < layers) {
        keys.resize(layers as usize, 0);
        keys[layer] = required(metadata, ".attention.indexer.key_length", 1..=WIDTH_MAX)? as u32;
    }
    Ok(keys)
}
