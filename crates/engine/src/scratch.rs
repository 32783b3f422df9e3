//! Activation tensors, created once for the largest micro-batch.

use candle_core::{DType, Device, Tensor};
use kernels::cpu::KvStore;
use plan::cost::{self, HostTokens, LATENT_TILE};
use plan::{Bytes, Inventory, KvType, ModelShape, Plan};

use crate::EngineError;
use crate::pairs::Pairs;
use crate::rounded::Rounded;
use crate::selection::Selection;
use crate::spec::{Ffn, Form, GatedUnit, Kind, Latent, Layer, Linear, Rates, Spec};

/// The activations of one pass, each `[micro_batch, width]`.
pub(crate) struct Scratch {
    /// The residual stream.
    pub(crate) x: Tensor,
    /// What a norm made of it.
    pub(crate) normed: Tensor,
    /// What the matrices that read attention's input make of it, one after another: queries, keys, values.
    pub(crate) projected: Tensor,
    /// Queries that are not: those of heads with gates, and those made from a narrow vector, with an indexer's behind.
    pub(crate) queries: Tensor,
    /// Attention's output, all heads.
    pub(crate) attended: Tensor,
    /// Gates, behind them ups, and behind those of the shared expert a router's scores and the shared expert's own gate.
    pub(crate) gate_up: Tensor,
    /// The activated gate times up.
    pub(crate) inner: Tensor,
    pub(crate) gates: Gates,
    /// What the matrices at hand read, in 8 bits.
    pub(crate) rounded: Rounded,
    /// A block's output before it joins the residual stream.
    pub(crate) block: Tensor,
    /// `[rows of the plan's logits, vocabulary]`.
    pub(crate) logits: Tensor,
    /// One norm weight or bias.
    pub(crate) vector: Vec<f32>,
    /// One row of the embedding table, as stored.
    pub(crate) row: Vec<u8>,
    /// An expert's bias, as stored.
    pub(crate) bias_row: Vec<u8>,
    /// Which token goes to which expert.
    pub(crate) pairs: Pairs,
    /// What latent attention needs besides.
    pub(crate) latent: Option<LatentRooms>,
    pub(crate) selection: Selection,
    tokens: usize,
    bytes: Bytes,
}

/// What gates outputs and states of delta nets, where it is not made by one matrix alone.
pub(crate) struct Gates {
    /// Gates of attention's output.
    pub(crate) output: Tensor,
    /// What states are multiplied with.
    pub(crate) decay: Tensor,
    /// How much of a correction they take.
    pub(crate) beta: Tensor,
}

/// Width of each gate.
fn gate_widths(spec: &Spec) -> [usize; 3] {
    let mut widest = [0; 3];
    for layer in &spec.layers {
        let Kind::Delta(d) = &layer.attention.kind else { continue };
        let output = d.gate.second().map_or(0, |up| up.outputs);
        let rates = match &d.rates {
            Rates::Apart { decay, .. } => [decay.second().map_or(0, |up| up.outputs), 0],
            Rates::Together(both) => [both.outputs / 2; 2],
        };
        let widths = [output, rates[0], rates[1]];
        widest = std::array::from_fn(|i| widest[i].max(widths[i]));
    }
    widest
}

/// Room for a group of heads in latent attention.
pub(crate) struct LatentRooms {
    /// Queries and what they gather.
    pub(crate) rows: Vec<f32>,
    /// Latents of a run of positions.
    pub(crate) tile: Vec<f32>,
    /// Keys at all positions, where latents are expanded.
    pub(crate) keys: KvStore,
    /// Values likewise.
    pub(crate) values: KvStore,
}

