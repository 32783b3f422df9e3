//! Tiles, or runs of tiles, for the threads.
//!
//! Where there are tiles enough for all threads, each is one task. Else a task is some runs of one tile, whose results
//! wait in a room of fixed size until all of a wave are there and are merged in order of position.

use std::cell::Cell;
use std::ops::Range;

use super::merge::Weight;
use super::query::{Job, Tile};
use super::run::Room;
use super::{RUN, TILE_NUMBERS, TILE_QUERIES};
use crate::cpu::Pool;
use crate::cpu::isa::Kernel;
use crate::cpu::outputs::Scattered;
use crate::cpu::simd::{LANES, Simd};

/// Queries that the inner loop takes at once.
const TOGETHER: usize = 6;

/// Tiles for each thread from where they are tasks as they are.
const TILES: usize = 4;

/// Tasks for each thread where runs are handed out.
const TASKS: usize = 8;

/// Numbers of partial results for each thread: 128 KiB, two of the largest tiles.
const PARTIALS: usize = 2 * TILE_NUMBERS;

thread_local! {
    /// Room for partial results of the attentions that this thread asks for.
    static PARTIAL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs an attention on the pool.
pub(super) fn run(pool: &Pool, job: &Job) {
    let tiles = Tiles::new(pool, job);
    let range = job.ranges(0..job.tokens);
    let runs = range.start / RUN..range.end.div_ceil(RUN);
    if tiles.count() < TILES * pool.threads() && pool.threads() > 1 && runs.len() > 1 {
        Split { pool, tiles, runs }.run();
        return;
    }
    // Later tokens see more: they come first.
    let count = tiles.count();
    pool.run(count, &|i| pool.isa().run(Whole(tiles.tile(count - 1 - i))));
}

/// How the queries are cut.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    job: &'a Job<'a>,
    /// Queries of a KV head, and those of a tile.
    queries: usize,
    each: usize,
}

impl<'a> Tiles<'a> {
    fn new(pool: &Pool, job: &'a Job<'a>) -> Self {
        let queries = job.tokens * job.group();
        let room = TILE_NUMBERS / job.values.len().next_multiple_of(LANES);
        let most = if room < TOGETHER { room } else { TILE_QUERIES.min(room / TOGETHER * TOGETHER) };
        // Two for each thread, if they need not be small for it.
        let spread = (queries * job.shape.kv_heads).div_ceil(2 * pool.threads()).next_multiple_of(TOGETHER);
        Self { job, queries, each: spread.min(most) }
    }

    /// Tiles of a KV head.
    fn of_head(&self) -> usize {
        self.queries.div_ceil(self.each)
    }

    fn count(&self) -> usize {
        self.of_head() * self.job.shape.kv_heads
    }

    /// The `i`-th tile; all KV heads' tiles of the same queries follow each other.
    #[inline(always)]
    fn tile(&self, i: usize) -> Tile<'a> {
        let heads = self.job.shape.kv_heads;
        let first = i / heads * self.each;
        Tile { job: self.job, kv_head: i % heads, first, count: self.each.min(self.queries - first) }
    }
}

/// The output of a tile's query.
///
/// # Safety
/// Nobody else has it meanwhile.
#[inline(always)]
#[allow(clippy::mut_from_ref)]
unsafe fn output<'a>(tile: &Tile<'a>, n: usize) -> &'a mut [f32] {
    // SAFETY: by contract.
    unsafe { tile.job.out.slice(tile.output(n), tile.job.values.len()) }
}

/// A tile through all positions.
struct Whole<'a>(Tile<'a>);

impl Kernel for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let tile = &self.0;
        let queries = &tile.queries()[..tile.count];
        let mut room = Room::new();
        let mut weights = [Weight::start(None); TILE_QUERIES];
        for (n, weight) in weights[..tile.count].iter_mut().enumerate() {
            *weight = Weight::start(tile.sink(n));
            // SAFETY: each query belongs to one tile, each tile to one task, and a task has one of these at a time.
            unsafe { output(tile, n) }.fill(0.0);
        }
        let range = tile.range();
        for run in (range.start / RUN * RUN..range.end).step_by(RUN) {
            let gathered = room.gather(s, tile, queries, run);
            for (n, weight) in weights[..tile.count].iter_mut().enumerate() {
                let (other, values) = gathered.query(s, n);
                // SAFETY: as above.
                weight.merge(s, unsafe { output(tile, n) }, other, values);
            }
        }
        for (n, weight) in weights[..tile.count].iter().enumerate() {
            // SAFETY: as above.
            weight.finish(unsafe { output(tile, n) });
        }
    }
}

