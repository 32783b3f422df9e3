//! Causal attention with grouped heads over a [`KvStore`] on a card.
//!
//! Four kernels do it, and [`AttentionForm`] says which: *decode* for a few tokens and *prefill* for many, both on tensor cores and for the head
//! widths that models have; *latent* for absorbed latent attention; *exact* in f32 on plain cores for everything else, caches of f32 first of
//! all. Decode carries queries and powers with 22 bits, prefill and latent with the 11 of a half; sums are f32 everywhere.
//!
//! Where there are fewer tiles of queries than multiprocessors, positions are split over blocks and a second kernel merges what they gathered.
//! How they are split depends on shapes and the capacity, not on the position, which the kernels read from the card's memory: so a graph
//! that was captured once serves for every token.

use plan::KvType;

use super::kv::KvRows;
use super::launch::{Address, Kernel, Param, Shape, launch};
use super::{CudaError, GpuInfo, KvPart, KvStore, Rows, Slice, SliceMut, Stream};
use crate::cpu::AttentionShape;

/// Head widths of K and V that tensor cores' forms were compiled for.
const WIDTHS: [(usize, usize); 5] = [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)];
/// Widths of absorbed latent attention.
const LATENT: (usize, usize) = (576, 512);
/// Queries that share a KV head up to which they are split over blocks by eight; more are taken by tiles of 64.
const DECODE_QUERIES: usize = 32;
/// Positions of a split at least, and over latents, where a block takes as long for them.
const SPLIT_POSITIONS: usize = 128;
const SPLIT_LATENTS: usize = 32;
/// The most splits: what one block merges.
const SPLITS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Exact,
    Decode,
    Prefill,
    Latent,
}

/// How attention is computed for passes of some shape: which kernel, and over how many blocks positions are split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionForm {
    form: Form,
    name: String,
    splits: usize,
    tokens: usize,
}

/// What else decides which positions queries see and how they weigh, as [`cpu::Sight`](crate::cpu::Sight).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight<'a> {
    /// A score for each head that takes part in its softmax and carries no value.
    pub sinks: Option<Slice<'a, f32>>,
    /// Positions come in chunks of this length, and a query sees none before its own chunk.
    pub chunk: Option<u32>,
    /// A row of words for each token that covers the store's capacity: position p is seen where bit p mod 64 of word p / 64 is set.
    pub selected: Option<Slice<'a, u64>>,
}

/// `struct Attention` of `attention.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    q: Address,
    k: KvRows,
    v: KvRows,
    out: Address,
    partial: Address,
    sinks: Address,
    selected: Address,
    first_position: Address,
    words: u32,
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    dim_k: u32,
    dim_v: u32,
    q_step: u32,
    out_step: u32,
    splits: u32,
    window: u32,
    chunk: u32,
    scale: f32,
    softcap: f32,
}

// SAFETY: the kernels' structure, field for field.
unsafe impl Param for Parameters {}

impl AttentionForm {
    /// How a pass of `tokens` tokens over stores of these types is computed best, where up to `positions` positions are seen.
    #[must_use]
    pub fn choose(
        info: &GpuInfo,
        shape: &AttentionShape,
        kinds: (KvType, KvType),
        tokens: usize,
        positions: usize,
    ) -> Self {
        let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = *shape;
        let queries = tokens * heads / kv_heads.max(1);
        let widths = (dim_k, dim_v);
        let same = kinds.0 == kinds.1 && kinds.0 != KvType::F32;
        let form = match () {
            () if same && widths == LATENT && kv_heads == 1 => Form::Latent,
            () if !same || !WIDTHS.contains(&widths) => Form::Exact,
            () if queries <= DECODE_QUERIES || (tokens == 1 && queries <= 2 * DECODE_QUERIES) => Form::Decode,
            () => Form::Prefill,
        };
        let (blocks, each) = match form {
            Form::Exact => (heads * tokens, 4),
            Form::Decode => (kv_heads * (heads / kv_heads).div_ceil(8) * tokens, 3),
            Form::Prefill => (kv_heads * queries.div_ceil(64), 2),
            Form::Latent => ((heads * tokens).div_ceil(32), 1),
        };
        let wanted = (each * info.multiprocessors as usize).div_ceil(blocks.max(1));
        let positions = shape.window.map_or(positions, |window| positions.min(window as usize + tokens));
        let least = if form == Form::Latent { SPLIT_LATENTS } else { SPLIT_POSITIONS };
        let splits = wanted.min(positions.div_ceil(least)).clamp(1, SPLITS_MAX);
        let name = match form {
            Form::Exact => format!("exact_{}_{}", kinds.0.name(), kinds.1.name()),
            Form::Decode => format!("decode_{dim_k}_{dim_v}_{0}_{0}", kinds.0.name()),
            Form::Prefill => format!("prefill_{dim_k}_{dim_v}_{0}_{0}", kinds.0.name()),
            Form::Latent => format!("latent_{}", kinds.0.name()),
        };
        Self { form, name, splits, tokens }
    }

