//! What plimsoll occupies besides weights: every constant and formula in one place, to be calibrated against the process.
//!
//! The engine sizes its buffers with the same functions, so that what is planned is what is allocated.

pub mod gpu;
mod host;

use crate::{Bytes, DeltaSizes, Inventory, KvType, ModelShape, Role, Unit};

pub use host::{HostTokens, activations, mail};

/// Code, stacks, allocator and runtime of the process, before any model. Measured: 6 to 10 MiB resident on Linux, the
/// text of a prompt included.
pub const PROCESS: Bytes = Bytes(12 << 20);
/// What the CUDA driver adds to the process in RAM for each GPU: measured with one.
pub const PROCESS_CUDA: Bytes = Bytes(256 << 20);
/// Pinned RAM through which units are loaded to a GPU (16 MiB), caches of layers pass (16 MiB) and numbers cross.
pub const GPU_PINNED: Bytes = Bytes(42 << 20);
/// What a worker thread touches of its stack, and its handle, with its share of attention's partial results. Measured:
/// 39 KiB idle, and 128 KiB of unpacked weights while it multiplies; the partial results are 128 KiB.
pub const THREAD: Bytes = Bytes(336 << 10);
/// Bookkeeping in RAM for one unit: the unit, its placement with the reason, its lease.
pub const UNIT_RECORD: Bytes = Bytes(256);
/// Bookkeeping in RAM for one tensor: its name and description.
pub const TENSOR_RECORD: Bytes = Bytes(320);
/// Every unit in an arena starts at a multiple of this.
pub const UNIT_ALIGNMENT: u64 = 64;
/// Rows of logits that are computed at once where every position is asked for; one row is enough otherwise: see [`Logits`](crate::Logits).
pub const LOGIT_ROWS: u32 = 8;

/// Slots of the ring from disk, the usual one first; tight ceilings take a later one. What the usual one holds takes a drive of 3.5 GB/s
/// 7 ms, in which two cores compute a layer of an 8B from RAM: the drive does not rest meanwhile. An 8B of which 1.86 GB a token come from
/// disk made 1.3 tokens/s with half as many slots and 1.6 with these.
pub const RINGS: [(Bytes, u32); 5] =
    [(Bytes(2 << 20), 12), (Bytes(2 << 20), 6), (Bytes(1 << 20), 6), (Bytes(1 << 20), 4), (Bytes(1 << 20), 3)];

/// Prompt tokens computed in one pass, the usual number first; tight ceilings take a later one.
pub const MICRO_BATCHES: [u32; 6] = [512, 256, 128, 64, 32, 16];
/// The same where weights are streamed to a GPU, which pays off with more tokens in a pass.
pub const MICRO_BATCHES_STREAMED: [u32; 8] = [2048, 1024, 512, 256, 128, 64, 32, 16];
/// Tokens of context where none are asked for (and the model was trained for as many); tight ceilings take a later one.
pub const CONTEXTS: [u32; 4] = [4096, 2048, 1024, 512];

/// The process with its bookkeeping of this model, in RAM, where so many GPUs compute.
#[must_use]
pub fn process(inventory: &Inventory, gpus: u64) -> Bytes {
    let records = UNIT_RECORD.0 * inventory.units.len() as u64 + TENSOR_RECORD.0 * inventory.tensors.len() as u64;
    PROCESS + (PROCESS_CUDA + GPU_PINNED).times(gpus) + Bytes(records)
}

/// The tokenizer built from the model's vocabulary: `text + 17 B × tokens + 20 B × merges + 3 MiB`.
///
/// Texts are packed; each token and each merge rule has an entry in a table and a slot in an index; the patterns that
/// cut words have their automata. Measured on vocabularies of 49 k and 262 k tokens.
#[must_use]
pub fn vocabulary(inventory: &Inventory) -> Bytes {
    let size = inventory.vocabulary;
    Bytes(size.text_bytes.0 + size.tokens * 17 + size.merges * 20 + (3 << 20))
}

