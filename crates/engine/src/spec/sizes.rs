//! Numbers of the metadata that more than one step needs, checked against each other and against the plan's.

use gguf::{GgufError, Metadata};
use kernels::cpu::{Gate, Routing};
use plan::{Inventory, Tensor};

use super::indexer::IndexerSizes;
use crate::arch::Family;
use crate::{EngineError, rope};

/// Sizes of a model.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) vocabulary: usize,
    pub(crate) heads: Vec<u64>,
    pub(crate) kv_heads: Vec<u64>,
    pub(crate) feed_forward: Vec<u64>,
    pub(crate) k_dim: usize,
    pub(crate) v_dim: usize,
    pub(crate) window: Option<u32>,
    pub(crate) attention_scale: Option<f32>,
    pub(crate) attention_softcap: Option<f32>,
    pub(crate) latent: Option<LatentSizes>,
    pub(crate) indexer: Option<IndexerSizes>,
    pub(crate) experts: Option<ExpertSizes>,
    /// What `YaRN` multiplies scores with, where it is not rotated numbers that it grows.
    pub(crate) yarn_score_factor: f32,
}

/// Sizes of latent attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatentSizes {
    /// Numbers that stand for all heads' keys and values of a token.
    pub(crate) rank: usize,
    /// Numbers of a head's query and key that rotate.
    pub(crate) rotated: usize,
    /// Those that do not.
    pub(crate) plain: usize,
    /// Numbers of a head's value.
    pub(crate) value: usize,
    /// Numbers that queries are made from, where there is such a step.
    pub(crate) query_rank: Option<usize>,
}

/// Sizes and rules of mixtures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpertSizes {
    pub(crate) routing: Routing,
    /// Inner width of one expert.
    pub(crate) inner: usize,
    /// Inner width of the shared experts together.
    pub(crate) shared: usize,
}

