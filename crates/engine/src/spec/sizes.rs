//! Numbers of the metadata that more than one step needs, checked against each other and against the plan's.

use gguf::{GgufError, Metadata};
use kernels::cpu::{Gate, Routing};
use plan::{DeltaSizes, Inventory, ModelShape, Tensor};

use super::indexer::IndexerSizes;
use crate::arch::Family;
use crate::{EngineError, rope};

/// No matrix is wider: what sizes are multiplied to stays far below 64 bits.
const WIDTH_MAX: u64 = 1 << 24;

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
    /// Of layers that keep a state.
    pub(crate) delta: Option<DeltaSizes>,
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
#[derive(Clone, Debug)]
pub(crate) struct ExpertSizes {
    /// Those of a layer, but for its counts.
    routing: Routing,
    /// Experts by layer, and how many of them a token uses.
    counts: Vec<(usize, usize)>,
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
        let heads = per_layer(metadata, ".attention.head_count", shape)?;
        let heads = heads.ok_or_else(|| missing(".attention.head_count"))?;
        let kv_heads = per_layer(metadata, ".attention.head_count_kv", shape)?.unwrap_or_else(|| heads.clone());
        let experts = if shape.experts > 0 { Some(ExpertSizes::read(metadata, inventory, family)?) } else { None };
        // A model of mixtures alone need not say how wide a dense layer would be.
        let feed_forward = match per_layer(metadata, ".feed_forward_length", shape)? {
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
        // No model has both; an indexer's choice could not be handed past a layer without attention.
        let indexer = IndexerSizes::read(metadata, family, latent, layers)?;
        if indexer.is_some() && shape.delta.is_some() {
            let key = metadata.full_key(".attention.indexer.top_k");
            return Err(GgufError::wrong_value(&key, "none beside delta nets".into(), "one".into()).into());
        }
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
            indexer,
            experts,
            delta: shape.delta.clone(),
            yarn_score_factor: rope::yarn_score_factor(metadata)?,
            heads,
            kv_heads,
        };
        sizes.check(metadata, inventory, family)?;
        Ok(sizes)
    }

    /// The delta net of this layer, where it has one instead of attention.
    pub(crate) fn delta_at(&self, index: usize) -> Option<&DeltaSizes> {
        self.delta.as_ref().filter(|delta| delta.layers[index])
    }

    /// Heads that share out evenly, of a width, and a cache that is what the plan counts.
    fn check(&self, metadata: &Metadata, inventory: &Inventory, family: &Family) -> Result<(), GgufError> {
        let wrong = |key: &str, expected: String, found: String| {
            Err(GgufError::wrong_value(&metadata.full_key(key), expected, found))
        };
        if family.gated_heads && self.k_dim != self.v_dim {
            return wrong(".attention.value_length", format!("{}, a gate's width", self.k_dim), self.v_dim.to_string());
        }
        let layers = self.heads.iter().zip(&self.kv_heads).enumerate();
        for (i, (heads, kv_heads)) in layers.filter(|(i, _)| self.delta_at(*i).is_none()) {
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
        let width = |key: &str| match metadata.unsigned(key)? {
            Some(found) if found > WIDTH_MAX => {
                let expected = format!("at most {WIDTH_MAX}");
                Err(GgufError::wrong_value(&metadata.full_key(key), expected, found.to_string()))
            }
            found => Ok(found),
        };
        let either = |new: &str, old: &str| match width(new)? {
            Some(length) => Ok::<u64, GgufError>(length),
            None => width(old)?.ok_or_else(|| GgufError::missing_key(&metadata.full_key(new))),
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
            query_rank: width(".attention.q_lora_rank")?.filter(|n| *n > 0).map(|n| n as usize),
        }))
    }
}

