//! A card's side of a pass: registers, vectors and turns in its memory, created once, and the steps over them.
//!
//! Owns which kernel a step is there, and what it may do beside another step: a norm or an activation leaves its result in 8 bits too,
//! since a product comes next. Must never know the order of a layer's steps: that is `blocks`.

mod guests;
mod pass;
mod passage;
mod recorded;
mod registers;
mod vectors;

use std::ops::Range;

use kernels::cpu::AttentionShape;
use kernels::cuda::{Arena, AttentionForm, DeviceBuffer, Event, Gpu, KvStore, Pinned, Quantized, RopeTable, supports};
use plan::cost::LOGIT_ROWS;
use plan::{Bytes, Device, Inventory, KvPlan, KvType, LayerDevices, Plan, Tier};
use tiers::Tiers;

use guests::Guests;
pub(crate) use pass::GpuPass;
use passage::Passage;
use recorded::Recorded;
use registers::Registers;
use vectors::Vectors;

use crate::route::Route;
use crate::session::{LayerCache, Memory};
use crate::spec::{Heads, Kind, Layer, Spec};
use crate::stats::Traffic;
use crate::steps::{Part, REGISTERS, Register};
use crate::{EngineError, scratch};

type Result<T> = std::result::Result<T, EngineError>;

/// Keys and values of one layer on a card.
#[derive(Debug)]
pub(crate) struct CardCache {
    keys: KvStore,
    values: KvStore,
}

