//! One layer's attention as data.

use kernels::cpu::AttentionShape;

use super::{Delta, Latent, Linear, Sizes, Vector};
use crate::arch::{Family, FfnNorm, HeadNorms};
use crate::claims::Claims;

/// One layer's attention: what makes queries, keys and values, and what all kinds have.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) norm: Vector,
    pub(crate) kind: Kind,
    pub(crate) output: Linear,
    pub(crate) post_norm: Option<Vector>,
    /// Query heads.
    pub(crate) heads: usize,
    /// Which of the model's ropes turns queries and keys; none in layers without positions.
    pub(crate) rope: Option<usize>,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
}

/// How keys and values are made and kept.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Heads of keys and values, perhaps fewer than queries.
    Heads(Heads),
    /// One latent vector for all heads.
    Latent(Latent),
    /// A state of fixed size.
    Delta(Box<Delta>),
}

/// Attention with heads of keys and values.
#[derive(Clone, Debug)]
#[allow(clippy::struct_field_names)] // `kv_heads` is what everybody calls them.
pub(crate) struct Heads {
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    /// Whether each head's query is followed by the gate of its output.
    pub(crate) gated: bool,
    pub(crate) q_norm: HeadNorm,
    pub(crate) k_norm: HeadNorm,
    /// Whether queries and keys are normed after they were turned.
    pub(crate) norm_last: bool,
    pub(crate) kv_heads: usize,
    pub(crate) k_dim: usize,
    pub(crate) v_dim: usize,
    /// A score for each head that takes part in its softmax and carries no value.
    pub(crate) sinks: Option<Vector>,
    pub(crate) window: Option<u32>,
    pub(crate) chunk: Option<u32>,
    pub(crate) softcap: Option<f32>,
    /// Grows queries with their position.
    pub(crate) temperature: Option<Temperature>,
}

impl Heads {
    /// Its sizes in the kernels' words.
    pub(crate) fn shape(&self, a: &Attention) -> AttentionShape {
        AttentionShape {
            heads: a.heads,
            kv_heads: self.kv_heads,
            dim_k: self.k_dim,
            dim_v: self.v_dim,
            scale: a.scale,
            window: self.window,
            softcap: self.softcap,
        }
    }
}

/// A norm over queries or keys: each head by itself, or all heads of a token where its weight is as long.
#[derive(Clone, Debug)]
pub(crate) enum HeadNorm {
    None,
    Weighted(Vector),
    /// Without weights, over heads of the layer's width.
    Plain,
}

/// Queries are multiplied by `1 + scale · ln(1 + ⌊(position + 1) / floor⌋)` (Llama 4, "scalable softmax",
/// <https://arxiv.org/abs/2501.19399>).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Temperature {
    pub(crate) floor: f32,
    pub(crate) scale: f32,
}

impl Attention {
    pub(super) fn build(family: &Family, sizes: &Sizes, claims: &mut Claims, index: usize) -> Self {
        let name = |part: &str| format!("blk.{index}.{part}");
        let heads = sizes.heads[index] as usize;
        let norm = claims.vector(&name("attn_norm.weight"), sizes.width);
        let (kind, inputs) = match (sizes.delta_at(index), sizes.latent) {
            (Some(delta), _) => {
                let kind = Kind::Delta(Box::new(Delta::build(family, delta, sizes.width, claims, index)));
                (kind, (delta.heads * delta.value) as usize)
            }
            (None, Some(latent)) => {
                (Kind::Latent(Latent::build(latent, sizes, heads, claims, index)), heads * latent.value)
            }
            (None, None) => (Kind::Heads(Heads::build(family, sizes, claims, index)), heads * sizes.v_dim),
        };
        let output = match kind {
            Kind::Delta(_) => Delta::output(claims, index, inputs, sizes.width),
            _ => claims.matrix(&name("attn_output"), inputs, sizes.width, true),
        };
        let local = sizes.window.is_some() && !family.global_layer(index);
        Self {
            norm,
            kind,
            output,
            post_norm: match family.ffn_norm {
                FfnNorm::Own => claims.optional(&name("post_attention_norm.weight"), sizes.width),
                FfnNorm::PostAttention => None,
            },
            heads,
            rope: (family.turns(index)).then_some(usize::from(local)),
            scale: sizes.attention_scale.unwrap_or_else(|| family.attention_scale(sizes, index)),
        }
    }
}

impl Heads {
    fn build(family: &Family, sizes: &Sizes, claims: &mut Claims, index: usize) -> Self {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (heads, kv_heads) = (sizes.heads[index] as usize, sizes.kv_heads[index] as usize);
        let gates = if family.gated_heads { heads * sizes.k_dim } else { 0 };
        let widths = [heads * sizes.k_dim + gates, kv_heads * sizes.k_dim, kv_heads * sizes.v_dim];
        let fused = name("attn_qkv");
        let [q, k, v] = if claims.has(&format!("{fused}.weight")) {
            claims.fused(&fused, sizes.width, widths)
        } else {
            let parts = [name("attn_q"), name("attn_k"), name("attn_v")];
            std::array::from_fn(|i| claims.matrix(&parts[i], sizes.width, widths[i], true))
        };
        let local = !family.global_layer(index);
        let mut norm = |part: &str, heads: usize| {
            let name = name(part);
            let lengths = [sizes.k_dim, heads * sizes.k_dim];
            match claims.one_of(&name, lengths) {
                Some(vector) => HeadNorm::Weighted(vector),
                None if family.plain_head_norms(sizes, index) => HeadNorm::Plain,
                None => HeadNorm::None,
            }
        };
        Self {
            q,
            k,
            v,
            gated: family.gated_heads,
            q_norm: norm("attn_q_norm.weight", heads),
            k_norm: norm("attn_k_norm.weight", kv_heads),
            norm_last: family.head_norms != HeadNorms::First,
            kv_heads,
            k_dim: sizes.k_dim,
            v_dim: sizes.v_dim,
            sinks: claims.optional(&name("attn_sinks.weight"), heads),
            window: sizes.window.filter(|_| local),
            chunk: family.chunk(index),
            softcap: sizes.attention_softcap,
            temperature: family.temperature(index),
        }
    }

    /// The matrices that read the layer's input, in the order of their use.
    pub(crate) const fn inputs(&self) -> [&Linear; 3] {
        [&self.q, &self.k, &self.v]
    }
}