/// Width of each tensor, in the order of [`Scratch`]'s fields and of registers, logits apart.
pub(crate) fn widths(spec: &Spec) -> [usize; 8] {
    let widest = |of: &dyn Fn(&Layer) -> usize| spec.layers.iter().map(of).max().unwrap_or(1);
    [
        spec.width,
        spec.width,
        widest(&|l| projected(&l.attention.kind)),
        widest(&|l| match &l.attention.kind {
            Kind::Heads(h) if h.gated => h.q.outputs / 2,
            Kind::Heads(_) | Kind::Delta(_) => 0,
            Kind::Latent(latent) => outputs(latent.queries(Form::SELECTING)),
        }),
        // A card leaves its experts' outputs there.
        widest(&|l| l.attention.output.inputs.max(if l.ffn.chooses() { spec.width } else { 0 })),
        widest(&|l| gate_up(&l.ffn)),
        widest(&|l| inner(&l.ffn)),
        spec.width,
    ]
}

/// Outputs of all matrices that read attention's input.
fn projected(kind: &Kind) -> usize {
    match kind {
        Kind::Heads(heads) => outputs(heads.inputs()),
        Kind::Delta(net) => outputs(net.inputs()),
        Kind::Latent(latent) => outputs(latent.inputs(Form::SELECTING)),
    }
}

fn outputs<'a>(matrices: impl IntoIterator<Item = &'a Linear>) -> usize {
    matrices.into_iter().map(|matrix| matrix.outputs).sum()
}

/// Experts of one token, in the layer where they are most.
fn chosen(spec: &Spec) -> usize {
    let used = |layer: &Layer| match &layer.ffn {
        Ffn::Dense(_) => 0,
        Ffn::Mixture(mixture) => mixture.routing.used,
    };
    spec.layers.iter().map(used).max().unwrap_or(0)
}

/// Inner numbers of one token: those of a dense network, or of all its experts and of the shared one.
fn inner(ffn: &Ffn) -> usize {
    let gated = |unit: &GatedUnit| unit.down.inputs;
    match ffn {
        Ffn::Dense(dense) => gated(&dense.unit),
        Ffn::Mixture(m) => (m.routing.used * m.inner).max(m.shared.as_ref().map_or(0, |shared| gated(&shared.unit))),
    }
}

/// Gates and ups of one token, with what is made beside those of a shared expert.
fn gate_up(ffn: &Ffn) -> usize {
    match ffn {
        Ffn::Dense(_) => 2 * inner(ffn),
        Ffn::Mixture(m) => (2 * m.routing.used * m.inner).max(outputs(m.inputs())),
    }
}

/// The widest input of a matrix, in 8 bits; those of a token's experts are columns of their own.
fn rounded(spec: &Spec, tokens: u32) -> Bytes {
    let columns = |layer: &Layer| {
        let wide = cost::quantized(1, inputs(layer) as u64);
        match &layer.ffn {
            Ffn::Mixture(m) => wide.max(cost::quantized(m.routing.used as u64, m.inner as u64)),
            Ffn::Dense(_) => wide,
        }
    };
    let widest = spec.layers.iter().map(columns).max().unwrap_or(Bytes::ZERO);
    widest.max(cost::quantized(1, spec.width as u64)).times(tokens.into())
}

/// The widest input of a layer's matrices, those of experts apart.
fn inputs(layer: &Layer) -> usize {
    let narrow = match &layer.attention.kind {
        Kind::Latent(latent) => latent.query.first().outputs,
        // The narrow vectors of a delta net are narrower than its output.
        Kind::Heads(_) | Kind::Delta(_) => 0,
    };
    let inner = match &layer.ffn {
        Ffn::Dense(dense) => dense.unit.down.inputs,
        Ffn::Mixture(m) => m.shared.as_ref().map_or(0, |shared| shared.unit.down.inputs),
    };
    layer.attention.output.inputs.max(narrow).max(inner)
}

