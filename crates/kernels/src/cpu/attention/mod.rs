//! Causal attention with grouped heads over a [`KvStore`].
//!
//! Positions come in runs of [`RUN`] and, within a run, in blocks of [`BLOCK`], both counted from position 0. A query
//! gathers each run on its own, with a running maximum from block to block (Milakov and Gimelshein, "Online normalizer
//! calculation for softmax", <https://arxiv.org/abs/1805.02867>), and merges what the runs gave in order of position. So
//! one query's runs may be computed by several threads, and yet its result depends on the query alone: not on threads,
//! not on the queries beside it, not on how many tokens a pass has.
//!
//! The queries of all heads that share a KV head, and of neighbouring tokens, go through the positions together as a
//! tile, so that keys and values are unpacked once for all of them, and scores and sums are matrix products.
//!
//! - `query`: which positions a query sees, and which queries are a tile;
//! - `run`: a tile's way through a run: scores, powers, sums of values;
//! - `unpack`: keys and values of a block as numbers in the first-level cache;
//! - `product`: the inner loop of both products;
//! - `merge`: what several runs gave becomes one result;
//! - `tasks`: tiles, or runs of tiles, for the threads.

mod merge;
mod product;
mod query;
mod run;
mod tasks;
mod unpack;

use self::query::Job;
use super::outputs::Scattered;
use super::{KvStore, Pool};

/// Positions whose scores are held at a time; which of them a query sees is one word.
const BLOCK: usize = u64::BITS as usize;

/// Positions that are summed on their own before they are merged with those before them.
const RUN: usize = 8 * BLOCK;

/// The most queries of a tile: a multiple of what the inner loop takes at once.
const TILE_QUERIES: usize = 60;

/// The most numbers that a tile gathers: 64 KiB.
const TILE_NUMBERS: usize = 16 * 1024;

/// The sizes and rules of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Heads of K and V; a divisor of `heads`.
    pub kv_heads: usize,
    /// Numbers of a head in Q and K.
    pub dim_k: usize,
    /// Numbers of a head in V and the output; where V's rows are longer, their first ones count.
    pub dim_v: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many positions back a query sees, itself included.
    pub window: Option<u32>,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// What else decides which positions queries see and how they weigh; the default changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight<'a> {
    /// A score for each head that takes part in its softmax and carries no value (gpt-oss).
    pub sinks: Option<&'a [f32]>,
    /// Positions come in chunks of this length, and a query sees none before its own chunk (Llama 4).
    pub chunk: Option<u32>,
    /// A row of words for each token: position p is seen where bit p mod 64 of word p / 64 is set, as far as the other
    /// rules let it be seen (sparse attention: DeepSeek-V3.2). Each row covers all positions up to the last token's.
    pub selected: Option<&'a [u64]>,
}

/// [`attention_with`] where queries see all that the shape lets them see; `sinks` as in [`Sight`].
///
/// # Panics
/// Where lengths and sizes do not fit each other.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    pool: &Pool,
    shape: &AttentionShape,
    q: &[f32],
    k: &KvStore,
    v: &KvStore,
    first_position: usize,
    sinks: Option<&[f32]>,
    out: &mut [f32],
) {
    attention_with(pool, shape, q, k, v, first_position, &Sight { sinks, ..Sight::default() }, out);
}

/// `out` (m × heads × `dim_v`) of queries `q` (m × heads × `dim_k`): query i stands at `first_position + i` and sees
/// the positions up to its own, within window, chunk and selection. All those must have been written to `k` and `v`,
/// which may be one and the same store (latent attention). A query that sees nothing gives zeros.
///
/// Allocates nothing but, where few tiles meet many positions, a thread's room for partial results: at most 128 KiB for
/// each thread of the pool, which the calling thread keeps for its next calls.
///
/// # Panics
/// Where lengths and sizes do not fit each other.
#[allow(clippy::too_many_arguments)]
pub fn attention_with(
    pool: &Pool,
    shape: &AttentionShape,
    q: &[f32],
    k: &KvStore,
    v: &KvStore,
    first_position: usize,
    sight: &Sight,
    out: &mut [f32],
) {
    let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = *shape;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "{heads} query heads over {kv_heads}");
    assert!(k.heads() == kv_heads && v.heads() == kv_heads, "{} and {} KV heads for {kv_heads}", k.heads(), v.heads());
    assert!(k.dim() == dim_k && v.dim() >= dim_v && dim_k > 0, "heads of {} and {}", k.dim(), v.dim());
    let m = q.len() / (heads * dim_k);
    assert_eq!(q.len(), m * heads * dim_k, "queries are not whole tokens");
    assert_eq!(out.len(), m * heads * dim_v, "the output's length");
    let end = first_position + m;
    assert!(end <= k.capacity() && end <= v.capacity(), "{end} positions in a store of {}", k.capacity());
    assert!(sight.sinks.is_none_or(|s| s.len() == heads), "sinks are not one for each head");
    assert!(sight.chunk != Some(0), "chunks of no positions");
    let words = sight.selected.map_or(0, |selected| selected.len() / m.max(1));
    let covered = |selected: &[u64]| selected.len() == m * words && words >= end.div_ceil(BLOCK);
    assert!(m == 0 || sight.selected.is_none_or(covered), "{m} rows of {words} words for {end} positions");
    if m == 0 {
        return;
    }

    let out = &Scattered::new(out);
    // Values wider than a tile's room are gathered a part at a time.
    for start in (0..dim_v).step_by(TILE_NUMBERS) {
        let values = start..dim_v.min(start + TILE_NUMBERS);
        tasks::run(pool, &Job { shape, q, k, v, tokens: m, first_position, sight, words, values, out });
    }
}
