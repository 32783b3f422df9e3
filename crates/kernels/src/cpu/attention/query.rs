//! Which positions a query sees, and which queries are a tile.

use std::ops::Range;

use super::{AttentionShape, BLOCK, Sight, TILE_QUERIES};
use crate::cpu::KvStore;
use crate::cpu::outputs::Scattered;

/// What all tasks of an attention share.
pub(super) struct Job<'a> {
    pub(super) shape: &'a AttentionShape,
    pub(super) q: &'a [f32],
    pub(super) k: &'a KvStore,
    pub(super) v: &'a KvStore,
    pub(super) tokens: usize,
    pub(super) first_position: usize,
    pub(super) sight: &'a Sight<'a>,
    /// Words of a row of the selection.
    pub(super) words: usize,
    /// The numbers of values that are gathered.
    pub(super) values: Range<usize>,
    pub(super) out: &'a Scattered<'a>,
}

impl Job<'_> {
    /// Query heads of a KV head.
    #[inline(always)]
    pub(super) fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// The first position that a token sees, and the one after the last.
    #[inline(always)]
    fn range(&self, token: usize) -> Range<usize> {
        let to = self.first_position + token + 1;
        let window = self.shape.window.map_or(0, |window| to.saturating_sub(window as usize));
        let chunk = self.sight.chunk.map_or(0, |chunk| (to - 1) / chunk as usize * chunk as usize);
        window.max(chunk)..to
    }

    /// The positions that some of the tokens see. Later tokens start later and end later.
    #[inline(always)]
    pub(super) fn ranges(&self, tokens: Range<usize>) -> Range<usize> {
        self.range(tokens.start).start..self.range(tokens.end - 1).end
    }
}

/// Some queries of one KV head. The n-th of the head's queries belongs to token n / group and head n % group of the
/// group.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) kv_head: usize,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl<'a> Tile<'a> {
    /// Token and head of the tile's `n`-th query.
    #[inline(always)]
    fn place(&self, n: usize) -> (usize, usize) {
        let group = self.job.group();
        ((self.first + n) / group, self.kv_head * group + (self.first + n) % group)
    }

    /// The positions that some query of the tile sees, as far as they are one range.
    #[inline(always)]
    pub(super) fn range(&self) -> Range<usize> {
        self.job.ranges(self.place(0).0..self.place(self.count - 1).0 + 1)
    }

    /// The tile's `n`-th query.
    #[inline(always)]
    fn query(&self, n: usize) -> Query<'a> {
        let AttentionShape { heads, dim_k, .. } = *self.job.shape;
        let (token, head) = self.place(n);
        let Range { start: from, end: to } = self.job.range(token);
        let selected = self.job.sight.selected.map(|selected| &selected[token * self.job.words..][..self.job.words]);
        Query { q: &self.job.q[(token * heads + head) * dim_k..][..dim_k], from, to, selected }
    }

    /// All of them, and then the first again.
    #[inline(always)]
    pub(super) fn queries(&self) -> [Query<'a>; TILE_QUERIES] {
        let mut queries = [self.query(0); TILE_QUERIES];
        for (n, query) in queries[..self.count].iter_mut().enumerate().skip(1) {
            *query = self.query(n);
        }
        queries
    }

    /// The score of the sink of the `n`-th query's head.
    #[inline(always)]
    pub(super) fn sink(&self, n: usize) -> Option<f32> {
        self.job.sight.sinks.map(|sinks| sinks[self.place(n).1])
    }

    /// Where the `n`-th query's output lies.
    #[inline(always)]
    pub(super) fn output(&self, n: usize) -> usize {
        let AttentionShape { heads, dim_v, .. } = *self.job.shape;
        let (token, head) = self.place(n);
        (token * heads + head) * dim_v + self.job.values.start
    }
}

/// One head of one token.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) q: &'a [f32],
    /// Positions it sees.
    from: usize,
    to: usize,
    /// Those of them that are selected.
    selected: Option<&'a [u64]>,
}

impl Query<'_> {
    /// The positions of a block that the query sees, the first in the lowest bit.
    #[inline(always)]
    pub(super) fn seen(&self, block: usize) -> u64 {
        let below = |end: usize| if end < BLOCK { (1 << end) - 1 } else { u64::MAX };
        let range = below(self.to.saturating_sub(block)) & !below(self.from.saturating_sub(block));
        range & self.selected.map_or(u64::MAX, |selected| selected[block / BLOCK])
    }
}
