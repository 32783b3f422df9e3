//! A model as data: which units each step multiplies with, and the constants between them.
//!
//! An architecture is a [`Family`] (a value, in `arch/`); [`Spec::build`] lays it over a model's metadata and tensors.
//! Owns the meaning of tensor names. Must never know where a unit lives or how it is computed.

use gguf::{GgufError, Metadata};
use plan::{Inventory, UnitId};
use tiers::RowSlice;

use crate::arch::{Activation, Family, FfnNorm, family};
use crate::claims::Claims;
use crate::rope::Rope;
use crate::{EngineError, rope};

/// A vector (norm weight or bias) with its length.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) slice: RowSlice,
    pub(crate) start: usize,
    pub(crate) length: usize,
}

/// `y = W x (+ b)`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: RowSlice,
    pub(crate) bias: Option<Vector>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// One layer's attention.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) norm: Vector,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) q_norm: Option<Vector>,
    pub(crate) k_norm: Option<Vector>,
    pub(crate) output: Linear,
    pub(crate) post_norm: Option<Vector>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) k_dim: usize,
    pub(crate) v_dim: usize,
    /// Which of [`Spec::ropes`].
    pub(crate) rope: usize,
    pub(crate) window: Option<u32>,
    pub(crate) scale: f32,
    pub(crate) softcap: Option<f32>,
}

/// One layer's gated feed-forward network.
#[derive(Clone, Debug)]
pub(crate) struct Ffn {
    pub(crate) norm: Vector,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
    pub(crate) post_norm: Option<Vector>,
}

/// One layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) attention: Attention,
    pub(crate) ffn: Ffn,
}

/// A model, ready to be run.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) width: usize,
    pub(crate) vocabulary: usize,
    pub(crate) embedding: UnitId,
    pub(crate) embedding_scale: f32,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vector,
    pub(crate) output: Linear,
    pub(crate) logit_softcap: Option<f32>,
    pub(crate) norm_eps: f32,
    pub(crate) ropes: Vec<Rope>,
}

impl Spec {
    /// Lays the model's family over its metadata and tensors. `context` is the session's capacity, on which some
    /// rope scalings depend.
    ///
    /// # Errors
    /// Where the architecture is unknown, metadata is missing or impossible, or tensors differ from what the
    /// architecture has.
    pub(crate) fn build(metadata: &Metadata, inventory: &Inventory, context: u32) -> Result<Self, EngineError> {
        let family = family(metadata.architecture()?)?;
        let sizes = Sizes::read(metadata, inventory)?;
        let mut claims = Claims::new(inventory);
        let ropes = rope::read(metadata, family, &sizes, &mut claims, context)?;
        let (width, vocabulary) = (sizes.width, sizes.vocabulary);
        let embedding = claims.matrix("token_embd", width, vocabulary, false);
        let layers = (0..sizes.layers).map(|i| layer(family, &sizes, &mut claims, i)).collect();
        let output_norm = claims.vector("output_norm.weight", width);
        let output = if claims.has("output.weight") {
            claims.matrix("output", width, vocabulary, false)
        } else {
            embedding.clone()
        };
        claims.finish(metadata.architecture()?)?;
        Ok(Self {
            width,
            vocabulary,
            embedding: embedding.weight.unit,
            embedding_scale: if family.embedding_scaled { (width as f32).sqrt() } else { 1.0 },
            layers,
            output_norm,
            output,
            logit_softcap: metadata.float(".final_logit_softcapping")?.map(|cap| cap as f32).filter(|cap| *cap > 0.0),
            norm_eps: metadata.require_float(".attention.layer_norm_rms_epsilon")? as f32,
            ropes,
        })
    }

    /// Every slice in the order in which one pass uses it.
    pub(crate) fn order(&self) -> Vec<RowSlice> {
        let mut order = Vec::new();
        for Layer { attention: a, ffn: f } in &self.layers {
            vector(&mut order, Some(&a.norm));
            for (projection, norm) in [(&a.q, &a.q_norm), (&a.k, &a.k_norm), (&a.v, &None)] {
                linear(&mut order, projection);
                vector(&mut order, norm.as_ref());
            }
            linear(&mut order, &a.output);
            vector(&mut order, a.post_norm.as_ref());
            vector(&mut order, Some(&f.norm));
            for projection in [&f.gate, &f.up, &f.down] {
                linear(&mut order, projection);
            }
            vector(&mut order, f.post_norm.as_ref());
        }
        vector(&mut order, Some(&self.output_norm));
        linear(&mut order, &self.output);
        order
    }

    /// The longest vector that is used.
    pub(crate) fn longest_vector(&self) -> usize {
        let inner = self.layers.iter().flat_map(|l| [&l.attention.q, &l.attention.k, &l.attention.v, &l.ffn.up]);
        inner.map(|linear| linear.outputs).chain([self.width]).max().unwrap_or(self.width)
    }
}

fn vector(order: &mut Vec<RowSlice>, vector: Option<&Vector>) {
    order.extend(vector.map(|v| v.slice.clone()));
}

fn linear(order: &mut Vec<RowSlice>, linear: &Linear) {
    order.push(linear.weight.clone());
    vector(order, linear.bias.as_ref());
}

