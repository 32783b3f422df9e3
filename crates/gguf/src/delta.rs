//! Gated delta nets: the sizes of layers that keep a state instead of keys and values.
//!
//! Owns the keys of Qwen3-Next's nets (`ssm.*`) and of Kimi Linear's (`kda.*`). Must never know how they compute.

use plan::DeltaSizes;

use crate::shape::{HEADS_MAX, WIDTH_MAX, optional, per_block, required};
use crate::{GgufError, Metadata, kv};

/// The longest convolution that a kernel computes.
const TAPS_MAX: u64 = 8;
const TAPS: &str = ".ssm.conv_kernel";

/// The sizes of a model's delta nets, where it has some. `heads` are the query heads of each block.
pub(crate) fn sizes(
    metadata: &Metadata,
    blocks: u64,
    layers: u64,
    heads: &[u64],
) -> Result<Option<DeltaSizes>, GgufError> {
    let kimi = optional(metadata, ".kda.head_dim", 1..=WIDTH_MAX)?;
    let mut which = kv::recurrent(metadata, blocks)?;
    if kimi.is_some()
        && let Some(kv_heads) = per_block(metadata, ".attention.head_count_kv", blocks, HEADS_MAX)?
    {
        which = kv_heads.iter().map(|heads| *heads == 0).collect();
    }
    which.truncate(layers as usize);
    let groups = optional(metadata, ".ssm.group_count", 1..=HEADS_MAX)?;
    let sizes = match (kimi, groups) {
        _ if !which.contains(&true) => return Ok(None),
        (Some(width), _) => {
            let heads = heads.iter().copied().max().unwrap_or(0) as u32;
            let most = WIDTH_MAX / u64::from(heads.max(1));
            if width > most {
                let key = metadata.full_key(".kda.head_dim");
                return Err(GgufError::wrong_value(&key, format!("1 to {most} for {heads} heads"), width.to_string()));
            }
            let (key, value) = (width as u32, width as u32);
            let taps = required(metadata, TAPS, 1..=TAPS_MAX)? as u32;
            DeltaSizes { layers: which, heads, key_heads: heads, key, value, taps, decay_each: true }
        }
        (None, Some(key_heads)) => {
            let heads = divided(metadata, ".ssm.time_step_rank", HEADS_MAX, key_heads)?;
            let values = divided(metadata, ".ssm.inner_size", WIDTH_MAX, heads)?;
            DeltaSizes {
                layers: which,
                heads: heads as u32,
                key_heads: key_heads as u32,
                key: required(metadata, ".ssm.state_size", 1..=WIDTH_MAX)? as u32,
                value: (values / heads) as u32,
                taps: required(metadata, TAPS, 1..=TAPS_MAX)? as u32,
                decay_each: false,
            }
        }
        // A state of another kind.
        (None, None) => return Ok(None),
    };
    Ok(Some(sizes))
}

/// A number that `parts` divides.
fn divided(metadata: &Metadata, key: &str, most: u64, parts: u64) -> Result<u64, GgufError> {
    let found = required(metadata, key, 1..=most)?;
    if found.is_multiple_of(parts) {
        return Ok(found);
    }
    Err(GgufError::wrong_value(&metadata.full_key(key), format!("a multiple of {parts}"), found.to_string()))
}
