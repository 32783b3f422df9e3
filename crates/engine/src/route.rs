//! Which device computes what, from a plan.
//!
//! A block (a layer's attention, its feed-forward network, the output) is computed by the card that holds one of its matrices, and by
//! the processor where none does. A card has the processor multiply with those matrices of its blocks that live elsewhere. Vectors do
//! not count: each device has copies of those that it uses. What no card computes is refused by name, before anything is loaded. Must
//! never know how a device computes.

mod check;

use plan::{Device, Inventory, LayerDevices, Placement, Plan, Tier, Unit, UnitId};
use tiers::RowSlice;

use self::check::{missing_attention, missing_ffn};
use crate::EngineError;
use crate::spec::{Ffn, Form, Kind, Layer, Spec, Use};

/// Where the blocks of a model are computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) layers: Vec<LayerDevices>,
    /// The same for passes of so many tokens that weights are streamed to cards for them, where the plan does that.
    pub(crate) streamed: Option<Streamed>,
    /// The last norm and the output matrix.
    pub(crate) output: Device,
    /// By unit: vectors that only a card reads, which has copies.
    copied: Vec<bool>,
    /// By layer: the card that computes all of it without a part of the processor's, if one does.
    alone: Vec<Option<u32>>,
    /// By unit: the card that a matrix of its blocks, which lives elsewhere, is brought to in every pass.
    comes: Vec<Option<u32>>,
}

/// Passes for which cards compute whatever they can, with weights that are brought to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Streamed {
    /// The cards that have a ring.
    cards: Vec<u32>,
    /// Tokens from which on a pass is one of them.
    from: usize,
    /// Tokens from which on all experts come.
    all_from: usize,
    pub(crate) layers: Vec<LayerDevices>,
    /// By unit: those of one row, which every card has copies of.
    copied: Vec<bool>,
    /// By unit: those of experts that the processor computes all the same.
    kept: Vec<bool>,
}

/// That weights are brought to cards in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Streaming {
    /// Whether all experts of a layer come, before its router has chosen: nearly all will be used, and the links rest nowhere.
    pub(crate) all: bool,
}

/// That weights are brought to a card, for one block of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brought {
    /// The card.
    pub(crate) card: u32,
    /// Whether all experts of a layer come, before its router has chosen: nearly all will be used, and the link rests nowhere.
    pub(crate) all: bool,
}

/// Tokens from which on so many of all experts are used, by the mean, that all of them are brought: 1 - (1 - p)^tokens with p that of a token.
const NEARLY_ALL: f64 = 0.95;

impl Route {
    /// The devices of a plan.
    ///
    /// # Errors
    /// [`EngineError::NotOnGpu`] for a plan that this version cannot run, with the first thing that stands in the way.
    pub(crate) fn new(plan: &Plan, spec: &Spec, inventory: &Inventory) -> Result<Self, EngineError> {
        let copied = vec![false; inventory.units.len()];
        let mut route = Self {
            layers: plan.blocks.clone(),
            streamed: None,
            output: plan.output,
            copied,
            alone: Vec::new(),
            comes: plan.placements.iter().zip(&inventory.units).map(|(p, unit)| comes_always(p, unit)).collect(),
        };
        route.refuse_what_is_missing(plan, spec, inventory)?;
        route.note_copied(plan, spec, inventory);
        route.note_alone(plan, spec);
        route.streamed = route.streaming(plan, spec, inventory);
        Ok(route)
    }

    /// Whether and how weights are brought to a card in a pass of so many tokens.
    pub(crate) fn of_pass(&self, tokens: usize) -> Option<Streaming> {
        let streamed = self.streamed.as_ref().filter(|streamed| tokens >= streamed.from)?;
        Some(Streaming { all: tokens >= streamed.all_from })
    }

    /// Whether and how weights are brought to this card in such a pass.
    pub(crate) fn brought_to(&self, card: u32, streaming: Option<Streaming>) -> Option<Brought> {
        let has_ring = |streamed: &&Streamed| streamed.cards.contains(&card);
        let all = streaming?.all;
        self.streamed.as_ref().filter(has_ring).map(|_| Brought { card, all })
    }

    /// The card that this matrix is brought to in every pass, if it is.
    pub(crate) fn comes(&self, unit: UnitId) -> Option<Brought> {
        self.comes[unit.0 as usize].map(|card| Brought { card, all: false })
    }

    /// Whether any matrix is brought to a card in every pass.
    #[cfg(feature = "cuda")]
    pub(crate) fn any_comes(&self) -> bool {
        self.comes.iter().any(Option::is_some)
    }

    /// Whether a card to which weights are brought has a copy of this unit in any case.
    #[cfg(feature = "cuda")]
    pub(crate) fn needs_no_bringing(&self, unit: UnitId) -> bool {
        self.streamed.as_ref().is_some_and(|streamed| streamed.copied[unit.0 as usize])
    }

