//! A card's side of a pass: registers, vectors and turns in its memory, created once, and the steps over them.
//!
//! Owns which kernel a step is there, and what it may do beside another step: a norm or an activation leaves its result in 8 bits too,
//! since a product comes next. Must never know the order of a layer's steps: that is `blocks`.

mod away;
mod brought;
mod counts;
mod experts;
mod fetched;
mod guests;
mod heads;
mod kept;
mod latent;
mod lists;
mod mixture;
mod pass;
mod passage;
mod recorded;
mod registers;
mod vectors;
mod words;

use std::ops::Range;

use kernels::cpu::AttentionShape;
use kernels::cuda::{
    Arena, AttentionForm, DeviceBuffer, Event, Gpu, HalvesRoom, KvStore, Pinned, Quantized, RopeTable,
};
use plan::cost::{self, LOGIT_ROWS};
use plan::{Bytes, Device, Inventory, KvPlan, KvType, LayerDevices, ModelShape, Plan, Tier};
use tiers::Tiers;

use counts::Counts;
use experts::{FEW, Mixtures};
use guests::Guests;
use latent::LatentRoom;
pub(crate) use pass::GpuPass;
use passage::Passage;
use recorded::{CONVERSATIONS, Recorded};
use registers::Registers;
use vectors::Vectors;

use crate::blocks::Quants;
use crate::route::Route;
use crate::session::{LayerCache, Memory};
use crate::spec::{Kind, Layer, Spec};
use crate::stats::Traffic;
use crate::steps::{Part, REGISTERS, Register};
use crate::{EngineError, scratch};

type Result<T> = std::result::Result<T, EngineError>;

/// Keys and values of one layer on a card.
#[derive(Debug)]
pub(crate) struct CardCache {
    keys: KvStore,
    /// None where keys serve as values: latents do.
    values: Option<KvStore>,
}

/// Everything that a card holds besides weights and caches.
pub(crate) struct GpuSide {
    /// First, as its first is: what waits for the processor is let go before anything waits for the card.
    mixtures: Option<Mixtures>,
    gpu: Gpu,
    number: u32,
    registers: Registers,
    vectors: Vectors,
    /// One for each rope of the model.
    turns: Vec<RopeTable>,
    /// What the next products read, in 8 bits.
    columns: Quantized,
    /// What products of very many columns pass through, on cards where that pays.
    halves: Option<HalvesRoom>,
    /// Which numbers those are.
    rounded: Option<Part>,
    /// A block that is yet to be added to the residual stream: the norm that comes next, as a rule, does both.
    pending: Option<(Part, Part)>,
    /// Room for what splits of attention gather.
    gathered: DeviceBuffer<f32>,
    /// Room for heads in a latent's space, where the model has latents.
    latent: Option<LatentRoom>,
    /// How attention is computed for shapes and numbers of tokens that came lately.
    forms: Vec<Shaped>,
    /// Tokens that a session holds.
    capacity: usize,
    /// Where the pass begins, and its tokens, for kernels to read.
    words: DeviceBuffer<u32>,
    /// The same, on their way there, and when they have arrived.
    next_words: Pinned<u32>,
    arrived: Event,
    passage: Passage,
    recorded: Vec<Recorded>,
    /// Caches of the processor's layers, while weights are streamed.
    guests: Option<Guests>,
    /// Logits on their way to the processor, where they are made here; lent out while they are.
    letters: Option<Pinned<f32>>,
}

/// A form of attention with what it was chosen for.
struct Shaped {
    shape: AttentionShape,
    kinds: (KvType, KvType),
    tokens: usize,
    form: AttentionForm,
}

/// Forms that are remembered: two shapes of layers, with decode, whole micro-batches and a prompt's last one.
const FORMS: usize = 6;

