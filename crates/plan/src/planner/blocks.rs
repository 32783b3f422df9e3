//! What rules and the cache's home mean for blocks.

use std::collections::BTreeMap;

use super::rules::{Wish, Wishes};
use crate::blocks::{Block, block_of};
use crate::profile::{Asked, Choice, Fault, Origin, Profile, ProfileError};
use crate::{Inventory, Tier};

/// Refuses rules that give one block to two GPUs, or attention to another device than the cache's home. Attention that no rule places
/// goes where a GPU that is asked for the cache is.
pub(super) fn check(wishes: &mut Wishes, profile: &Profile, inventory: &Inventory) -> Result<(), ProfileError> {
    let tied = inventory.tied_output();
    let blocks: Vec<Option<Block>> = inventory.units.iter().map(|unit| block_of(inventory, unit, tied)).collect();
    one_gpu_each(wishes, profile, &blocks)?;
    match &profile.context.kv_home {
        Choice::Asked(home) => beside_cache(wishes, profile, &blocks, home),
        Choice::Auto => Ok(()),
    }
}

fn one_gpu_each(wishes: &Wishes, profile: &Profile, blocks: &[Option<Block>]) -> Result<(), ProfileError> {
    let mut gpus: BTreeMap<Block, Tier> = BTreeMap::new();
    for (index, wish) in wishes.wish.iter().enumerate() {
        let (Some(block), Wish::Pinned(home @ Tier::Gpu(_))) = (blocks[index], wish) else { continue };
        let first = *gpus.entry(block).or_insert(*home);
        if first != *home {
            let message = format!("{} would be on {first} and on {home}", name(block));
            let hint = "one GPU computes a layer's attention, and one its feed-forward part with router and experts";
            return Err(ProfileError::new(Fault::BadValue, &origin(wishes, profile, index), message, hint));
        }
    }
    Ok(())
}

fn beside_cache(
    wishes: &mut Wishes,
    profile: &Profile,
    blocks: &[Option<Block>],
    home: &Asked<Tier>,
) -> Result<(), ProfileError> {
    let cache = home.value;
    let on_gpu = |wish: &Wish| match wish {
        Wish::Pinned(tier @ Tier::Gpu(_)) | Wish::Either(tier @ Tier::Gpu(_), _) => Some(*tier),
        _ => None,
    };
    // By layer: a unit that is elsewhere, and whether one is with the cache.
    let mut layers: BTreeMap<Block, (Option<usize>, bool)> = BTreeMap::new();
    for (index, wish) in wishes.wish.iter_mut().enumerate() {
        let Some(block @ Block::Attention(_)) = blocks[index] else { continue };
        let (elsewhere, beside) = layers.entry(block).or_default();
        let may_move = *wish == Wish::Open || on_gpu(wish) == Some(cache);
        match cache {
            Tier::Gpu(_) if may_move => *wish = Wish::Pinned(cache),
            Tier::Ram if on_gpu(wish).is_none() => {}
            _ => {
                // A matrix in RAM beside others on the GPU is no contradiction; one on another GPU is.
                *beside |= on_gpu(wish).is_some();
                *elsewhere = elsewhere.or(Some(index));
                continue;
            }
        }
        *beside |= cache != Tier::Ram;
    }
    let wrong = |(elsewhere, beside): &(Option<usize>, bool)| elsewhere.filter(|_| !beside || cache == Tier::Ram);
    let Some((block, index)) = layers.iter().find_map(|(block, found)| Some((*block, wrong(found)?))) else {
        return Ok(());
    };
    let what = name(block);
    let rule = origin(wishes, profile, index).short();
    let message = format!("the KV cache is to be in {cache}, and {what} is elsewhere by the {rule}");
    let hint = "keys and values live where attention is computed: leave out `kv_home`, or give both one home";
    Err(ProfileError::new(Fault::BadValue, &home.origin, message, hint))
}

/// Who placed a unit.
fn origin(wishes: &Wishes, profile: &Profile, index: usize) -> Origin {
    let rule = wishes.rule[index].map(|rule| profile.rules[rule as usize].origin.clone());
    match (&profile.default, rule) {
        (_, Some(origin)) => origin,
        (Choice::Asked(default), None) => default.origin.clone(),
        (Choice::Auto, None) => Origin::Automatic,
    }
}

fn name(block: Block) -> String {
    match block {
        Block::Attention(layer) => format!("attention of layer {layer}"),
        Block::Ffn(layer) => format!("the feed-forward part of layer {layer}"),
        Block::Output => "the output".to_owned(),
    }
}
