//! Seed-OSS: biases on q, k and v; the norm before the feed-forward network is called `post_attention_norm`.

use super::{Family, FfnNorm, PLAIN};

pub(crate) const SEED_OSS: Family = Family { names: &["seed_oss"], ffn_norm: FfnNorm::PostAttention, ..PLAIN };