    /// The same with another number of splits: for tests.
    #[must_use]
    pub fn with_splits(self, splits: usize) -> Self {
        Self { splits: splits.clamp(1, SPLITS_MAX), ..self }
    }

    /// The form on plain cores in place of this one.
    #[must_use]
    pub fn exact(self, kinds: (KvType, KvType)) -> Self {
        Self { form: Form::Exact, name: format!("exact_{}_{}", kinds.0.name(), kinds.1.name()), ..self }
    }

    /// The kernel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Numbers of the room that [`attention`] needs for what splits gather.
    #[must_use]
    pub const fn room(&self, shape: &AttentionShape) -> usize {
        if self.splits == 1 { 0 } else { self.tokens * shape.heads * self.splits * (shape.dim_v + 2) }
    }

    fn grid(&self, shape: &AttentionShape) -> (Shape, u32) {
        let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = *shape;
        let (group, splits, tokens) = (heads / kv_heads, self.splits as u32, self.tokens);
        let grid = |blocks, threads, shared: usize| Shape { blocks, threads: (threads, 1), shared: shared as u32 };
        let shape = match self.form {
            Form::Exact => grid((splits, heads as u32, tokens as u32), 128, 4 * (dim_k + 4 * (16 * 32 + 2))),
            Form::Decode => grid((splits, (kv_heads * group.div_ceil(8)) as u32, tokens as u32), 128, 0),
            Form::Prefill => {
                let (positions, queries) = if dim_k > 192 { (32, 64) } else { (64, 1) };
                let rows = positions * (dim_k + 8 + dim_v + 8) + queries * (dim_k + 8);
                grid(((tokens * group).div_ceil(64) as u32, kv_heads as u32, splits), 128, 2 * rows)
            }
            Form::Latent => {
                let rows = 2 * 2 * 9 * 16 * (64 + 8);
                grid(((tokens * heads).div_ceil(32) as u32, splits, 1), 288, rows + 4 * 10 * 32 * 20)
            }
        };
        (shape, splits)
    }
}

/// `out` (m × heads × `dim_v`) of queries `q` (m × heads × `dim_k`): the first token stands where `position` says when the stream comes to it, and
/// each sees the positions up to its own, within window, chunk and selection. All those must have been written to `k` and `v`, which may be one
/// and the same store. A query that sees nothing gives zeros. `room` holds [`AttentionForm::room`] numbers.
///
/// # Errors
/// Where a launch fails.
///
/// # Panics
/// Where lengths and sizes do not fit each other.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    stream: &Stream,
    form: &AttentionForm,
    shape: &AttentionShape,
    q: Slice<'_, f32>,
    k: &KvStore,
    v: &KvStore,
    position: Slice<'_, u32>,
    sight: &Sight<'_>,
    room: &mut SliceMut<'_, f32>,
    out: &mut SliceMut<'_, f32>,
) -> Result<(), CudaError> {
    assert_eq!(q.len(), form.tokens * shape.heads * shape.dim_k, "queries are not {} tokens", form.tokens);
    assert_eq!(out.len(), form.tokens * shape.heads * shape.dim_v, "the output's length");
    let (q, step) = (Rows { numbers: q, step: shape.heads * shape.dim_k }, shape.heads * shape.dim_v);
    attention_apart(stream, form, shape, q, [k.part(), v.part()], position, sight, room, (out, step))
}

