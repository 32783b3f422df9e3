//! Rotary position embedding as data: the angle per position of each pair of numbers, with the scalings of long contexts.
//!
//! Sources: rotary embedding <https://arxiv.org/abs/2104.09864>; linear interpolation <https://arxiv.org/abs/2306.15595>; `YaRN`
//! <https://arxiv.org/abs/2309.00071>; `LongRoPE` <https://arxiv.org/abs/2402.13753>. Llama 3's scaling comes as a tensor of
//! divisors.

use gguf::{GgufError, Metadata};
use kernels::cpu::RopeStyle;

use crate::EngineError;
use crate::arch::Family;
use crate::claims::Claims;
use crate::spec::{Sizes, Vector};

/// One rotary embedding.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    pub(crate) style: RopeStyle,
    /// Numbers of each head that rotate.
    pub(crate) dims: usize,
    /// Radians per position of each of `dims / 2` pairs, before `divisors`.
    pub(crate) frequencies: Vec<f64>,
    /// A vector of the model by which frequencies are divided.
    pub(crate) divisors: Option<Vector>,
    /// What rotated numbers are multiplied with.
    pub(crate) magnitude: f32,
}

/// The ropes of a model: for layers that see everything, and for layers with a sliding window.
///
/// # Errors
/// Where metadata has a wrong type or an unknown scaling.
pub(crate) fn read(
    metadata: &Metadata,
    family: &Family,
    sizes: &Sizes,
    claims: &mut Claims,
    context: u32,
) -> Result<Vec<Rope>, EngineError> {
    let whole = sizes.latent.map_or(sizes.k_dim, |latent| latent.rotated);
    let dims = metadata.unsigned(".rope.dimension_count")?.map_or(whole, |n| n as usize);
    if dims == 0 || dims % 2 != 0 || dims > sizes.k_dim {
        let key = metadata.full_key(".rope.dimension_count");
        let expected = format!("an even number up to the head width {}", sizes.k_dim);
        return Err(GgufError::wrong_value(&key, expected, dims.to_string()).into());
    }
    let base = metadata.float(".rope.freq_base")?.unwrap_or(10_000.0);
    let mut global = Rope {
        style: family.rope,
        dims,
        frequencies: frequencies(base, dims),
        divisors: claims.optional("rope_freqs.weight", dims / 2),
        magnitude: metadata.float(".rope.scaling.attn_factor")?.unwrap_or(1.0) as f32,
    };
    let mut local = global.clone();
    if family.local_rope() {
        let base = metadata.float(".rope.freq_base_swa")?.unwrap_or(10_000.0);
        local.frequencies = frequencies(base, dims);
        local.divisors = None;
    }
    scale(metadata, &mut global, base)?;
    long_factors(metadata, &mut global, claims, context)?;
    if !family.local_rope() {
        local = global.clone();
    }
    Ok(vec![global, local])
}

/// base^(-2i/dims) for each pair i.
fn frequencies(base: f64, dims: usize) -> Vec<f64> {
    (0..dims / 2).map(|i| base.powf(-2.0 * i as f64 / dims as f64)).collect()
}

fn scale(metadata: &Metadata, rope: &mut Rope, base: f64) -> Result<(), EngineError> {
    // Old files name a linear factor without a type.
    let old = metadata.float(".rope.scale_linear")?;
    let factor = metadata.float(".rope.scaling.factor")?.or(old).unwrap_or(1.0);
    if factor <= 0.0 {
        let key = metadata.full_key(".rope.scaling.factor");
        return Err(GgufError::wrong_value(&key, "a number above 0".into(), factor.to_string()).into());
    }
    let default = if old.is_some() { "linear" } else { "none" };
    match metadata.text(".rope.scaling.type")?.unwrap_or(default) {
        "none" | "longrope" => {}
        "linear" => rope.frequencies.iter_mut().for_each(|f| *f /= factor),
        "yarn" => yarn(metadata, rope, base, factor)?,
        other => {
            let key = metadata.full_key(".rope.scaling.type");
            return Err(GgufError::wrong_value(&key, "none, linear, yarn or longrope".into(), other.to_owned()).into());
        }
    }
    Ok(())
}

/// `YaRN`: slow pairs are interpolated, fast ones kept, and those between mixed by a ramp (section 3.2 of the paper).
/// The ramp's ends are rounded outwards to whole pairs, as the reference implementation does.
fn yarn(metadata: &Metadata, rope: &mut Rope, base: f64, factor: f64) -> Result<(), EngineError> {
    let original = metadata.float(".rope.scaling.original_context_length")?;
    let original = original.map_or_else(|| metadata.require_float(".context_length"), Ok)?;
    let fast = metadata.float(".rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
    let slow = metadata.float(".rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
    let dims = rope.dims as f64;
    // The pair that makes this many turns over the original context.
    let pair = |turns: f64| dims * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
    let start = pair(fast).floor().max(0.0);
    let end = pair(slow).ceil().min(dims - 1.0);
    for (i, frequency) in rope.frequencies.iter_mut().enumerate() {
        let ramp = ((i as f64 - start) / (end - start).max(0.001)).clamp(0.0, 1.0);
        *frequency *= (1.0 - ramp) + ramp / factor;
    }
    if metadata.float(LOG_MULTIPLIER)?.unwrap_or(0.0) == 0.0 {
        rope.magnitude *= (1.0 + 0.1 * factor.ln()) as f32;
    }
    Ok(())
}

/// A tenth of `mscale_all_dim`. `DeepSeek` grows scores by the square of `1 + this · ln(factor)` instead of growing rotated
/// numbers, whose own factor, `mscale / mscale_all_dim` alike, is 1 in every model it released.
const LOG_MULTIPLIER: &str = ".rope.scaling.yarn_log_multiplier";

/// What `YaRN` multiplies scores with: 1, but for models with [`LOG_MULTIPLIER`].
///
/// # Errors
/// Where metadata has a wrong type.
pub(crate) fn yarn_score_factor(metadata: &Metadata) -> Result<f32, GgufError> {
    let factor = metadata.float(".rope.scaling.factor")?.unwrap_or(1.0).max(1.0);
    let multiplier = metadata.float(LOG_MULTIPLIER)?.unwrap_or(0.0);
    Ok((1.0 + multiplier * factor.ln()).powi(2) as f32)
}

/// `LongRoPE`: one set of divisors up to the original context, another for sessions opened for more.
fn long_factors(metadata: &Metadata, rope: &mut Rope, claims: &mut Claims, context: u32) -> Result<(), EngineError> {
    let pairs = rope.dims / 2;
    let long = claims.optional("rope_factors_long.weight", pairs);
    let short = claims.optional("rope_factors_short.weight", pairs);
    let original = metadata.unsigned(".rope.scaling.original_context_length")?;
    let chosen = if original.is_some_and(|original| u64::from(context) > original) { long } else { short };
    if chosen.is_some() {
        rope.divisors = chosen;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_towards_the_base() {
        let f = frequencies(10_000.0, 4);
        assert!((f[0] - 1.0).abs() < 1e-12 && (f[1] - 0.01).abs() < 1e-12, "{f:?}");
    }
}