impl LatentRooms {
    fn new(latent: &Latent, shape: &ModelShape, micro_batch: usize) -> Result<Self, EngineError> {
        let (s, positions) = (latent.sizes, Self::positions(latent));
        let store = |dim| {
            KvStore::try_new(KvType::F32, 1, dim, positions).map_err(|source| EngineError::Memory {
                what: "expanded keys and values",
                bytes: cost::LATENT_EXPANDED,
                source,
            })
        };
        Ok(Self {
            rows: vec![0.0; cost::latent_rows(shape, micro_batch as u32).0 as usize / 4],
            tile: vec![0.0; LATENT_TILE as usize * (s.rank + s.rotated)],
            keys: store(s.plain + s.rotated)?,
            values: store(s.value)?,
        })
    }

    /// Positions, times heads, for which there is room to expand keys and values.
    fn positions(latent: &Latent) -> usize {
        let s = latent.sizes;
        cost::LATENT_EXPANDED.0 as usize / 4 / (s.plain + s.rotated + s.value)
    }

    /// Numbers for queries and what they gather, and positions times heads for expanded keys and values.
    pub(crate) fn sizes(&self, latent: &Latent) -> (usize, usize) {
        (self.rows.len(), Self::positions(latent))
    }
}

impl Scratch {
    pub(crate) fn new(spec: &Spec, inventory: &Inventory, plan: &Plan, row: usize) -> Result<Self, EngineError> {
        let (shape, micro_batch) = (&inventory.shape, plan.micro_batch as usize);
        let rows = |count: usize, width: usize| Tensor::zeros((count, width), DType::F32, &Device::Cpu);
        let [x, normed, projected, queries, attended, gate_up, inner, block] =
            widths(spec).map(|width| rows(micro_batch, width));
        let [output, decay, beta] = gate_widths(spec).map(|width| rows(micro_batch, width));
        let gates = Gates { output: output?, decay: decay?, beta: beta? };
        Ok(Self {
            x: x?,
            normed: normed?,
            projected: projected?,
            queries: queries?,
            attended: attended?,
            gate_up: gate_up?,
            inner: inner?,
            gates,
            rounded: Rounded::with_capacity(rounded(spec, plan.micro_batch)),
            block: block?,
            logits: rows(plan.logits.rows() as usize, spec.vocabulary)?,
            vector: vec![0.0; spec.longest_vector()],
            row: vec![0; row],
            bias_row: Vec::new(),
            pairs: Pairs::with_capacity(micro_batch * chosen(spec), shape.experts as usize),
            latent: spec.latent().map(|(_, latent)| LatentRooms::new(latent, shape, micro_batch)).transpose()?,
            selection: Selection::new(shape, plan),
            tokens: micro_batch,
            bytes: Self::bytes_for(spec, shape, plan, HostTokens::of(plan, inventory)),
        })
    }

    /// Bytes of all tensors for this model and plan, as far as they are used for so many tokens: a system gives memory where it is touched.
    pub(crate) fn bytes_for(spec: &Spec, shape: &ModelShape, plan: &Plan, tokens: HostTokens) -> Bytes {
        let [x, normed, projected, queries, attended, gate_up, inner, block] = widths(spec);
        let attention = projected + queries + attended + gate_widths(spec).iter().sum::<usize>();
        let at_once = tokens.block(plan.logits);
        let floats =
            [(tokens.pass, x), (at_once, normed + block), (tokens.attention, attention), (tokens.ffn, gate_up + inner)];
        let numbers = |(tokens, width): (u32, usize)| u64::from(tokens) * width as u64;
        let logits = plan.logits.rows() as usize * spec.vocabulary;
        Bytes(4 * floats.into_iter().map(numbers).sum::<u64>())
            + Bytes(4 * logits as u64)
            + rounded(spec, at_once)
            + cost::CHOICE.times(u64::from(tokens.pass) * chosen(spec) as u64)
            + cost::latent_scratch(shape, tokens.attention)
            + cost::selection(shape, tokens.attention, plan.threads, plan.kv.tokens)
    }

    /// Bytes that passes use.
    pub(crate) const fn bytes(&self) -> Bytes {
        self.bytes
    }

    /// The largest micro-batch.
    pub(crate) const fn tokens(&self) -> usize {
        self.tokens
    }
}