impl ExpertSizes {
    fn read(metadata: &Metadata, inventory: &Inventory, family: &Family) -> Result<Self, GgufError> {
        let shape = &inventory.shape;
        let list = |key: &str| Ok::<_, GgufError>(per_layer(metadata, key, shape)?.unwrap_or_default());
        let counts = list(".expert_count")?.into_iter().zip(list(".expert_used_count")?);
        let own = list(".expert_feed_forward_length")?.into_iter().map(|n| n as usize).max().filter(|n| *n > 0);
        // The first mixtures had no length of their own, and files err about shared experts: matrices tell.
        let inputs = |parts: [&str; 2]| {
            let has = |tensor: &&Tensor| parts.iter().any(|part| tensor.name.ends_with(part));
            inventory.tensors.iter().find(has).map_or(0, |tensor| tensor.row_elements() as usize)
        };
        let group = |key: &str| Ok::<_, GgufError>(metadata.unsigned(key)?.unwrap_or(0).max(1) as usize);
        let (groups, groups_used) = (group(".expert_group_count")?, group(".expert_group_used_count")?);
        let gate = match metadata.unsigned(".expert_gating_func")? {
            None | Some(0) => family.mixtures.gate,
            Some(1) => Gate::Softmax,
            Some(2) => Gate::Sigmoid,
            Some(3) => Gate::SoftmaxOfChosen,
            Some(other) => {
                let key = metadata.full_key(".expert_gating_func");
                return Err(GgufError::wrong_value(&key, "1 to 3".to_owned(), other.to_string()));
            }
        };
        let scale = metadata.float(".expert_weights_scale")?.map_or(1.0, |x| x as f32);
        let routing = Routing {
            experts: 0,
            used: 0,
            gate,
            groups,
            groups_used: if groups == 1 { 1 } else { groups_used },
            // DeepSeek-V2 ranks a group by its best expert, V3 by its best two.
            group_best: if gate == Gate::Sigmoid { 2 } else { 1 },
            normalize: metadata.boolean(".expert_weights_norm")?.unwrap_or(family.mixtures.weights_normalized),
            scale: if scale == 0.0 { 1.0 } else { scale },
        };
        Ok(Self {
            routing,
            counts: counts.map(|(experts, used)| (experts as usize, used as usize)).collect(),
            inner: own.unwrap_or_else(|| inputs([".ffn_down_exps.weight", ".ffn_down.0.weight"])),
            shared: inputs([".ffn_down_shexp.weight"; 2]),
        })
    }

    /// Experts in the layer that has most.
    pub(crate) fn most(&self) -> usize {
        self.counts.iter().map(|(experts, _)| *experts).max().unwrap_or(0)
    }

    /// Rules for a layer that is refused.
    pub(crate) fn any_routing(&self) -> Routing {
        Routing { experts: 1, used: 1, groups: 1, groups_used: 1, group_best: 1, ..self.routing }
    }

    /// The rules of one layer, or why it can have none.
    pub(crate) fn routing(&self, index: usize) -> Result<Routing, String> {
        let (experts, used) = self.counts.get(index).copied().unwrap_or((0, 0));
        let Routing { groups, groups_used, group_best, .. } = self.routing;
        let eligible = experts / groups * groups_used;
        if used == 0 || used > eligible || !experts.is_multiple_of(groups) {
            return Err(format!(
                "a token cannot choose {used} of {experts} experts, in {groups_used} of {groups} groups"
            ));
        }
        Ok(Routing { experts, used, group_best: group_best.min(experts / groups), ..self.routing })
    }
}

/// A number for each layer that is run. Files count layers that predict further tokens too.
fn per_layer(metadata: &Metadata, key: &str, shape: &ModelShape) -> Result<Option<Vec<u64>>, GgufError> {
    let layers = shape.layers as usize;
    let all = metadata.unsigned(".block_count")?.map_or(layers, |blocks| layers.max(blocks as usize));
    let mut list = metadata.per_layer(key, all)?;
    if let Some(list) = &mut list {
        list.truncate(layers);
    }
    Ok(list)
}

/// A number of tokens. Beyond 32 bits none is counted apart.
fn whole(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