/// Tiles whose runs are shared out.
struct Split<'a> {
    pool: &'a Pool,
    tiles: Tiles<'a>,
    runs: Range<usize>,
}

/// Partial results: a part is one tile's of one run, the runs of a tile following each other; for each query its values,
/// the largest score and the sum of powers.
struct Parts<'a> {
    tiles: Tiles<'a>,
    runs: &'a Range<usize>,
    /// The wave's parts.
    wave: Range<usize>,
    partial: &'a Scattered<'a>,
}

impl Split<'_> {
    fn run(&self) {
        let tiles = self.tiles;
        let (all, query) = (tiles.count() * self.runs.len(), tiles.job.values.len() + 2);
        let weights = 2 * tiles.count() * tiles.each;
        let most = weights + (tiles.each * query * all).min(PARTIALS * self.pool.threads());
        let mut room = PARTIAL.take();
        if room.len() < most {
            room.resize(most, 0.0);
        }
        let (weights, partial) = room[..most].split_at_mut(weights);
        let wave = (partial.len() / (tiles.each * query)).max(1);
        let (weights, partial) = (&Scattered::new(weights), &Scattered::new(partial));
        for start in (0..all).step_by(wave) {
            let parts = Parts { tiles, runs: &self.runs, wave: start..all.min(start + wave), partial };
            let each = (parts.wave.len() / (TASKS * self.pool.threads())).max(1);
            self.pool.run(parts.wave.len().div_ceil(each), &|i| {
                let first = parts.wave.start + i * each;
                self.pool.isa().run(Gather { parts: &parts, some: first..parts.wave.end.min(first + each) });
            });
            let first_tile = start / self.runs.len();
            let end_tile = parts.wave.end.div_ceil(self.runs.len());
            self.pool.run((end_tile - first_tile) * tiles.each, &|i| {
                let (tile, n) = (first_tile + i / tiles.each, i % tiles.each);
                if n < tiles.tile(tile).count {
                    self.pool.isa().run(Merge { parts: &parts, tile, n, weights });
                }
            });
        }
        PARTIAL.set(room);
    }
}

impl Parts<'_> {
    /// A query's partial result of a part.
    ///
    /// # Safety
    /// Nobody else has it meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    unsafe fn of(&self, part: usize, n: usize) -> &mut [f32] {
        let query = self.tiles.job.values.len() + 2;
        // SAFETY: by contract.
        unsafe { self.partial.slice(((part - self.wave.start) * self.tiles.each + n) * query, query) }
    }
}

/// Some parts of a wave.
struct Gather<'a> {
    parts: &'a Parts<'a>,
    some: Range<usize>,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let parts = self.parts;
        let mut room = Room::new();
        for part in self.some {
            let tile = &parts.tiles.tile(part / parts.runs.len());
            let run = (parts.runs.start + part % parts.runs.len()) * RUN;
            let gathered = room.gather(s, tile, &tile.queries()[..tile.count], run);
            for n in 0..tile.count {
                let (weight, values) = gathered.query(s, n);
                // SAFETY: each part belongs to one task, which has one of these at a time.
                let partial = unsafe { parts.of(part, n) };
                let (to, weights) = partial.split_at_mut(partial.len() - 2);
                to.copy_from_slice(&values[..to.len()]);
                weights.copy_from_slice(&[weight.max, weight.sum]);
            }
        }
    }
}

/// The wave's parts of one query.
struct Merge<'a> {
    parts: &'a Parts<'a>,
    tile: usize,
    n: usize,
    /// For each query of each tile the weight of what was merged in earlier waves.
    weights: &'a Scattered<'a>,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { parts, tile: index, n, weights } = self;
        let tile = &parts.tiles.tile(index);
        let of_tile = index * parts.runs.len()..(index + 1) * parts.runs.len();
        // SAFETY: each query is one task of a wave.
        let (out, kept) = unsafe { (output(tile, n), weights.slice(2 * (index * parts.tiles.each + n), 2)) };
        let mut weight = Weight { max: kept[0], sum: kept[1] };
        if of_tile.start >= parts.wave.start {
            weight = Weight::start(tile.sink(n));
            out.fill(0.0);
        }
        for part in of_tile.start.max(parts.wave.start)..of_tile.end.min(parts.wave.end) {
            // SAFETY: the tasks that wrote it are done, and this is the only one that reads it.
            let (values, other) = unsafe { parts.of(part, n) }.split_at(parts.tiles.job.values.len());
            weight.merge(s, out, Weight { max: other[0], sum: other[1] }, values);
        }
        if of_tile.end <= parts.wave.end {
            weight.finish(out);
        }
        kept.copy_from_slice(&[weight.max, weight.sum]);
    }
}
