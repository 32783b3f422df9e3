//! The architectures, each a short file that says what sets it apart from a plain pre-norm decoder.

mod gemma3;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;
mod seed_oss;

use kernels::cpu::RopeStyle;

use crate::EngineError;
use crate::spec::Sizes;

/// How the feed-forward gate is activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// The tanh form of GELU (<https://arxiv.org/abs/1606.08415>, section 2).
    GeluTanh,
}

/// What the norm before the feed-forward network is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FfnNorm {
    /// `ffn_norm`; a `post_attention_norm` then follows attention's output.
    Own,
    /// `post_attention_norm`.
    PostAttention,
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
    /// With a sliding window, every n-th layer sees everything; 0: no layer does.
    pub(crate) global_every: usize,
    /// Layers of the one size whose attention scale is that of the model's width, not of its heads.
    pub(crate) wide_scale_layers: Option<usize>,
}

/// A pre-norm decoder with rotary attention and a SiLU-gated network.
pub(crate) const PLAIN: Family = Family {
    names: &[],
    rope: RopeStyle::Half,
    activation: Activation::Silu,
    ffn_norm: FfnNorm::Own,
    embedding_scaled: false,
    global_every: 0,
    wide_scale_layers: None,
};

const FAMILIES: [&Family; 6] =
    [&llama::LLAMA, &qwen2::QWEN2, &qwen3::QWEN3, &gemma3::GEMMA3, &phi3::PHI3, &seed_oss::SEED_OSS];

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
    /// Whether this layer sees the whole context where the model has a sliding window.
    pub(crate) fn global_layer(&self, index: usize) -> bool {
        self.global_every != 0 && (index + 1).is_multiple_of(self.global_every)
    }

    /// What scores are multiplied with: 1/√(head width), or 1/√(model width / heads).
    pub(crate) fn attention_scale(&self, sizes: &Sizes, index: usize) -> f32 {
        let width = match self.wide_scale_layers {
            Some(layers) if layers == sizes.layers => sizes.width as f32 / sizes.heads[index] as f32,
            _ => sizes.k_dim as f32,
        };
        1.0 / width.sqrt()
    }
}