impl GpuSide {
    /// Takes what passes over `spec` need on the card `gpu:number`.
    ///
    /// # Errors
    /// Where the plan counts less, or the card has less.
    pub(crate) fn new(
        number: u32,
        (spec, quants, inventory): (&Spec, &Quants, &Inventory),
        plan: &Plan,
        frequencies: &[Vec<f32>],
        route: &Route,
        tiers: &mut Tiers,
    ) -> Result<Self> {
        let Some(gpu) = tiers.card(number).cloned() else { unreachable!("the plan homes layers on gpu:{number}") };
        let sizes = Sizes::of(spec, &inventory.shape, (plan, route), &gpu);
        let needed = sizes.bytes(frequencies) + Vectors::bytes(inventory);
        check_room(plan, number, "activations on the GPU", &["activations", "vectors"], needed)?;
        let mut arena = Arena::new(&gpu, "activations", needed)?;
        let turns = frequencies.iter().zip(&spec.ropes).map(|(frequencies, rope)| {
            Ok(RopeTable::new(&gpu, &mut arena, frequencies, rope.magnitude, sizes.tokens)?)
        });
        let turns = turns.collect::<Result<_>>()?;
        let mixtures =
            sizes.mixtures.map(|counts| Mixtures::new(&gpu, &mut arena, (spec, quants, tiers), counts, (plan, route)));
        let makes_logits = route.output == Device::Gpu(number);
        let letters = makes_logits.then(|| Pinned::new(&gpu, sizes.registers[Register::Logits as usize]));
        Ok(Self {
            mixtures: mixtures.transpose()?,
            number,
            registers: Registers::new(&mut arena, &sizes.registers)?,
            vectors: Vectors::new(&gpu, &mut arena, inventory, tiers)?,
            turns,
            columns: Quantized::new(&mut arena, sizes.widest, sizes.tokens)?,
            halves: (sizes.halves > Bytes::ZERO).then(|| HalvesRoom::new(&mut arena)).transpose()?,
            rounded: None,
            pending: None,
            gathered: arena.take(sizes.gathered)?,
            latent: sizes.latent.map(|bytes| LatentRoom::new(&mut arena, bytes)).transpose()?,
            forms: Vec::with_capacity(FORMS),
            capacity: plan.kv.tokens as usize,
            words: arena.take(1 + sizes.tokens)?,
            next_words: Pinned::new(&gpu, 1 + sizes.tokens)?,
            arrived: Event::new(&gpu)?,
            passage: Passage::new(&gpu, scratch::widths(spec).into_iter().max().unwrap_or(0))?,
            recorded: Vec::with_capacity(CONVERSATIONS * route.runs_alone(number).max(1)),
            letters: letters.transpose()?,
            guests: Guests::of(&gpu, spec, &plan.kv, route)?,
            gpu,
        })
    }

    /// A room with what a layer of the processor keeps, of which `positions` are filled.
    pub(crate) fn borrow(&mut self, kind: &Kind, cache: &LayerCache, positions: usize) -> Result<Memory> {
        let Some(guests) = &mut self.guests else { unreachable!("layers come where weights are streamed") };
        guests.bring(&self.gpu, kind, cache, positions)
    }

    /// Takes new rows of `positions` back from a room to the layer of the processor that it was lent for.
    pub(crate) fn give_back(
        &mut self,
        layer: usize,
        room: Memory,
        positions: Range<usize>,
        layers: &mut [Memory],
    ) -> Result<()> {
        match &mut self.guests {
            Some(guests) => guests.take_back(&self.gpu, layer, room, positions, layers),
            None => Ok(()),
        }
    }

    /// Waits for all rows that layers of the processor get.
    pub(crate) fn settle_caches(&mut self, layers: &mut [Memory]) -> Result<()> {
        self.guests.as_mut().map_or(Ok(()), |guests| guests.settle(layers))
    }

    /// The tier's name, and the most bytes that were taken there at one time: what was counted, or what the card says now where that is more.
    pub(crate) fn peak(&self) -> (String, Bytes) {
        let peak = self.gpu.peak().max(self.gpu.given().unwrap_or_default());
        (Tier::Gpu(self.number).to_string(), peak)
    }

    /// Its number among the cards.
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    /// Whether the processor computes experts between steps of this card.
    pub(crate) fn takes_turns(&self) -> bool {
        self.mixtures.as_ref().is_some_and(Mixtures::cross)
    }

    /// Ends what a pass that failed left behind: the card may be waiting.
    pub(crate) fn give_up(&mut self) -> Result<()> {
        self.mixtures.as_mut().map_or(Ok(()), Mixtures::give_up)
    }

    /// What has crossed so far.
    pub(crate) const fn traffic(&self) -> Traffic {
        self.passage.traffic
    }

