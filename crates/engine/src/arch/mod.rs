//! The architectures, each a short file that says what sets it apart from a plain pre-norm decoder.

mod deepseek2;
mod deepseek32;
mod dots1;
mod ernie4_5;
mod gemma3;
mod glm4;
mod glm_dsa;
mod gpt_oss;
mod hunyuan;
mod kimi;
mod llama;
mod llama4;
mod minimax;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_next;
mod seed_oss;

use kernels::cpu::{Gate, HeadOrder, RopeStyle};

use crate::EngineError;
use crate::spec::{IndexerRules, Sizes, Temperature};

/// How the feed-forward gate is activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// The tanh form of GELU (<https://arxiv.org/abs/1606.08415>, section 2).
    GeluTanh,
    /// x · sigmoid(1.702 x) times one more than the other half, both within bounds (gpt-oss).
    SwigluClamped,
}

/// When the heads of queries and keys are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadNorms {
    /// Before they are turned, where the file has weights for it.
    First,
    /// After.
    Last,
    /// After, without weights, in layers that turn; not in a model of so many experts.
    PlainWhereTurned {
        /// The model that has no such norm.
        unless_experts: usize,
    },
}

/// What the norm before the feed-forward network is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FfnNorm {
    /// `ffn_norm`; a `post_attention_norm` then follows attention's output.
    Own,
    /// `post_attention_norm`.
    PostAttention,
}

/// Which layers see less than the whole context, and what else that changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Locality {
    /// All layers alike: with a window where the file names one.
    Uniform,
    /// Layers have the file's window, but for every n-th.
    Windows {
        /// The n.
        global_every: usize,
        /// Whether layers with a window have a rope of their own.
        own_rope: bool,
    },
    /// Layers see the chunk that they are in, but for every n-th, which knows no positions.
    Chunks {
        /// The n.
        global_every: usize,
        /// Tokens of a chunk.
        length: u32,
        /// How queries grow in layers that know no positions.
        temperature: Temperature,
    },
}

/// What files of mixtures leave unsaid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MixtureRules {
    /// What a router makes of its scores where the file does not say.
    pub(crate) gate: Gate,
    /// Whether the weights of a token's experts add up to 1 where the file does not say.
    pub(crate) weights_normalized: bool,
    /// Whether an expert's input is weighed instead of its output.
    pub(crate) weighs_input: bool,
}

/// What sets an architecture apart. Biases, q/k norms, post-norms, fused matrices and tied outputs need no word here:
/// they are used where the file has them.
#[derive(Debug)]
pub(crate) struct Family {
    /// GGUF's names for it.
    pub(crate) names: &'static [&'static str],
    pub(crate) rope: RopeStyle,
    pub(crate) activation: Activation,
    pub(crate) ffn_norm: FfnNorm,
    /// Whether token vectors are multiplied by the square root of their width.
    pub(crate) embedding_scaled: bool,
    pub(crate) locality: Locality,
    pub(crate) head_norms: HeadNorms,
    /// Layers of the one size whose attention scale is that of the model's width, not of its heads.
    pub(crate) wide_scale_layers: Option<usize>,
    pub(crate) mixtures: MixtureRules,
    /// Where attention is sparse, what chooses positions.
    pub(crate) indexer: Option<IndexerRules>,
    /// Whether rows for queries are followed, head by head, by as many for the gates of their outputs.
    pub(crate) gated_heads: bool,
    /// How the heads of delta nets stand.
    pub(crate) head_order: HeadOrder,
    /// Whether attention turns queries and keys at all.
    pub(crate) knows_positions: bool,
}

/// A pre-norm decoder with rotary attention and a SiLU-gated network.
pub(crate) const PLAIN: Family = Family {
    names: &[],
    rope: RopeStyle::Half,
    activation: Activation::Silu,
    ffn_norm: FfnNorm::Own,
    embedding_scaled: false,
    locality: Locality::Uniform,
    head_norms: HeadNorms::First,
    wide_scale_layers: None,
    mixtures: MixtureRules { gate: Gate::Softmax, weights_normalized: true, weighs_input: false },
    indexer: None,
    gated_heads: false,
    head_order: HeadOrder::Grouped,
    knows_positions: true,
};

