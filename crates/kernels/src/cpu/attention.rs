//! Causal attention with grouped heads over a [`KvStore`].
//!
//! For each query and head, positions are taken in blocks of [`BLOCK`] from position 0, with a running maximum
//! (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). The blocks lie at fixed positions and
//! values are added in order of position, so the result depends on the query alone.

use super::isa::Kernel;
use super::matmul::{CHUNK, dot_tile};
use super::outputs::Scattered;
use super::simd::{LANES, Simd};
use super::{KvStore, Pool};

/// Positions whose scores are held at a time; which of them a query sees is one word.
const BLOCK: usize = u64::BITS as usize;

/// Queries (of one KV head) that share what is read of K and V.
const TASK_QUERIES: usize = 16;

/// Positions that are read from K and V together, and a bit for each.
const TOGETHER: usize = 4;
const ALL_TOGETHER: u64 = (1 << TOGETHER) - 1;

/// The sizes and rules of one attention.
#[derive(Clone, Copy, Debug)]
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

    let queries = m * (heads / kv_heads);
    let spread = (queries * kv_heads).div_ceil(2 * pool.threads());
    let task_queries = spread.clamp(1, TASK_QUERIES);
    let tasks = queries.div_ceil(task_queries);
    let out = &Scattered::new(out);
    let job = Job { shape, q, k, v, first_position, sight, words, out };
    pool.run(tasks * kv_heads, &|i| {
        let first = i % tasks * task_queries;
        let kv_head = i / tasks;
        pool.isa().run(Task { job, kv_head, first, count: task_queries.min(queries - first) });
    });
}

/// What all tasks share.
#[derive(Clone, Copy)]
struct Job<'a> {
    shape: &'a AttentionShape,
    q: &'a [f32],
    k: &'a KvStore,
    v: &'a KvStore,
    first_position: usize,
    sight: &'a Sight<'a>,
    /// Words of a row of the selection.
    words: usize,
    out: &'a Scattered<'a>,
}

/// `count` queries of one KV head; the n-th belongs to token n / group and head n % group of the group.
struct Task<'a> {
    job: Job<'a>,
    kv_head: usize,
    first: usize,
    count: usize,
}

/// One query on its way through the positions.
#[derive(Clone, Copy)]
struct Query<'a> {
    q: &'a [f32],
    /// Positions it sees.
    from: usize,
    to: usize,
    /// Those of them that are selected.
    selected: Option<&'a [u64]>,
    /// The largest score yet, and the sum of the powers relative to it.
    max: f32,
    sum: f32,
}

impl Query<'_> {
    /// The positions of a block that the query sees, the first in the lowest bit.
    #[inline(always)]
    fn seen(&self, block: usize) -> u64 {
        let below = |end: usize| if end < BLOCK { (1 << end) - 1 } else { u64::MAX };
        let range = below(self.to.saturating_sub(block)) & !below(self.from.saturating_sub(block));
        range & self.selected.map_or(u64::MAX, |selected| selected[block / BLOCK])
    }
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut queries: [Query; TASK_QUERIES] = std::array::from_fn(|n| self.query(n.min(self.count - 1)));
        let queries = &mut queries[..self.count];
        let from = queries.iter().map(|q| q.from).min().unwrap_or(0);
        let to = queries.iter().map(|q| q.to).max().unwrap_or(0);
        for n in 0..self.count {
            self.out(n).fill(0.0);
        }
        let mut scores = [[0.0; BLOCK]; TASK_QUERIES];
        let mut seen = [0; TASK_QUERIES];
        for block in (from / BLOCK * BLOCK..to).step_by(BLOCK) {
            for (seen, query) in seen.iter_mut().zip(&*queries) {
                *seen = query.seen(block);
            }
            let seen = &seen[..queries.len()];
            let any = seen.iter().fold(0, |any, seen| any | seen);
            if any == 0 {
                continue;
            }
            self.scores(s, queries, block, any, &mut scores);
            for (n, (query, scores)) in queries.iter_mut().zip(&mut scores).enumerate() {
                self.weigh(s, n, query, seen[n], scores);
            }
            self.gather(s, seen, block, any, &scores);
        }
        for (n, query) in queries.iter().enumerate() {
            if query.sum != 0.0 {
                rescale(self.out(n), 1.0 / query.sum);
            }
        }
    }
}