    /// What the layers whose attention is computed here keep of a conversation, by layer; nothing for the others.
    pub(crate) fn memories(&self, spec: &Spec, kv: &KvPlan, route: &Route) -> Result<Vec<Option<Memory>>> {
        let capacity = kv.tokens as usize;
        let stores = |(layer, devices): (&Layer, &LayerDevices)| match &layer.attention.kind {
            _ if devices.attention != Device::Gpu(self.number) => None,
            Kind::Heads(h) => Some(((kv.k_type, h.kv_heads, h.k_dim), Some((kv.v_type, h.kv_heads, h.v_dim)))),
            Kind::Latent(l) => Some(((kv.k_type, 1, l.sizes.rank + l.sizes.rotated), None)),
            Kind::Delta(_) => None,
        };
        let layers = || spec.layers.iter().zip(&route.layers).map(stores);
        let bytes = layers().flatten().flat_map(|(keys, values)| std::iter::once(keys).chain(values));
        let bytes = bytes.map(|(kind, heads, dim)| KvStore::bytes(kind, heads, dim, capacity)).sum();
        let mut arena = Arena::new(&self.gpu, "KV cache", bytes)?;
        let mut store = |(kind, heads, dim)| KvStore::new(&mut arena, kind, heads, dim, capacity);
        let mut cache = |(keys, values): (_, Option<_>)| {
            Ok(Memory::Card(CardCache { keys: store(keys)?, values: values.map(&mut store).transpose()? }))
        };
        layers().map(|stores| stores.map(&mut cache).transpose()).collect()
    }

    /// Says where the pass begins and what its tokens are, and computes its turns.
    pub(crate) fn begin(&mut self, first_position: usize, tokens: &[u32]) -> Result<()> {
        let stream = self.gpu.compute();
        self.arrived.synchronize()?;
        self.passage.begin()?;
        self.guests.as_mut().map_or(Ok(()), Guests::begin)?;
        if let Some(mixtures) = self.mixtures.as_mut().filter(|_| first_position == 0 || tokens.len() > FEW) {
            mixtures.forget_kept();
        }
        let count = 1 + tokens.len();
        self.next_words[0] = first_position as u32;
        self.next_words[1..count].copy_from_slice(tokens);
        stream.upload(self.next_words.part(..count), &mut self.words.slice_mut().range(..count))?;
        self.arrived.record(stream)?;
        for table in &mut self.turns {
            table.fill(stream, self.words.slice().range(..1), tokens.len())?;
        }
        // What a pass before, which may have failed, left open is no part of this one.
        (self.rounded, self.pending) = (None, None);
        Ok(())
    }

    /// Takes numbers from the processor.
    pub(crate) fn upload(&mut self, from: &[f32], part: Part) -> Result<()> {
        self.settle()?;
        self.writes(part);
        self.passage.up(&self.gpu, from, &mut self.registers.get_mut(part))
    }

    /// Takes numbers to the processor and waits for them.
    pub(crate) fn download(&mut self, part: Part, to: &mut [f32]) -> Result<()> {
        self.settle()?;
        self.passage.leave(self.registers.get(part))?;
        self.passage.down(&self.gpu, self.registers.get(part), to)
    }
}

/// Numbers of everything but vectors.
struct Sizes {
    /// Tokens of the largest micro-batch.
    tokens: usize,
    registers: [usize; REGISTERS],
    /// The widest input of a matrix.
    widest: usize,
    /// Bytes for products in halves.
    halves: Bytes,
    gathered: usize,
    /// Bytes for heads in a latent's space.
    latent: Option<Bytes>,
    mixtures: Option<Counts>,
}