    /// Whether the processor computes with this matrix of an expert, while those of others are brought to a card.
    pub(crate) fn keeps(&self, unit: UnitId) -> bool {
        self.streamed.as_ref().is_some_and(|streamed| streamed.kept[unit.0 as usize])
    }

    /// The cards to which weights are brought for the blocks of a layer in such a pass: for its attention, and for what follows it.
    pub(crate) fn streamed_to(&self, layer: usize) -> [Option<u32>; 2] {
        self.streamed.as_ref().map_or([None; 2], |streamed| {
            let LayerDevices { attention, ffn } = streamed.layers[layer];
            [attention, ffn].map(|device| number(device).filter(|card| streamed.cards.contains(card)))
        })
    }

    /// The most tokens, of `most`, of a pass in which the processor computes a layer's experts that this card has not: where they are brought, of passes too
    /// short for that.
    #[cfg(feature = "cuda")]
    pub(crate) fn left_of(&self, layer: usize, card: u32, most: usize) -> usize {
        let brought = self.streamed.as_ref().filter(|_| self.streamed_to(layer)[1] == Some(card));
        brought.map_or(most, |streamed| most.min(streamed.from.saturating_sub(1)))
    }

    /// Where layers are computed when weights are streamed: by the card that has them or that the plan brings them to, as far as it can and has a
    /// ring. Nothing is streamed where a block of a card with a ring has matrices that cannot come.
    fn streaming(&self, plan: &Plan, spec: &Spec, inventory: &Inventory) -> Option<Streamed> {
        let from = plan.stream_from? as usize;
        let rings = plan.device_staging.iter().filter(|(_, ring)| ring.slots > 0);
        let cards: Vec<u32> = rings.map(|(card, _)| *card).collect();
        let quant = |slice: &RowSlice| inventory.tensor_of(inventory.unit(slice.unit)).quant;
        let layers = spec.layers.iter().zip(&self.layers).map(|(layer, devices)| {
            let asked = brought_to(layer, plan);
            let device = |block: usize, otherwise: Device| {
                let card = number(otherwise).or(asked[block]).filter(|card| cards.contains(card));
                let Some(card) = card.map(Device::Gpu) else { return Some(otherwise) };
                let can = can_come(layer, card, plan, &|slice| multiplies(quant(slice)))[block];
                if can { Some(card) } else { Some(otherwise).filter(|otherwise| *otherwise != card) }
            };
            Some(LayerDevices { attention: device(0, devices.attention)?, ffn: device(1, devices.ffn)? })
        });
        let layers = layers.collect::<Option<_>>()?;
        let copied = inventory.units.iter().map(|unit| inventory.is_vector(unit)).collect();
        let kept = plan.placements.iter().zip(&inventory.units).map(|(placement, unit)| {
            unit.expert.is_some() && !inventory.is_vector(unit) && placement.prefill == Device::Cpu
        });
        let (all_from, kept) = (all_from(spec), kept.collect());
        (!cards.is_empty()).then_some(Streamed { cards, from, all_from, layers, copied, kept })
    }

    /// The cards that take part, ascending.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn cards(&self) -> Vec<u32> {
        let blocks = self.layers.iter().flat_map(|layer| [layer.attention, layer.ffn]).chain([self.output]);
        let streamed = self.streamed.iter().flat_map(|streamed| streamed.cards.iter().copied());
        blocks.filter_map(number).chain(streamed).collect::<std::collections::BTreeSet<u32>>().into_iter().collect()
    }

    /// Whether nobody but a card reads this vector. It is not waited for where it comes from disk.
    pub(crate) fn is_copied(&self, unit: UnitId) -> bool {
        self.copied[unit.0 as usize]
    }

    /// How many layers from `first` on one card computes without a part of anybody else's.
    pub(crate) fn alone_from(&self, first: usize) -> usize {
        let card = self.alone[first];
        self.alone[first..].iter().take_while(|alone| alone.is_some() && **alone == card).count()
    }

    /// How many such runs of layers this card has.
    #[cfg(feature = "cuda")]
    pub(crate) fn runs_alone(&self, card: u32) -> usize {
        self.alone.chunk_by(|a, b| a == b).filter(|run| run[0] == Some(card)).count()
    }

    /// Notes which vectors a card has copies of and the processor never reads: all of a card's blocks, but the biases of matrices that
    /// the processor multiplies with.
    fn note_copied(&mut self, plan: &Plan, spec: &Spec, inventory: &Inventory) {
        let copied = &mut self.copied;
        let mut note = |block: Device, used: Use| {
            let (unit, reader) = match used {
                // A card has copies of those too.
                Use::Matrix(matrix) if inventory.is_vector(inventory.unit(matrix.unit)) => (matrix.unit, block),
                Use::Matrix(_) => return,
                Use::Bias(matrix, bias) => (bias.slice.unit, device(plan.home(matrix.unit))),
                Use::Vector(vector) => (vector.slice.unit, block),
            };
            copied[unit.0 as usize] = reader != Device::Cpu;
        };
        for (layer, devices) in spec.layers.iter().zip(&self.layers) {
            layer.attention.each_use(Form::DECODE, &mut |used| note(devices.attention, used));
            layer.ffn.each_use(&mut |used| note(devices.ffn, used));
        }
        note(self.output, Use::Vector(&spec.output_norm));
    }

    /// Notes which layers are a card's alone.
    fn note_alone(&mut self, plan: &Plan, spec: &Spec) {
        let layers = spec.layers.iter().zip(&self.layers);
        self.alone = layers.map(|(layer, devices)| alone(plan, layer, *devices)).collect();
    }
}

