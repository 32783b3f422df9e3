//! The indexer of sparse attention as data (`DeepSeek` V3.2's lightning indexer, <https://arxiv.org/abs/2512.02556>, section 2.1).
//!
//! It has heads of its own, made from the narrow vector that queries are made from, and one key for each position. By them
//! each token ranks the positions before it, and attends to the best alone. Layers without an indexer take the choice of the
//! last layer that has one.

use gguf::{GgufError, Metadata, Value};
use kernels::cpu::{RopeStyle, SELECT_DIM, SelectShape};

use super::sizes::LatentSizes;
use super::{Linear, Vector};
use crate::arch::Family;
use crate::claims::Claims;

/// The most heads that make sense, far from where sizes overflow.
const HEADS_MAX: u64 = 1 << 16;

/// Where a layer's choice of positions comes from.
#[derive(Clone, Debug)]
pub(crate) enum Indexing {
    Own(Box<Indexer>),
    /// From the last layer that has its own.
    Shared,
}

/// The indexer of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Indexer {
    /// Makes all heads from the narrow vector of queries.
    pub(crate) q: Linear,
    /// Makes a position's key from the layer's input.
    pub(crate) k: Linear,
    /// The key's norm, which takes the mean off.
    pub(crate) k_norm: Vector,
    pub(crate) k_norm_bias: Vector,
    /// How much each head counts for a token.
    pub(crate) weights: Linear,
    pub(crate) shape: SelectShape,
    /// How the first numbers of a head are paired for their turns.
    pub(crate) style: RopeStyle,
}

/// What an architecture's indexers are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexerRules {
    pub(crate) style: RopeStyle,
    /// Models trained for so much context or more share choices in a fixed pattern, where the file does not say which
    /// layers do.
    pub(crate) shared_from: Option<u64>,
}

/// Sizes of a model's indexers.
#[derive(Debug)]
pub(crate) struct IndexerSizes {
    shape: SelectShape,
    style: RopeStyle,
    /// Which layers have their own.
    own: Vec<bool>,
}

impl IndexerSizes {
    /// The indexers of a family that has them.
    ///
    /// # Errors
    /// Where sizes are missing or impossible.
    pub(super) fn read(
        metadata: &Metadata,
        family: &Family,
        latent: Option<LatentSizes>,
        layers: usize,
    ) -> Result<Option<Self>, GgufError> {
        let Some(rules) = family.indexer else { return Ok(None) };
        let size = |key: &str, least: u64, most: u64| {
            let found = metadata.require_unsigned(key)?;
            if (least..=most).contains(&found) {
                return Ok(found as usize);
            }
            let expected = format!("{least} to {most}");
            Err(GgufError::wrong_value(&metadata.full_key(key), expected, found.to_string()))
        };
        let Some(latent) = latent.filter(|latent| latent.query_rank.is_some()) else {
            let key = if latent.is_some() { ".attention.q_lora_rank" } else { ".attention.kv_lora_rank" };
            return Err(GgufError::missing_key(&metadata.full_key(key)));
        };
        let shape = SelectShape {
            heads: size(".attention.indexer.head_count", 1, HEADS_MAX)?,
            dim: size(".attention.indexer.key_length", latent.rotated as u64, SELECT_DIM as u64)?,
            top_k: size(".attention.indexer.top_k", 1, u32::MAX.into())?,
        };
        Ok(Some(Self { shape, style: rules.style, own: own_layers(metadata, rules, layers)? }))
    }
}

/// Which layers have an indexer of their own.
fn own_layers(metadata: &Metadata, rules: IndexerRules, layers: usize) -> Result<Vec<bool>, GgufError> {
    const KEY: &str = ".attention.indexer.types";
    let own: Vec<bool> = match metadata.get(KEY) {
        Some(Value::Bools(list)) => list.clone(),
        Some(Value::Integers(list)) => list.iter().map(|kind| *kind != 0).collect(),
        Some(other) => {
            return Err(GgufError::wrong_type(&metadata.full_key(KEY), "an array of booleans", other.kind()));
        }
        None => {
            let trained = metadata.unsigned(".context_length")?.unwrap_or(0);
            let shares = rules.shared_from.is_some_and(|from| trained >= from);
            (0..layers).map(|layer| !shares || owns(layer)).collect()
        }
    };
    // Layers that predict further tokens may be listed behind those that are run.
    if own.len() < layers || own.first() != Some(&true) {
        let expected = format!("one for each of {layers} layers, the first with its own");
        return Err(GgufError::wrong_value(&metadata.full_key(KEY), expected, format!("{} of them", own.len())));
    }
    Ok(own)
}

/// Whether this layer has its own indexer where the file does not say: the first two, and then each fourth (GLM-5.2).
const fn owns(layer: usize) -> bool {
    layer < 2 || layer % 4 == 2
}

impl Indexing {
    pub(super) fn build(sizes: &IndexerSizes, width: usize, narrow: usize, claims: &mut Claims, index: usize) -> Self {
        if !sizes.own[index] {
            return Self::Shared;
        }
        let name = |part: &str| format!("blk.{index}.indexer.{part}");
        let SelectShape { heads, dim, .. } = sizes.shape;
        Self::Own(Box::new(Indexer {
            q: claims.matrix(&name("attn_q_b"), narrow, heads * dim, false),
            k: claims.matrix(&name("attn_k"), width, dim, false),
            k_norm: claims.vector(&name("k_norm.weight"), dim),
            k_norm_bias: claims.vector(&name("k_norm.bias"), dim),
            weights: claims.matrix(&name("proj"), width, heads, false),
            shape: sizes.shape,
            style: sizes.style,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_shared_by_three_layers_after_the_first() {
        let own: Vec<usize> = (0..16).filter(|layer| owns(*layer)).collect();
        assert_eq!(own, [0, 1, 2, 6, 10, 14]);
    }
}
