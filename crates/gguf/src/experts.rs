//! How a model chooses among experts, checked as far as its metadata and its tensors' names tell.
//!
//! Owns the keys of experts. Must never know how a router scores.

use std::collections::BTreeMap;

use plan::{Role, Tensor};

use crate::roles::place;
use crate::shape::{EXPERTS_MAX, optional, per_block};
use crate::{GgufError, Metadata};

/// More groups than any model has; the best are found among them by one pass over a short list.
const GROUPS_MAX: u64 = 64;

/// The highest number of a scoring function that GGUF has: softmax, sigmoid, softmax of the chosen, root of softplus.
/// 0 leaves the choice to the architecture.
const GATING_MAX: u64 = 4;

/// Among how many experts a token chooses.
pub(crate) struct Choice {
    /// Routed experts by layer; empty in a dense model.
    pub(crate) experts: Vec<u64>,
    /// Experts that a token uses, in the layer where they are most.
    pub(crate) used: u64,
}

impl Choice {
    /// Routed experts of the layer that has most.
    pub(crate) fn most(&self) -> u64 {
        self.experts.iter().copied().max().unwrap_or(0)
    }
}

/// Reads how many experts there are, and how many of them a token uses: of all, or of those in the best groups
/// (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
pub(crate) fn choice(metadata: &Metadata, blocks: u64) -> Result<Choice, GgufError> {
    const USED: &str = ".expert_used_count";
    const GROUPS: &str = ".expert_group_count";
    let experts = per_block(metadata, ".expert_count", blocks, EXPERTS_MAX)?.unwrap_or_default();
    let used = per_block(metadata, USED, blocks, EXPERTS_MAX)?.unwrap_or_default();
    let choice = Choice { experts, used: used.into_iter().max().unwrap_or(0) };
    let (most, used) = (choice.most(), choice.used);
    let wrong = |key: &str, expected: String, found: u64| {
        Err(GgufError::wrong_value(&metadata.full_key(key), expected, found.to_string()))
    };
    if used > most || (used == 0 && most > 0) {
        return wrong(USED, format!("1 to {most}, the number of experts"), used);
    }
    optional(metadata, ".leading_dense_block_count", 0..=blocks)?;
    optional(metadata, ".expert_gating_func", 0..=GATING_MAX)?;
    let groups = optional(metadata, GROUPS, 0..=GROUPS_MAX)?.unwrap_or(0);
    if groups <= 1 || most == 0 {
        return Ok(choice);
    }
    if !most.is_multiple_of(groups) {
        return wrong(GROUPS, format!("a divisor of the {most} experts"), groups);
    }
    let best = optional(metadata, ".expert_group_used_count", 1..=groups)?.unwrap_or(0);
    if best == 0 {
        return Err(GgufError::missing_key(&metadata.full_key(".expert_group_used_count")));
    }
    let eligible = most / groups * best;
    if used > eligible {
        return wrong(USED, format!("at most {eligible}, the experts of {best} of {groups} groups"), used);
    }
    Ok(choice)
}

/// Checks that experts and routers come together: in each layer that is run, and in the model at all.
pub(crate) fn check(metadata: &Metadata, choice: &Choice, layers: u64, tensors: &[Tensor]) -> Result<(), GgufError> {
    let mismatch = |tensor: &str, expected: String, found: String| {
        Err(GgufError::TensorMismatch { tensor: tensor.to_owned(), expected, found })
    };
    let mut routers: BTreeMap<u32, &Tensor> = BTreeMap::new();
    let mut routed: BTreeMap<u32, &Tensor> = BTreeMap::new();
    for tensor in tensors {
        let place = place(&tensor.name);
        let Some(layer) = place.layer.filter(|layer| u64::from(*layer) < layers) else { continue };
        match place.role {
            Role::RoutedExpert => _ = routed.entry(layer).or_insert(tensor),
            Role::Router if tensor.name.ends_with(".ffn_gate_inp.weight") => _ = routers.insert(layer, tensor),
            _ => {}
        }
    }
    if routed.is_empty() && choice.most() > 0 {
        let (key, found) = (metadata.full_key(".expert_count"), choice.most().to_string());
        return Err(GgufError::wrong_value(&key, "0, for no tensor holds experts".to_owned(), found));
    }
    for (layer, tensor) in routed {
        let experts = choice.experts.get(layer as usize).copied().unwrap_or(0);
        match routers.get(&layer) {
            None => {
                let expected = format!("a router beside it, blk.{layer}.ffn_gate_inp.weight");
                return mismatch(&tensor.name, expected, "none".to_owned());
            }
            Some(router) if experts > 0 && router.rows() != experts => {
                let expected = format!("one row for each of {experts} experts");
                return mismatch(&router.name, expected, format!("{} rows", router.rows()));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