/// Hands every matrix of a layer's blocks, 0: attention, 1: what follows it, to `note`.
fn each_matrix(layer: &Layer, note: &mut dyn FnMut(usize, &RowSlice)) {
    let mut used = |block: usize, used: Use| {
        if let Use::Matrix(slice) = used {
            note(block, slice);
        }
    };
    layer.attention.each_use(Form::DECODE, &mut |u| used(0, u));
    layer.ffn.each_use(&mut |u| used(1, u));
    if let Ffn::Mixture(f) = &layer.ffn {
        let parts = f.experts.iter().flat_map(|expert| [&expert.gate, &expert.up, &expert.down]);
        parts.for_each(|part| note(1, part));
    }
}

/// Whether a card can compute a layer's blocks with matrices that are brought to it.
fn can_come(layer: &Layer, card: Device, plan: &Plan, multiplies: &dyn Fn(&RowSlice) -> bool) -> [bool; 2] {
    // Latents' small matrices would come in an order of their own: such attention is the card's where all of it lives there.
    let stays = matches!(layer.attention.kind, Kind::Latent(_));
    let mut can = [missing_attention(&layer.attention).is_none(), missing_ffn(&layer.ffn).is_none()];
    each_matrix(layer, &mut |block, slice| {
        can[block] &= multiplies(slice) && (block > 0 || !stays || device(plan.home(slice.unit)) == card);
    });
    can
}

/// The card to which a plan has matrices of a layer's blocks brought for prompts.
fn brought_to(layer: &Layer, plan: &Plan) -> [Option<u32>; 2] {
    let mut cards = [None; 2];
    each_matrix(layer, &mut |block, slice| {
        cards[block] = cards[block].or(number(plan.placements[slice.unit.0 as usize].prefill));
    });
    cards
}

/// The card that a plan has compute with what lives elsewhere, in decode too.
fn comes_always(placement: &Placement, unit: &Unit) -> Option<u32> {
    number(placement.decode).filter(|_| device(placement.home) == Device::Cpu && unit.expert.is_none())
}

/// Tokens from which on all experts of every layer are brought.
fn all_from(spec: &Spec) -> usize {
    let shares = spec.layers.iter().filter_map(|layer| match &layer.ffn {
        Ffn::Mixture(f) => Some(f.routing.used as f64 / f.routing.experts as f64),
        Ffn::Dense(_) => None,
    });
    let tokens = |share: f64| ((1.0 - NEARLY_ALL).ln() / (1.0 - share).ln()).ceil() as usize;
    shares.map(tokens).max().unwrap_or(0)
}

/// The card that computes all of a layer, if one does: it holds all its matrices and chooses none of them.
fn alone(plan: &Plan, layer: &Layer, devices: LayerDevices) -> Option<u32> {
    let mut alone = devices.attention == devices.ffn && !layer.ffn.chooses();
    let mut note = |used: Use| {
        if let Use::Matrix(matrix) | Use::Bias(matrix, _) = used {
            alone &= device(plan.home(matrix.unit)) == devices.attention;
        }
    };
    layer.attention.each_use(Form::DECODE, &mut note);
    layer.ffn.each_use(&mut note);
    number(devices.attention).filter(|_| alone)
}

const fn number(device: Device) -> Option<u32> {
    match device {
        Device::Gpu(number) => Some(number),
        Device::Cpu => None,
    }
}

const fn device(home: Tier) -> Device {
    match home {
        Tier::Gpu(number) => Device::Gpu(number),
        Tier::Ram | Tier::Disk => Device::Cpu,
    }
}

/// Whether cards have a kernel for a type of matrices.
#[cfg(feature = "cuda")]
fn multiplies(quant: plan::QuantType) -> bool {
    kernels::cuda::supports(quant)
}