impl Sizes {
    fn of(spec: &Spec, model: &ModelShape, (plan, route): (&Plan, &Route), gpu: &Gpu) -> Self {
        let tokens = plan.micro_batch as usize;
        let widths = scratch::widths(spec);
        let mut registers = [0; REGISTERS];
        for (count, width) in registers.iter_mut().zip(widths) {
            *count = tokens * width;
        }
        registers[Register::Logits as usize] = LOGIT_ROWS as usize * spec.vocabulary;
        // Queries go to their register on the way from the products, gated or not.
        let queries = |layer: &Layer| match &layer.attention.kind {
            Kind::Heads(heads) => layer.attention.heads * heads.k_dim,
            Kind::Latent(_) | Kind::Delta(_) => 0,
        };
        let queries = spec.layers.iter().map(queries).max().unwrap_or(0).max(widths[Register::Queries as usize]);
        registers[Register::Queries as usize] = tokens * queries;
        // The narrow vector that queries of latents are made from is normed into attention's register.
        let narrow = spec.latent().map_or(0, |(_, latent)| latent::narrow(latent));
        let attended = &mut registers[Register::Attended as usize];
        *attended = (*attended).max(tokens * narrow);
        let widest = [Register::Normed, Register::Attended, Register::Inner].map(|register| widths[register as usize]);
        let latent = spec.latent().map(|_| cost::gpu_latent(model, plan.micro_batch));
        // With weights that are brought, too.
        let number = gpu.info().ordinal;
        let here =
            |layer: usize| plan.blocks[layer].ffn == Device::Gpu(number) || route.streamed_to(layer)[1] == Some(number);
        let here = (0..plan.blocks.len()).any(here);
        Self {
            tokens,
            registers,
            widest: widest.into_iter().max().unwrap_or(0).max(narrow),
            halves: cost::gpu::halves(gpu.info().capability, plan.micro_batch),
            gathered: gathered(spec, plan, gpu, latent.map_or(0, |bytes| bytes.0 as usize / 4)),
            latent,
            mixtures: Counts::of(spec, tokens, tokens * widths[Register::Attended as usize]).filter(|_| here),
        }
    }

    fn bytes(&self, frequencies: &[Vec<f32>]) -> Bytes {
        Registers::bytes(&self.registers)
            + frequencies.iter().map(|f| RopeTable::bytes(f.len(), self.tokens)).sum()
            + Quantized::bytes(self.widest, self.tokens)
            + self.halves
            + Arena::bytes_of::<f32>(self.gathered)
            + self.latent.map_or(Bytes::ZERO, LatentRoom::bytes)
            + Arena::bytes_of::<u32>(1 + self.tokens)
            + self.mixtures.map_or(Bytes::ZERO, |counts| counts.bytes())
    }
}

/// Numbers that splits of attention gather at most, in any layer and for any number of tokens; `latent` of them hold heads in a latent's space.
fn gathered(spec: &Spec, plan: &Plan, gpu: &Gpu, latent: usize) -> usize {
    let (k_type, v_type, positions) = (plan.kv.k_type, plan.kv.v_type, plan.kv.tokens as usize);
    let room = |shape: &AttentionShape, kinds, tokens| {
        AttentionForm::choose(gpu.info(), shape, kinds, tokens, positions).room(shape)
    };
    let (mut most, mut known) = (0, Vec::new());
    for tokens in 1..=plan.micro_batch as usize {
        known.clear();
        for a in spec.layers.iter().map(|layer| &layer.attention) {
            let (shapes, kinds) = match &a.kind {
                Kind::Heads(heads) => ([Some(heads.shape(a)), None], (k_type, v_type)),
                Kind::Latent(l) => {
                    let group = latent::group(l, a.heads, tokens, latent);
                    // The last group may be a smaller one.
                    let shapes = [group, a.heads % group].map(|heads| latent::shape(l, heads, a.scale));
                    (shapes.map(|shape| Some(shape).filter(|shape| shape.heads > 0)), (k_type, k_type))
                }
                Kind::Delta(_) => continue,
            };
            for shape in shapes.into_iter().flatten() {
                if !known.contains(&shape) {
                    most = most.max(room(&shape, kinds, tokens));
                    known.push(shape);
                }
            }
        }
    }
    most
}

/// Refuses what the plan has no room for: more than it counts on a card under these names.
fn check_room(plan: &Plan, number: u32, what: &'static str, names: &[&str], needed: Bytes) -> Result<()> {
    let loads = plan.tier(Tier::Gpu(number)).into_iter().flat_map(|tier| &tier.loads);
    let planned = loads.filter(|load| names.contains(&load.what.as_str())).map(|load| load.bytes).sum();
    if needed > planned {
        return Err(EngineError::PlanTooSmall { what, planned, needed });
    }
    Ok(())
}
