//! What the engine computes on GPUs: the one place where the planner learns it.
//!
//! A plan gives a GPU by itself only what is said to be computed here, so that nobody who asked for nothing is refused. Rules may ask for
//! more; the engine then refuses by name. Must never know how a kernel works.

use crate::blocks::Block;
use crate::{Inventory, QuantType, Role, Unit};

/// Parts of models that the engine computes on GPUs, beside dense layers with attention over heads, or does not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an ability of its own")]
pub struct Abilities {
    /// Mixtures: the router and what every token passes, and those experts that live there.
    pub mixtures: bool,
    /// Latent attention.
    pub latents: bool,
    /// Prompts with weights that are streamed to a GPU.
    pub streams: bool,
    /// Chosen experts that are copied to a GPU, without being asked for: where a profile asks, they are in any case.
    pub fetches: bool,
    /// GPUs that a plan uses at one time, at most.
    pub gpus: usize,
}

/// What this version computes.
pub const NOW: Abilities = Abilities { mixtures: true, latents: true, streams: true, fetches: true, gpus: 16 };

/// Why a block stays with the processor: it has something that no GPU computes.
pub type Obstacle = &'static str;

/// Whether kernels on GPUs multiply with matrices of this type.
#[must_use]
pub const fn supports(quant: QuantType) -> bool {
    use QuantType as Q;
    matches!(
        quant,
        Q::F32
            | Q::F16
            | Q::Bf16
            | Q::Q4_0
            | Q::Q4_1
            | Q::Q5_0
            | Q::Q5_1
            | Q::Q8_0
            | Q::Q2K
            | Q::Q3K
            | Q::Q4K
            | Q::Q5K
            | Q::Q6K
    ) || matches!(
        quant,
        Q::Iq1S | Q::Iq1M | Q::Iq2Xxs | Q::Iq2Xs | Q::Iq2S | Q::Iq3Xxs | Q::Iq3S | Q::Iq4Nl | Q::Iq4Xs | Q::Mxfp4
    )
}

/// What each layer's blocks have that no GPU computes: attention first, then the feed-forward part; and the output.
#[derive(Clone, Debug)]
pub(crate) struct Obstacles {
    pub(crate) layers: Vec<(Option<Obstacle>, Option<Obstacle>)>,
    pub(crate) output: Option<Obstacle>,
}

/// What a profile with `kv_home: ram` says of attention.
pub(crate) const CACHE_IN_RAM: Obstacle = "a KV cache that is to be in RAM";

const NO_KERNEL: Obstacle = "this type of weights";

impl Obstacles {
    /// Looks through a model once.
    pub(crate) fn of(inventory: &Inventory, abilities: &Abilities) -> Self {
        let shape = &inventory.shape;
        let kept = |layer| kept_otherwise(inventory, layer, abilities);
        let layers = (0..shape.layers as usize).map(|layer| (kept(layer), None)).collect();
        let mut obstacles = Self { layers, output: None };
        for unit in &inventory.units {
            let found = in_unit(inventory, unit, abilities);
            let layer = unit.layer.and_then(|layer| obstacles.layers.get_mut(layer as usize));
            let place = match (unit.role, layer) {
                (Role::Output | Role::Embedding, _) => &mut obstacles.output,
                (Role::Attention, Some((attention, _))) => attention,
                (Role::DenseFfn | Role::SharedExpert | Role::RoutedExpert | Role::Router, Some((_, ffn))) => ffn,
                _ => continue,
            };
            *place = place.or(found);
        }
        obstacles
    }

    /// What stands in a block's way.
    pub(crate) fn of_block(&self, block: Block) -> Option<Obstacle> {
        match block {
            Block::Attention(layer) => self.layers.get(layer as usize)?.0,
            Block::Ffn(layer) => self.layers.get(layer as usize)?.1,
            Block::Output => self.output,
        }
    }
}

/// Layers that keep something else of a conversation than keys and values by head.
fn kept_otherwise(inventory: &Inventory, layer: usize, abilities: &Abilities) -> Option<Obstacle> {
    let shape = &inventory.shape;
    let is_delta = shape.delta.as_ref().is_some_and(|delta| delta.layers.get(layer) == Some(&true));
    // A layer without an indexer takes the choice of another's.
    let is_indexed = shape.indexer_per_token.iter().any(|key| *key > 0);
    let is_latent = matches!(shape.kv_per_token.get(layer), Some((1.., 0)));
    match () {
        () if is_delta => Some("a delta net"),
        () if is_indexed => Some("an indexer"),
        () if is_latent && !abilities.latents => Some("latent attention"),
        () => None,
    }
}

/// What one tensor shows.
fn in_unit(inventory: &Inventory, unit: &Unit, abilities: &Abilities) -> Option<Obstacle> {
    match unit.role {
        Role::RoutedExpert | Role::Router if !abilities.mixtures => Some("routed experts"),
        _ if !inventory.is_vector(unit) && !supports(inventory.tensor_of(unit).quant) => Some(NO_KERNEL),
        _ => None,
    }
}