/// [`attention`] over keys and values that need not be stores, where something else lies between tokens' queries and between their outputs,
/// which are as many numbers apart as is said beside them.
///
/// # Errors
/// Where a launch fails.
///
/// # Panics
/// Where lengths and sizes do not fit each other.
#[allow(clippy::too_many_arguments)]
pub fn attention_apart(
    stream: &Stream,
    form: &AttentionForm,
    shape: &AttentionShape,
    q: Rows<'_>,
    [k, v]: [KvPart<'_>; 2],
    position: Slice<'_, u32>,
    sight: &Sight<'_>,
    room: &mut SliceMut<'_, f32>,
    out: (&mut SliceMut<'_, f32>, usize),
) -> Result<(), CudaError> {
    let parameters = parameters(form, shape, q, [k, v], position, sight, room, out);
    if form.tokens == 0 {
        return Ok(());
    }
    let (kernel, (grid, splits)) = (stream.kernel(&form.name)?, form.grid(shape));
    // SAFETY: `parameters` checked all lengths against the shape; kernels look at no position beyond the stores' capacities.
    unsafe { launch!(stream, kernel, grid, parameters) }?;
    if splits == 1 {
        return Ok(());
    }
    let merge: Kernel = stream.kernel("merge")?;
    let grid = Shape { blocks: (shape.heads as u32, form.tokens as u32, 1), ..Shape::line(1, 128) };
    // SAFETY: as above; the splits' room was checked too.
    unsafe { launch!(stream, merge, grid, parameters) }
}

#[allow(clippy::too_many_arguments)]
fn parameters(
    form: &AttentionForm,
    shape: &AttentionShape,
    q: Rows<'_>,
    [k, v]: [KvPart<'_>; 2],
    position: Slice<'_, u32>,
    sight: &Sight<'_>,
    room: &mut SliceMut<'_, f32>,
    (out, out_step): (&mut SliceMut<'_, f32>, usize),
) -> Parameters {
    let AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window, softcap } = *shape;
    let tokens = form.tokens;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads over {kv_heads}");
    assert!(k.heads() == kv_heads && v.heads() == kv_heads, "{} and {} KV heads for {kv_heads}", k.heads(), v.heads());
    assert!(k.dim() == dim_k && v.dim() >= dim_v && dim_v > 0, "heads of {} and {}", k.dim(), v.dim());
    assert!(tokens <= 65_535 && heads <= 65_535, "{tokens} tokens of {heads} heads");
    if tokens > 0 {
        q.check(tokens, heads * dim_k);
        Rows { numbers: out.as_slice(), step: out_step }.check(tokens, heads * dim_v);
    }
    assert_eq!(position.len(), 1, "a position");
    assert!(form.room(shape) <= room.len(), "no room for what {} splits gather", form.splits);
    assert!(sight.sinks.is_none_or(|sinks| sinks.len() == heads), "sinks are not one for each head");
    assert!(sight.chunk != Some(0) && window != Some(0), "chunks or windows of no positions");
    let words = sight.selected.map_or(0, |selected| selected.len() / tokens.max(1));
    let covered =
        |selected: Slice<'_, u64>| selected.len() == tokens * words && words * 64 >= k.capacity().min(v.capacity());
    assert!(tokens == 0 || sight.selected.is_none_or(covered), "{tokens} rows of {words} words");
    let own_width = form.form == Form::Exact || form.form == Form::Latent || v.dim() == dim_v;
    let named = match form.form {
        Form::Exact => form.name == format!("exact_{}_{}", k.kind().name(), v.kind().name()),
        Form::Latent => (dim_k, dim_v) == LATENT && form.name == format!("latent_{}", k.kind().name()),
        Form::Decode | Form::Prefill => {
            form.name.ends_with(&format!("_{dim_k}_{dim_v}_{}_{}", k.kind().name(), v.kind().name()))
        }
    };
    let one_store = form.form != Form::Latent || k.is(&v);
    assert!(named && own_width && one_store, "{} for {shape:?} over {:?} and {:?}", form.name, k.kind(), v.kind());
    let fours = |address: Address| address.0.is_multiple_of(16);
    let steps = q.step.is_multiple_of(4) && out_step.is_multiple_of(4);
    let fours = fours(q.numbers.address()) && fours(out.address()) && fours(room.address());
    assert!(fours && (steps || form.form == Form::Exact), "rows begin at multiples of 16 bytes");
    Parameters {
        q: q.numbers.address(),
        k: k.rows(),
        v: v.rows(),
        out: out.address(),
        partial: if form.splits == 1 { Address::NONE } else { room.address() },
        sinks: Address::of(sight.sinks),
        selected: Address::of(sight.selected),
        first_position: position.address(),
        words: words as u32,
        tokens: tokens as u32,
        heads: heads as u32,
        kv_heads: kv_heads as u32,
        dim_k: dim_k as u32,
        dim_v: dim_v as u32,
        q_step: q.step as u32,
        out_step: out_step as u32,
        splits: form.splits as u32,
        window: window.unwrap_or(0),
        chunk: sight.chunk.unwrap_or(0),
        scale,
        softcap: softcap.unwrap_or(0.0),
    }
}