const FAMILIES: [&Family; 20] = [
    &llama::LLAMA,
    &qwen2::QWEN2,
    &qwen2::QWEN2_MOE,
    &qwen3::QWEN3,
    &gemma3::GEMMA3,
    &phi3::PHI3,
    &seed_oss::SEED_OSS,
    &deepseek2::DEEPSEEK2,
    &deepseek32::DEEPSEEK32,
    &glm_dsa::GLM_DSA,
    &glm4::GLM4_MOE,
    &gpt_oss::GPT_OSS,
    &minimax::MINIMAX_M2,
    &ernie4_5::ERNIE4_5_MOE,
    &llama4::LLAMA4,
    &dots1::DOTS1,
    &hunyuan::HUNYUAN_MOE,
    &qwen3_next::QWEN3_NEXT,
    &qwen3_next::QWEN3_5,
    &kimi::KIMI_LINEAR,
];

/// The family of this architecture name.
///
/// # Errors
/// [`EngineError::UnknownArchitecture`], naming those that are known.
pub(crate) fn family(name: &str) -> Result<&'static Family, EngineError> {
    FAMILIES.into_iter().find(|family| family.names.contains(&name)).ok_or_else(|| EngineError::UnknownArchitecture {
        name: name.to_owned(),
        known: FAMILIES.iter().flat_map(|family| family.names).copied().collect::<Vec<_>>().join(", "),
    })
}

impl Family {
    /// Whether this layer sees the whole context where others see a window or chunk.
    pub(crate) fn global_layer(&self, index: usize) -> bool {
        match self.locality {
            Locality::Uniform => false,
            Locality::Windows { global_every, .. } | Locality::Chunks { global_every, .. } => {
                (index + 1).is_multiple_of(global_every)
            }
        }
    }

    /// Whether this layer turns queries and keys by their position.
    pub(crate) fn turns(&self, index: usize) -> bool {
        self.knows_positions && !(matches!(self.locality, Locality::Chunks { .. }) && self.global_layer(index))
    }

    /// Tokens of this layer's chunks, where it sees no more.
    pub(crate) fn chunk(&self, index: usize) -> Option<u32> {
        match self.locality {
            Locality::Chunks { length, .. } if !self.global_layer(index) => Some(length),
            _ => None,
        }
    }

    /// How this layer's queries grow with their position, where they do.
    pub(crate) fn temperature(&self, index: usize) -> Option<Temperature> {
        match self.locality {
            Locality::Chunks { temperature, .. } if self.global_layer(index) => Some(temperature),
            _ => None,
        }
    }

    /// Whether layers with a window have a rope of their own.
    pub(crate) const fn local_rope(&self) -> bool {
        matches!(self.locality, Locality::Windows { own_rope: true, .. })
    }

    /// Whether this layer norms queries and keys without weights.
    pub(crate) fn plain_head_norms(&self, sizes: &Sizes, index: usize) -> bool {
        match self.head_norms {
            HeadNorms::PlainWhereTurned { unless_experts } => {
                self.turns(index) && sizes.experts.as_ref().is_none_or(|e| e.most() != unless_experts)
            }
            HeadNorms::First | HeadNorms::Last => false,
        }
    }

    /// What scores are multiplied with: 1/√(head width), or 1/√(model width / heads).
    pub(crate) fn attention_scale(&self, sizes: &Sizes, index: usize) -> f32 {
        let width = match (self.wide_scale_layers, sizes.latent) {
            (Some(layers), _) if layers == sizes.layers => sizes.width as f32 / sizes.heads[index] as f32,
            (_, Some(latent)) => (latent.plain + latent.rotated) as f32,
            _ => sizes.k_dim as f32,
        };
        sizes.yarn_score_factor / width.sqrt()
    }
}