impl<'a> Task<'a> {
    /// Token and head of the task's `n`-th query.
    #[inline(always)]
    fn place(&self, n: usize) -> (usize, usize) {
        let group = self.job.shape.heads / self.job.shape.kv_heads;
        ((self.first + n) / group, self.kv_head * group + (self.first + n) % group)
    }

    #[inline(always)]
    fn query(&self, n: usize) -> Query<'a> {
        let AttentionShape { heads, dim_k, window, .. } = *self.job.shape;
        let (token, head) = self.place(n);
        let to = self.job.first_position + token + 1;
        let Sight { sinks, chunk, selected } = *self.job.sight;
        let window = window.map_or(0, |window| to.saturating_sub(window as usize));
        let chunk = chunk.map_or(0, |chunk| (to - 1) / chunk as usize * chunk as usize);
        let selected = selected.map(|selected| &selected[token * self.job.words..][..self.job.words]);
        let q = &self.job.q[(token * heads + head) * dim_k..][..dim_k];
        // A sink is a score met before any position: e^0 relative to itself.
        let sink = sinks.map(|sinks| sinks[head]);
        // One that is no number makes the output none.
        let (max, sum) =
            (sink.unwrap_or(f32::NEG_INFINITY), sink.map_or(0.0, |sink| if sink.is_nan() { sink } else { 1.0 }));
        Query { q, from: window.max(chunk), to, selected, max, sum }
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out(&self, n: usize) -> &mut [f32] {
        let AttentionShape { heads, dim_v, .. } = *self.job.shape;
        let (token, head) = self.place(n);
        // SAFETY: each query belongs to one task, and a task holds one of these at a time.
        unsafe { self.job.out.slice((token * heads + head) * dim_v, dim_v) }
    }

    /// Dot products of all queries with the keys of a block, as far as some query sees them: `any` has their bits.
    #[inline(always)]
    fn scores<S: Simd>(
        &self,
        s: S,
        queries: &[Query],
        block: usize,
        any: u64,
        scores: &mut [[f32; BLOCK]; TASK_QUERIES],
    ) {
        let dim = self.job.shape.dim_k;
        let last = last_seen(block, any);
        let mut keys = [[0.0; CHUNK]; TOGETHER];
        for start in (0..dim).step_by(CHUNK) {
            let length = CHUNK.min(dim - start);
            for position in (block..=last).step_by(TOGETHER) {
                if together(any, position) == 0 {
                    continue;
                }
                for (i, key) in keys.iter_mut().enumerate() {
                    // Beyond the last position the last one is read again; its score is not used.
                    self.job.k.read_row(s, self.kv_head, (position + i).min(last), start, &mut key[..length]);
                }
                let keys: [&[f32]; TOGETHER] = std::array::from_fn(|i| &keys[i][..length]);
                let at = (position - block, start);
                let (groups, rest) = queries.as_chunks::<TOGETHER>();
                let (group_scores, rest_scores) = scores.split_at_mut(groups.len() * TOGETHER);
                for (queries, scores) in groups.iter().zip(group_scores.as_chunks_mut().0) {
                    dot_scores(s, keys, queries, at, scores);
                }
                for (query, scores) in rest.iter().zip(rest_scores) {
                    dot_scores(s, keys, &[*query], at, std::array::from_mut(scores));
                }
            }
        }
    }