impl Sizes {
    pub(crate) fn read(metadata: &Metadata, inventory: &Inventory, family: &Family) -> Result<Self, EngineError> {
        let missing = |key: &str| GgufError::missing_key(&metadata.full_key(key));
        let shape = &inventory.shape;
        let layers = shape.layers as usize;
        let heads = metadata.per_layer(".attention.head_count", layers)?;
        let heads = heads.ok_or_else(|| missing(".attention.head_count"))?;
        let kv_heads = metadata.per_layer(".attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
        let experts = if shape.experts > 0 { Some(ExpertSizes::read(metadata, inventory, family)?) } else { None };
        // A model of mixtures alone need not say how wide a dense layer would be.
        let feed_forward = match metadata.per_layer(".feed_forward_length", layers)? {
            Some(list) => list,
            None if experts.is_some() => vec![0; layers],
            None => return Err(missing(".feed_forward_length").into()),
        };
        let width = shape.embedding as usize;
        let even = width / heads.iter().copied().max().unwrap_or(1).max(1) as usize;
        let size = |key: &str| Ok::<_, GgufError>(metadata.unsigned(key)?.map(|n| n as usize));
        let positive = |key: &str| Ok::<_, GgufError>(metadata.float(key)?.map(|x| x as f32).filter(|x| *x > 0.0));
        // Llama 4's kin without chunks turn in every layer, which no file at hand could show.
        if family.chunk(0).is_some() && metadata.unsigned(".attention.sliding_window")? == Some(0) {
            let key = metadata.full_key(".attention.sliding_window");
            return Err(GgufError::wrong_value(
                &key,
                "chunks (models without them are not supported)".into(),
                "0".into(),
            )
            .into());
        }
        let latent = LatentSizes::read(metadata)?;
        let sizes = Self {
            layers,
            width,
            vocabulary: shape.vocabulary as usize,
            k_dim: size(".attention.key_length")?.unwrap_or(even),
            v_dim: size(".attention.value_length")?.unwrap_or(even),
            feed_forward,
            window: metadata.unsigned(".attention.sliding_window")?.filter(|n| *n > 0).map(whole),
            attention_scale: positive(".attention.scale")?,
            attention_softcap: positive(".attn_logit_softcapping")?,
            latent,
            indexer: IndexerSizes::read(metadata, family, latent, layers)?,
            experts,
            yarn_score_factor: rope::yarn_score_factor(metadata)?,
            heads,
            kv_heads,
        };
        sizes.check(metadata, inventory)?;
        Ok(sizes)
    }

    /// Heads that share out evenly, of a width, and a cache that is what the plan counts.
    fn check(&self, metadata: &Metadata, inventory: &Inventory) -> Result<(), GgufError> {
        let wrong = |key: &str, expected: String, found: String| {
            Err(GgufError::wrong_value(&metadata.full_key(key), expected, found))
        };
        for (i, (heads, kv_heads)) in self.heads.iter().zip(&self.kv_heads).enumerate() {
            if *heads == 0 || *kv_heads == 0 || !heads.is_multiple_of(*kv_heads) {
                let found = format!("{kv_heads} for {heads} query heads in layer {i}");
                return wrong(".attention.head_count_kv", "KV heads that divide the query heads".into(), found);
            }
            let kept = match &self.latent {
                Some(latent) => ((latent.rank + latent.rotated) as u64, 0),
                None => (kv_heads * self.k_dim as u64, kv_heads * self.v_dim as u64),
            };
            let planned = inventory.shape.kv_per_token[i];
            if self.k_dim == 0 || self.v_dim == 0 || kept != (planned.0.into(), planned.1.into()) {
                let expected = format!("attention that keeps {kept:?} numbers a token in layer {i}");
                return wrong(".attention", expected, format!("keys by which it keeps {planned:?}"));
            }
        }
        Ok(())
    }
}

impl LatentSizes {
    /// Latent attention's keys: newer files give the sizes of a head as `*_mla`, older ones as those of plain heads.
    fn read(metadata: &Metadata) -> Result<Option<Self>, GgufError> {
        const ROTATED: &str = ".rope.dimension_count";
        let Some(rank) = metadata.unsigned(".attention.kv_lora_rank")?.filter(|n| *n > 0) else { return Ok(None) };
        let either = |new: &str, old: &str| match metadata.unsigned(new)? {
            Some(length) => Ok::<u64, GgufError>(length),
            None => metadata.unsigned(old)?.ok_or_else(|| GgufError::missing_key(&metadata.full_key(new))),
        };
        let key = either(".attention.key_length_mla", ".attention.key_length")?;
        let value = either(".attention.value_length_mla", ".attention.value_length")?;
        let rotated = metadata.unsigned(ROTATED)?;
        let rotated = rotated.ok_or_else(|| GgufError::missing_key(&metadata.full_key(ROTATED)))?;
        if rotated == 0 || rotated >= key || value == 0 {
            let expected = format!("1 to {}, less than a head's key", key.saturating_sub(1));
            return Err(GgufError::wrong_value(&metadata.full_key(ROTATED), expected, rotated.to_string()));
        }
        Ok(Some(Self {
            rank: rank as usize,
            rotated: rotated as usize,
            plain: (key - rotated) as usize,
            value: value as usize,
            query_rank: metadata.unsigned(".attention.q_lora_rank")?.filter(|n| *n > 0).map(|n| n as usize),
        }))
    }
}

impl ExpertSizes {
    fn read(metadata: &Metadata, inventory: &Inventory, family: &Family) -> Result<Self, GgufError> {
        let shape = &inventory.shape;
        let (experts, used) = (shape.experts as usize, shape.experts_used as usize);
        let own = metadata.per_layer(".expert_feed_forward_length", shape.layers as usize)?;
        let own = own.into_iter().flatten().map(|n| n as usize).max().filter(|n| *n > 0);
        // The first mixtures had no length of their own, and files err about shared experts: matrices tell.
        let inputs = |parts: [&str; 2]| {
            let has = |tensor: &&Tensor| parts.iter().any(|part| tensor.name.ends_with(part));
            inventory.tensors.iter().find(has).map_or(0, |tensor| tensor.row_elements() as usize)
        };
        let inner = own.unwrap_or_else(|| inputs([".ffn_down_exps.weight", ".ffn_down.0.weight"]));
        let shared = inputs([".ffn_down_shexp.weight"; 2]);
        let groups = |key: &str| Ok::<_, GgufError>(metadata.unsigned(key)?.unwrap_or(0).max(1) as usize);
        let (count, chosen) = (groups(".expert_group_count")?, groups(".expert_group_used_count")?);
        let wrong = |key: &str, expected: String, found: usize| {
            Err(GgufError::wrong_value(&metadata.full_key(key), expected, found.to_string()))
        };
        if !experts.is_multiple_of(count) {
            return wrong(".expert_group_count", format!("a divisor of the {experts} experts"), count);
        }
        if chosen > count || experts / count * chosen < used {
            let expected = format!("groups, of {count}, that hold the {used} experts of a token");
            return wrong(".expert_group_used_count", expected, chosen);
        }
        let gate = match metadata.unsigned(".expert_gating_func")? {
            None | Some(0) => family.mixtures.gate,
            Some(1) => Gate::Softmax,
            Some(2) => Gate::Sigmoid,
            Some(3) => Gate::SoftmaxOfChosen,
            Some(other) => return wrong(".expert_gating_func", "1 to 3".to_owned(), other as usize),
        };
        let scale = metadata.float(".expert_weights_scale")?.map_or(1.0, |x| x as f32);
        let routing = Routing {
            experts,
            used,
            gate,
            groups: count,
            groups_used: chosen,
            // DeepSeek-V2 ranks a group by its best expert, V3 by its best two.
            group_best: if gate == Gate::Sigmoid { 2.min(experts / count) } else { 1 },
            normalize: metadata.boolean(".expert_weights_norm")?.unwrap_or(family.mixtures.weights_normalized),
            scale: if scale == 0.0 { 1.0 } else { scale },
        };
        Ok(Self { routing, inner, shared })
    }
}

/// A number of tokens. Beyond 32 bits none is counted apart.
fn whole(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