/// No card computes in this build.
#[cfg(not(feature = "cuda"))]
const fn multiplies(_: plan::QuantType) -> bool {
    false
}

/// The most experts of a layer, and of a token, that a card's router knows.
pub(crate) const EXPERTS_MAX: usize = 1024;
pub(crate) const CHOICES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::check::Obstacle;
    use super::*;

    const CPU: Device = Device::Cpu;
    const GPU: Device = Device::Gpu(0);
    const OTHER: Device = Device::Gpu(1);

    fn route(blocks: [Device; 4], output: Device) -> Route {
        let [a, b, c, d] = blocks;
        let layers = vec![LayerDevices { attention: a, ffn: b }, LayerDevices { attention: c, ffn: d }];
        Route { layers, streamed: None, output, copied: Vec::new(), alone: Vec::new(), comes: Vec::new() }
    }

    #[test]
    fn cards_compute_any_blocks_with_their_memory_beside_them() {
        use Tier::{Gpu, Ram};
        for (blocks, output, memories, expected) in [
            ([CPU, CPU, CPU, CPU], CPU, [Ram, Ram], Ok(vec![])),
            ([GPU, GPU, GPU, GPU], GPU, [Gpu(0), Gpu(0)], Ok(vec![0])),
            ([GPU, GPU, GPU, GPU], CPU, [Gpu(0), Gpu(0)], Ok(vec![0])),
            ([CPU, CPU, GPU, GPU], GPU, [Ram, Gpu(0)], Ok(vec![0])),
            ([CPU, CPU, CPU, CPU], GPU, [Ram, Ram], Ok(vec![0])),
            ([GPU, CPU, CPU, GPU], CPU, [Gpu(0), Ram], Ok(vec![0])),
            ([OTHER, OTHER, CPU, CPU], OTHER, [Gpu(1), Ram], Ok(vec![1])),
            ([GPU, CPU, OTHER, CPU], CPU, [Gpu(0), Gpu(1)], Ok(vec![0, 1])),
            ([OTHER, GPU, CPU, CPU], GPU, [Gpu(1), Ram], Ok(vec![0, 1])),
            ([GPU, CPU, CPU, CPU], OTHER, [Gpu(0), Ram], Ok(vec![0, 1])),
            ([GPU, GPU, GPU, GPU], GPU, [Gpu(0), Ram], Err((0, Obstacle::Memory(1, Ram)))),
            ([CPU, GPU, GPU, GPU], GPU, [Gpu(0), Gpu(0)], Err((0, Obstacle::Memory(0, Gpu(0))))),
            ([GPU, GPU, OTHER, CPU], CPU, [Gpu(0), Gpu(0)], Err((1, Obstacle::Memory(1, Gpu(0))))),
            ([GPU, GPU, CPU, CPU], GPU, [Gpu(1), Ram], Err((0, Obstacle::Memory(0, Gpu(1))))),
            ([CPU, CPU, CPU, CPU], CPU, [Ram, Gpu(1)], Err((1, Obstacle::Memory(1, Gpu(1))))),
        ] {
            let route = route(blocks, output);
            let found = route.check(&memories, &[]).map(|()| route.cards());
            assert_eq!(found, expected, "{blocks:?} {output:?} {memories:?}");
        }
    }

    #[test]
    fn a_run_of_layers_ends_where_the_card_changes() {
        let mut route = route([GPU; 4], GPU);
        route.alone = vec![None, Some(0), Some(0), Some(1), Some(1), Some(1), None, Some(1)];
        let runs: Vec<usize> = (0..8).map(|first| route.alone_from(first)).collect();
        assert_eq!(runs, [0, 2, 1, 3, 2, 1, 0, 1]);
    }

    #[test]
    fn weights_are_brought_to_cards_with_a_ring_in_passes_of_enough_tokens() {
        let mut route = route([CPU, CPU, OTHER, OTHER], OTHER);
        let layers = vec![LayerDevices { attention: GPU, ffn: CPU }, LayerDevices { attention: OTHER, ffn: OTHER }];
        route.streamed =
            Some(Streamed { cards: vec![0], from: 4, all_from: 9, layers, copied: Vec::new(), kept: Vec::new() });
        assert_eq!(route.cards(), [0, 1]);
        assert_eq!((route.of_pass(3), route.of_pass(4)), (None, Some(Streaming { all: false })));
        let streaming = route.of_pass(9);
        assert_eq!(route.brought_to(0, streaming), Some(Brought { card: 0, all: true }));
        assert_eq!((route.brought_to(1, streaming), route.brought_to(0, None)), (None, None));
        assert_eq!((route.streamed_to(0), route.streamed_to(1)), ([Some(0), None], [None, None]));
    }
}