/// The KV cache of `tokens` tokens: over layers, `tokens × rows × bytes of a row`, for keys and for values. A row is one
/// head's numbers; types with blocks pad it to whole blocks. Where a layer has an indexer, its key is one row more, kept
/// as keys are.
#[must_use]
pub fn kv_cache(shape: &ModelShape, tokens: u32, k_type: KvType, v_type: KvType) -> Bytes {
    (0..shape.kv_per_token.len()).map(|layer| kv_layer(shape, layer, tokens, k_type, v_type)).sum()
}

/// One layer's part of [`kv_cache`]; nothing for a layer that the model does not have.
#[must_use]
pub fn kv_layer(shape: &ModelShape, layer: usize, tokens: u32, k_type: KvType, v_type: KvType) -> Bytes {
    let rows = |numbers: u32, row: u32, kind: KvType| {
        let row = u64::from(row.max(1));
        Bytes(u64::from(numbers).div_ceil(row) * kind.bytes(row).0)
    };
    let (k, v) = shape.kv_per_token.get(layer).copied().unwrap_or((0, 0));
    let indexer = shape.indexer_per_token.get(layer).map_or(Bytes::ZERO, |key| k_type.bytes(u64::from(*key)));
    let token = rows(k, shape.kv_row.0, k_type) + rows(v, shape.kv_row.1, v_type) + indexer;
    token.times(u64::from(tokens))
}

/// The states of delta nets, twice: what a pass makes of them is kept beside what they were, until the pass has succeeded.
#[must_use]
pub fn states(shape: &ModelShape) -> Bytes {
    (0..shape.layers as usize).map(|layer| state_layer(shape, layer)).sum()
}

/// One layer's part of [`states`].
#[must_use]
pub fn state_layer(shape: &ModelShape, layer: usize) -> Bytes {
    let Some(delta) = shape.delta.as_ref().filter(|delta| delta.layers.get(layer) == Some(&true)) else {
        return Bytes::ZERO;
    };
    let (convolution, matrices) = delta.state();
    Bytes(2 * 4 * (convolution + matrices))
}

/// Bytes that a unit occupies in an arena: its own, rounded up to [`UNIT_ALIGNMENT`].
#[must_use]
pub const fn resident(unit: &Unit) -> Bytes {
    Bytes(unit.bytes.0.next_multiple_of(UNIT_ALIGNMENT))
}

/// The widest vectors of a model: what one token occupies while a layer is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// The residual stream.
    pub embedding: u64,
    /// The widest input or output of an attention matrix (a fused one holds queries, keys and values). Matrices that
    /// expand a latent do not count: they are multiplied with a group of heads at a time, in [`latent_scratch`].
    pub attention: u64,
    /// Keys and values of one token in one layer.
    pub kv: u64,
    /// The widest input or output of a feed-forward matrix, the chosen experts of one token side by side.
    pub feed_forward: u64,
    /// One head's key or value, or MLA's latent, whichever is wider.
    pub head: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
    /// Routed experts of a layer: the scores of the router.
    pub experts: u64,
    /// Routed experts that a token uses.
    pub experts_used: u64,
    /// A token's latent with its rotated key; 0 for models that keep none.
    pub latent: u64,
    /// Whether layers choose the positions that they look at.
    pub indexed: bool,
    /// Keys and values of a delta net, and how its states fade and are corrected; 0 for models without.
    pub delta: u64,
    /// Layers.
    pub layers: u64,
}

