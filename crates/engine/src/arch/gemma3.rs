//! Gemma 3 (<https://arxiv.org/abs/2503.19786>): five layers with a sliding window to one that sees everything, two rope
//! bases, norms before and after each block, scaled embeddings. The 27B model (62 layers) scales attention by its width.

use super::{Activation, Family, Locality, PLAIN};

pub(crate) const GEMMA3: Family = Family {
    names: &["gemma3"],
    activation: Activation::GeluTanh,
    embedding_scaled: true,
    locality: Locality::Windows { global_every: 6, own_rope: true },
    wide_scale_layers: Some(62),
    ..PLAIN
};