    /// Turns a block's scores into powers relative to the largest yet, and rescales what was gathered before.
    #[inline(always)]
    fn weigh<S: Simd>(&self, s: S, n: usize, query: &mut Query, seen: u64, scores: &mut [f32; BLOCK]) {
        let AttentionShape { scale, softcap, .. } = *self.job.shape;
        if seen == 0 {
            return;
        }
        for (i, score) in scores.iter_mut().enumerate() {
            let scaled = *score * scale;
            let capped = softcap.map_or(scaled, |cap| cap * (scaled / cap).tanh());
            *score = if seen >> i & 1 == 1 { capped } else { f32::NEG_INFINITY };
        }
        let max = scores.iter().copied().fold(query.max, f32::max);
        let mut sum = s.splat(0.0);
        let (parts, _) = scores.as_chunks_mut::<LANES>();
        for (i, part) in parts.iter_mut().enumerate() {
            s.store(s.exp(s.sub(s.load(part), s.splat(max))), part);
            for (j, power) in part.iter_mut().enumerate() {
                // The least power that `exp` gives is not 0.
                *power = if seen >> (i * LANES + j) & 1 == 1 { *power } else { 0.0 };
            }
            sum = s.add(sum, s.load(part));
        }
        if max > query.max {
            let shrink = if query.max == f32::NEG_INFINITY { 0.0 } else { (query.max - max).exp() };
            query.sum *= shrink;
            rescale(self.out(n), shrink);
            query.max = max;
        }
        query.sum += s.sum(sum);
    }

    /// Adds the block's values that a query sees, each times its power; `any` has the bits of all queries.
    #[inline(always)]
    fn gather<S: Simd>(&self, s: S, seen: &[u64], block: usize, any: u64, powers: &[[f32; BLOCK]; TASK_QUERIES]) {
        let dim = self.job.shape.dim_v;
        let last = last_seen(block, any);
        let mut values = [[0.0; CHUNK]; TOGETHER];
        for start in (0..dim).step_by(CHUNK) {
            let length = CHUNK.min(dim - start);
            for position in (block..=last).step_by(TOGETHER) {
                if together(any, position) == 0 {
                    continue;
                }
                for (i, value) in values.iter_mut().enumerate() {
                    self.job.v.read_row(s, self.kv_head, (position + i).min(last), start, &mut value[..length]);
                }
                for (n, (seen, powers)) in seen.iter().zip(powers).enumerate() {
                    let seen = together(*seen, position);
                    let out = &mut self.out(n)[start..][..length];
                    let powers = &powers[position - block..][..TOGETHER];
                    if seen == ALL_TOGETHER {
                        add_weighted(s, &values, powers, out);
                    } else {
                        for i in (0..TOGETHER).filter(|i| seen >> i & 1 == 1) {
                            add_weighted(s, &values[i..=i], &powers[i..=i], out);
                        }
                    }
                }
            }
        }
    }
}

/// The last position of a block that has its bit.
#[inline(always)]
fn last_seen(block: usize, seen: u64) -> usize {
    block + seen.checked_ilog2().map_or(0, |bit| bit as usize)
}

/// The bits of the positions that are read together from `position` on.
#[inline(always)]
fn together(seen: u64, position: usize) -> u64 {
    seen >> (position % BLOCK) & ALL_TOGETHER
}

/// Scores of `M` queries with some keys, or what the numbers from `start` on add to them.
#[inline(always)]
fn dot_scores<S: Simd, const M: usize>(
    s: S,
    keys: [&[f32]; TOGETHER],
    queries: &[Query; M],
    (at, start): (usize, usize),
    scores: &mut [[f32; BLOCK]; M],
) {
    let queries = queries.each_ref().map(|query| &query.q[start..][..keys[0].len()]);
    for (i, dots) in dot_tile(s, keys, queries).into_iter().enumerate() {
        for (scores, dot) in scores.iter_mut().zip(dots) {
            let score = &mut scores[at + i];
            *score = if start == 0 { dot } else { *score + dot };
        }
    }
}

#[inline(always)]
fn rescale(out: &mut [f32], factor: f32) {
    for x in out {
        *x *= factor;
    }
}

/// `out += Σ power · value`, one value after the other.
#[inline(always)]
fn add_weighted<S: Simd>(s: S, values: &[[f32; CHUNK]], powers: &[f32], out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    let done = whole.len() * LANES;
    for (i, out) in whole.iter_mut().enumerate() {
        let mut sum = s.load(out);
        for (value, power) in values.iter().zip(powers) {
            sum = s.mul_add(s.splat(*power), s.load(&value.as_chunks().0[i]), sum);
        }
        s.store(sum, out);
    }
    for (i, out) in rest.iter_mut().enumerate() {
        for (value, power) in values.iter().zip(powers) {
            *out += power * value[done + i];
        }
    }
}