impl Widths {
    /// Reads the widths from the shape and, where matrices are fused, from their tensors.
    #[must_use]
    pub fn of(inventory: &Inventory) -> Self {
        let shape = &inventory.shape;
        let mut attention = u64::from(shape.embedding);
        let mut feed_forward = u64::from(shape.feed_forward);
        let (mut expert, latent) = (0, latent_row(shape));
        for unit in &inventory.units {
            let tensor = inventory.tensor_of(unit);
            if tensor.dims.len() < 2 {
                continue;
            }
            let wide = tensor.row_elements().max(unit.rows);
            match unit.role {
                Role::Attention if latent > 0 && expands_latent(&tensor.name) => {}
                Role::Attention => attention = attention.max(wide),
                Role::DenseFfn | Role::SharedExpert => feed_forward = feed_forward.max(wide),
                // The inner width, whichever way the matrix lies.
                Role::RoutedExpert => expert = expert.max(tensor.row_elements() * unit.rows / stream_width(shape)),
                _ => {}
            }
        }
        let kv = shape.kv_per_token.iter().map(|(k, v)| u64::from(*k) + u64::from(*v)).max().unwrap_or(0);
        Self {
            embedding: u64::from(shape.embedding),
            attention,
            kv,
            feed_forward: feed_forward.max(expert * u64::from(shape.experts_used)),
            head: u64::from(shape.kv_row.0.max(shape.kv_row.1)),
            vocabulary: u64::from(shape.vocabulary),
            experts: u64::from(shape.experts),
            experts_used: u64::from(shape.experts_used),
            latent,
            indexed: indexed(shape),
            delta: shape.delta.as_ref().map_or(0, delta_width),
            layers: u64::from(shape.layers),
        }
    }
}

/// Keys and values, decays, betas, and the two together as one matrix may make them.
fn delta_width(delta: &DeltaSizes) -> u64 {
    let [_, k, v] = delta.widths();
    k + v + delta.decays() + 3 * u64::from(delta.heads)
}

/// Whether a matrix makes the keys or values of all heads from a latent: both of them, or one of each.
fn expands_latent(tensor: &str) -> bool {
    ["attn_kv_b.", "attn_k_b.", "attn_v_b."].iter().any(|name| tensor.contains(name))
}

/// The width of the residual stream, to divide by.
fn stream_width(shape: &ModelShape) -> u64 {
    u64::from(shape.embedding).max(1)
}

/// What a token keeps of each choice of an expert: the expert, its weight and its place by expert, with token and weight
/// (4 bytes each, 16 together), the runs of columns that gate and up read and write (2 × 16), and those of down with their
/// weights (24).
pub const CHOICE: Bytes = Bytes(72);
/// Keys and values of a group of heads that are made from latents for all positions: as many heads as fit.
pub const LATENT_EXPANDED: Bytes = Bytes(16 << 20);
/// Positions whose latents are unpacked at once.
pub const LATENT_TILE: u32 = 256;

/// Room for queries of a group of heads in the latent's space and for what they gather there; one head always fits. Zero
/// for models that keep no latent.
#[must_use]
pub fn latent_rows(shape: &ModelShape, micro_batch: u32) -> Bytes {
    latent_rows_of(latent_row(shape), micro_batch)
}

fn latent_rows_of(row: u64, micro_batch: u32) -> Bytes {
    match row {
        0 => Bytes::ZERO,
        row => Bytes((8 << 20).max(4 * 2 * row * u64::from(micro_batch))),
    }
}

/// Everything that latent attention needs besides activations: [`latent_rows`], [`LATENT_EXPANDED`] and a tile of
/// [`LATENT_TILE`] unpacked latents.
#[must_use]
pub fn latent_scratch(shape: &ModelShape, micro_batch: u32) -> Bytes {
    latent_scratch_of(latent_row(shape), micro_batch)
}

fn latent_scratch_of(row: u64, micro_batch: u32) -> Bytes {
    match row {
        0 => Bytes::ZERO,
        row => latent_rows_of(row, micro_batch) + LATENT_EXPANDED + Bytes(4 * row * u64::from(LATENT_TILE)),
    }
}

/// The room on a GPU for queries of a group of heads in the latent's space and for what they gather there: more of them than in RAM, where
/// each group is a launch of its own, but no more than there are. Zero for models that keep no latent.
#[must_use]
pub fn gpu_latent(shape: &ModelShape, micro_batch: u32) -> Bytes {
    let head = 4 * 2 * latent_row(shape) * u64::from(micro_batch);
    Bytes((64 << 20).clamp(head, head * u64::from(shape.heads.max(1))))
}