/// Everything that a card holds besides weights and caches.
pub(crate) struct GpuSide {
    gpu: Gpu,
    number: u32,
    registers: Registers,
    vectors: Vectors,
    /// One for each rope of the model.
    turns: Vec<RopeTable>,
    /// What the next products read, in 8 bits.
    columns: Quantized,
    /// Which numbers those are.
    rounded: Option<Part>,
    /// A block that is yet to be added to the residual stream: the norm that comes next, as a rule, does both.
    pending: Option<(Part, Part)>,
    /// Room for what splits of attention gather.
    gathered: DeviceBuffer<f32>,
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
    /// Logits on their way to the processor; lent out while they are.
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
        spec: &Spec,
        inventory: &Inventory,
        plan: &Plan,
        frequencies: &[Vec<f32>],
        route: &Route,
        tiers: &mut Tiers,
    ) -> Result<Self> {
        let Some(gpu) = tiers.card(number).cloned() else { unreachable!("the plan homes layers on gpu:{number}") };
        let sizes = Sizes::of(spec, plan, &gpu);
        let needed = sizes.bytes(frequencies) + Vectors::bytes(inventory);
        check_room(plan, number, needed)?;
        let mut arena = Arena::new(&gpu, "activations", needed)?;
        let turns = frequencies.iter().zip(&spec.ropes).map(|(frequencies, rope)| {
            Ok(RopeTable::new(&gpu, &mut arena, frequencies, rope.magnitude, sizes.tokens)?)
        });
        let turns = turns.collect::<Result<_>>()?;
        Ok(Self {
            number,
            registers: Registers::new(&mut arena, &sizes.registers)?,
            vectors: Vectors::new(&gpu, &mut arena, inventory, tiers)?,
            turns,
            columns: Quantized::new(&mut arena, sizes.widest, sizes.tokens)?,
            rounded: None,
            pending: None,
            gathered: arena.take(sizes.gathered)?,
            forms: Vec::with_capacity(FORMS),
            capacity: plan.kv.tokens as usize,
            words: arena.take(1 + sizes.tokens)?,
            next_words: Pinned::new(&gpu, 1 + sizes.tokens)?,
            arrived: Event::new(&gpu)?,
            passage: Passage::new(&gpu, scratch::widths(spec).into_iter().max().unwrap_or(0))?,
            recorded: Vec::new(),
            letters: Some(Pinned::new(&gpu, sizes.registers[Register::Logits as usize])?),
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

    /// What has crossed so far.
    pub(crate) const fn traffic(&self) -> Traffic {
        self.passage.traffic
    }

    /// What the layers whose attention is computed here keep of a conversation, by layer; nothing for the others.
    pub(crate) fn memories(&self, spec: &Spec, kv: &KvPlan, route: &Route) -> Result<Vec<Option<Memory>>> {
        let here = |(layer, devices): (_, &LayerDevices)| {
            let layer: &Layer = layer;
            match &layer.attention.kind {
                Kind::Heads(heads) if devices.attention == Device::Gpu(self.number) => Some(heads),
                Kind::Heads(_) | Kind::Latent(_) | Kind::Delta(_) => None,
            }
        };
        let layers = || spec.layers.iter().zip(&route.layers).map(here);
        let capacity = kv.tokens as usize;
        let stores = |h: &Heads| [(kv.k_type, h.kv_heads, h.k_dim), (kv.v_type, h.kv_heads, h.v_dim)];
        let bytes = layers().flatten().flat_map(stores);
        let bytes = bytes.map(|(kind, heads, dim)| KvStore::bytes(kind, heads, dim, capacity)).sum();
        let mut arena = Arena::new(&self.gpu, "KV cache", bytes)?;
        let mut cache = |heads: &Heads| {
            let [(k_type, k_heads, k_dim), (v_type, v_heads, v_dim)] = stores(heads);
            let keys = KvStore::new(&mut arena, k_type, k_heads, k_dim, capacity)?;
            let values = KvStore::new(&mut arena, v_type, v_heads, v_dim, capacity)?;
            Ok(Memory::Card(CardCache { keys, values }))
        };
        layers().map(|heads| heads.map(&mut cache).transpose()).collect()
    }

    /// Says where the pass begins and what its tokens are, and computes its turns.
    pub(crate) fn begin(&mut self, first_position: usize, tokens: &[u32]) -> Result<()> {
        let stream = self.gpu.compute();
        self.arrived.synchronize()?;
        self.passage.begin()?;
        self.guests.as_mut().map_or(Ok(()), Guests::begin)?;
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
    gathered: usize,
}

impl Sizes {
    fn of(spec: &Spec, plan: &Plan, gpu: &Gpu) -> Self {
        let tokens = plan.micro_batch as usize;
        let widths = scratch::widths(spec);
        let mut registers = [0; REGISTERS];
        for (count, width) in registers.iter_mut().zip(widths) {
            *count = tokens * width;
        }
        registers[Register::Logits as usize] = LOGIT_ROWS as usize * spec.vocabulary;
        let heads = || {
            spec.layers.iter().filter_map(|layer| match &layer.attention.kind {
                Kind::Heads(heads) => Some((&layer.attention, heads)),
                Kind::Latent(_) | Kind::Delta(_) => None,
            })
        };
        // Queries go to their register on the way from the products, gated or not.
        let queries = heads().map(|(a, h)| a.heads * h.k_dim).max().unwrap_or(0);
        registers[Register::Queries as usize] = tokens * queries;
        let mut shapes: Vec<AttentionShape> = Vec::new();
        for shape in heads().map(|(a, h)| h.shape(a)) {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        let (kinds, positions) = ((plan.kv.k_type, plan.kv.v_type), plan.kv.tokens as usize);
        let room = |shape: &AttentionShape, tokens| {
            AttentionForm::choose(gpu.info(), shape, kinds, tokens, positions).room(shape)
        };
        let gathered =
            shapes.iter().flat_map(|shape| (1..=tokens).map(|tokens| room(shape, tokens))).max().unwrap_or(0);
        let widest = [Register::Normed, Register::Attended, Register::Inner].map(|register| widths[register as usize]);
        Self { tokens, registers, widest: widest.into_iter().max().unwrap_or(0), gathered }
    }

    fn bytes(&self, frequencies: &[Vec<f32>]) -> Bytes {
        Registers::bytes(&self.registers)
            + frequencies.iter().map(|f| RopeTable::bytes(f.len(), self.tokens)).sum()
            + Quantized::bytes(self.widest, self.tokens)
            + Arena::bytes_of::<f32>(self.gathered)
            + Arena::bytes_of::<u32>(1 + self.tokens)
    }
}

/// Refuses what the plan has no room for.
fn check_room(plan: &Plan, number: u32, needed: Bytes) -> Result<()> {
    let loads = plan.tier(Tier::Gpu(number)).into_iter().flat_map(|tier| &tier.loads);
    let counted = loads.filter(|load| ["activations", "vectors"].contains(&load.what.as_str()));
    let planned = counted.map(|load| load.bytes).sum();
    if needed > planned {
        return Err(EngineError::PlanTooSmall { what: "activations on the GPU", planned, needed });
    }
    Ok(())
}

/// Refuses matrices on a card that no kernel there multiplies with.
///
/// # Errors
/// [`EngineError::NotOnGpu`] with the first.
pub(crate) fn check_types(plan: &Plan, inventory: &Inventory) -> Result<()> {
    for (id, unit) in inventory.iter() {
        let (home, tensor) = (plan.home(id), inventory.tensor_of(unit));
        if matches!(home, Tier::Gpu(_)) && !supports(tensor.quant) {
            let why = format!("{} is stored as {}, which has no kernel there yet", tensor.name, tensor.quant);
            return Err(EngineError::NotOnGpu { tier: home, why });
        }
    }
    Ok(())
}