/// Numbers of the metadata that more than one place needs.
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
}

impl Sizes {
    fn read(metadata: &Metadata, inventory: &Inventory) -> Result<Self, EngineError> {
        let missing = |key: &str| GgufError::missing_key(&metadata.full_key(key));
        let shape = &inventory.shape;
        let layers = shape.layers as usize;
        let heads = metadata.per_layer(".attention.head_count", layers)?;
        let heads = heads.ok_or_else(|| missing(".attention.head_count"))?;
        let kv_heads = metadata.per_layer(".attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
        let feed_forward = metadata.per_layer(".feed_forward_length", layers)?;
        let width = shape.embedding as usize;
        let even = width / heads.iter().copied().max().unwrap_or(1).max(1) as usize;
        let k_dim = metadata.unsigned(".attention.key_length")?.map_or(even, |n| n as usize);
        let sizes = Self {
            layers,
            width,
            vocabulary: shape.vocabulary as usize,
            k_dim,
            v_dim: metadata.unsigned(".attention.value_length")?.map_or(even, |n| n as usize),
            feed_forward: feed_forward.ok_or_else(|| missing(".feed_forward_length"))?,
            window: metadata.unsigned(".attention.sliding_window")?.filter(|n| *n > 0).map(whole),
            attention_scale: metadata.float(".attention.scale")?.map(|x| x as f32).filter(|x| *x > 0.0),
            attention_softcap: metadata.float(".attn_logit_softcapping")?.map(|x| x as f32).filter(|x| *x > 0.0),
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
            let kept = (kv_heads * self.k_dim as u64, kv_heads * self.v_dim as u64);
            let planned = inventory.shape.kv_per_token[i];
            if self.k_dim == 0 || self.v_dim == 0 || kept != (planned.0.into(), planned.1.into()) {
                let expected = format!("plain attention that keeps {kept:?} numbers a token in layer {i}");
                return wrong(".attention", expected, format!("keys by which it keeps {planned:?}"));
            }
        }
        Ok(())
    }
}

/// A number of tokens. Beyond 32 bits none is counted apart.
fn whole(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn layer(family: &Family, sizes: &Sizes, claims: &mut Claims, index: usize) -> Layer {
    Layer { attention: attention(family, sizes, claims, index), ffn: ffn(family, sizes, claims, index) }
}

fn attention(family: &Family, sizes: &Sizes, claims: &mut Claims, index: usize) -> Attention {
    let name = |part: &str| format!("blk.{index}.{part}");
    let (heads, kv_heads) = (sizes.heads[index] as usize, sizes.kv_heads[index] as usize);
    let widths = [heads * sizes.k_dim, kv_heads * sizes.k_dim, kv_heads * sizes.v_dim];
    let fused = name("attn_qkv");
    let [q, k, v] = if claims.has(&format!("{fused}.weight")) {
        claims.fused(&fused, sizes.width, widths)
    } else {
        let parts = [name("attn_q"), name("attn_k"), name("attn_v")];
        std::array::from_fn(|i| claims.matrix(&parts[i], sizes.width, widths[i], true))
    };
    let windowed = sizes.window.is_some() && !family.global_layer(index);
    Attention {
        norm: claims.vector(&name("attn_norm.weight"), sizes.width),
        q,
        k,
        v,
        q_norm: claims.optional(&name("attn_q_norm.weight"), sizes.k_dim),
        k_norm: claims.optional(&name("attn_k_norm.weight"), sizes.k_dim),
        output: claims.matrix(&name("attn_output"), heads * sizes.v_dim, sizes.width, true),
        post_norm: match family.ffn_norm {
            FfnNorm::Own => claims.optional(&name("post_attention_norm.weight"), sizes.width),
            FfnNorm::PostAttention => None,
        },
        heads,
        kv_heads,
        k_dim: sizes.k_dim,
        v_dim: sizes.v_dim,
        rope: usize::from(windowed),
        window: sizes.window.filter(|_| windowed),
        scale: sizes.attention_scale.unwrap_or_else(|| family.attention_scale(sizes, index)),
        softcap: sizes.attention_softcap,
    }
}

fn ffn(family: &Family, sizes: &Sizes, claims: &mut Claims, index: usize) -> Ffn {
    let name = |part: &str| format!("blk.{index}.{part}");
    let inner = sizes.feed_forward[index] as usize;
    let [gate, up] = if claims.has(&name("ffn_gate.weight")) {
        let parts = [name("ffn_gate"), name("ffn_up")];
        std::array::from_fn(|i| claims.matrix(&parts[i], sizes.width, inner, true))
    } else {
        claims.fused(&name("ffn_up"), sizes.width, [inner, inner])
    };
    let norm = match family.ffn_norm {
        FfnNorm::Own => name("ffn_norm.weight"),
        FfnNorm::PostAttention => name("post_attention_norm.weight"),
    };
    Ffn {
        norm: claims.vector(&norm, sizes.width),
        gate,
        up,
        down: claims.matrix(&name("ffn_down"), inner, sizes.width, true),
        activation: family.activation,
        post_norm: claims.optional(&name("post_ffw_norm.weight"), sizes.width),
    }
}