/// Numbers of a token's latent with its rotated key; 0 for models that keep none.
fn latent_row(shape: &ModelShape) -> u64 {
    let keeps = shape.kv_per_token.iter().find(|(k, v)| *k > 0 && *v == 0);
    keeps.map_or(0, |(k, _)| u64::from(*k))
}

/// Whether some layer has an indexer.
fn indexed(shape: &ModelShape) -> bool {
    shape.indexer_per_token.iter().any(|key| *key > 0)
}

/// Positions of a word of a selection; rows of scores come in as many.
const WORD: u32 = u64::BITS;

/// Scores of the positions of one token, for each thread a row.
#[must_use]
pub fn scores(threads: u32, context: u32) -> Bytes {
    Bytes(4 * u64::from(threads) * u64::from(context).next_multiple_of(WORD.into()))
}

/// What an indexer needs besides its matrices' results: [`scores`], and for each token of a micro-batch a bit for each
/// position. Zero for models that have none.
#[must_use]
pub fn selection(shape: &ModelShape, micro_batch: u32, threads: u32, context: u32) -> Bytes {
    if indexed(shape) { scores(threads, context) + selected(micro_batch, context) } else { Bytes::ZERO }
}

fn selected(micro_batch: u32, context: u32) -> Bytes {
    Bytes(8 * u64::from(micro_batch) * u64::from(context.div_ceil(WORD)))
}

/// Numbers of a column that lie together where they are multiplied in integers.
pub const RUN_NUMBERS: u64 = 256;
/// Such a run: a byte for each number, scales, and sums of 16 and 32 numbers as integers and as floats.
pub const RUN: Bytes = Bytes(448);

/// Columns of `width` numbers in the form in which they meet quantized weights.
#[must_use]
pub const fn quantized(columns: u64, width: u64) -> Bytes {
    Bytes(columns * width.div_ceil(RUN_NUMBERS) * RUN.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> ModelShape {
        ModelShape {
            architecture: "llama".to_owned(),
            layers: 2,
            embedding: 640,
            heads: 8,
            feed_forward: 1,
            vocabulary: 1,
            context_train: 1,
            kv_per_token: vec![(320, 320), (0, 0)],
            kv_row: (80, 80),
            latent: None,
            indexer_per_token: Vec::new(),
            delta: None,
            experts: 0,
            experts_used: 0,
        }
    }

    #[test]
    fn rows_of_quantized_keys_are_padded_head_by_head() {
        let mut shape = shape();
        assert_eq!(kv_cache(&shape, 10, KvType::F16, KvType::F32), Bytes(10 * (320 * 2 + 320 * 4)));
        // Four heads of three blocks of 34 bytes, twice.
        assert_eq!(kv_cache(&shape, 10, KvType::Q8_0, KvType::Q8_0), Bytes(10 * 2 * 4 * 3 * 34));
        // A latent is one row.
        (shape.kv_per_token, shape.kv_row) = (vec![(576, 0)], (576, 0));
        assert_eq!(kv_cache(&shape, 10, KvType::Q8_0, KvType::Q8_0), Bytes(10 * 18 * 34));
        // An indexer keeps a key beside it.
        shape.indexer_per_token = vec![128];
        assert_eq!(kv_cache(&shape, 10, KvType::F16, KvType::F16), Bytes(10 * (576 + 128) * 2));
    }

    #[test]
    fn a_state_is_kept_twice_whatever_the_context() {
        // Qwen3-Next 80B: three of four layers of 48.
        let delta = DeltaSizes {
            layers: (1..=48).map(|layer| layer % 4 != 0).collect(),
            heads: 32,
            key_heads: 16,
            key: 128,
            value: 128,
            taps: 4,
            decay_each: false,
        };
        let numbers = 36 * (3 * (2 * 16 * 128 + 32 * 128) + 32 * 128 * 128);
        let mut shape = shape();
        assert_eq!(states(&shape), Bytes::ZERO);
        (shape.layers, shape.delta) = (48, Some(delta));
        assert_eq!(states(&shape), Bytes(2 * 4 * numbers));
    }
}
