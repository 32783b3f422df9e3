//! A tile's way through the blocks of one run.

use std::mem::MaybeUninit;

use super::merge::Weight;
use super::product::{Block, DEPTH, Step, WIDTH, each, product};
use super::query::{Query, Tile};
use super::unpack::{self, Places};
use super::{BLOCK, RUN, TILE_NUMBERS, TILE_QUERIES};
use crate::cpu::room::filled;
use crate::cpu::simd::{LANES, Lanes, Simd};

/// A query's scores of a block, then their powers.
type Scores = [Lanes; BLOCK / LANES];

/// What a task works in, on its stack: 100 KiB at most, of which only what the tile needs is touched.
pub(super) struct Room {
    block: Block,
    scores: [MaybeUninit<Scores>; TILE_QUERIES],
    states: [MaybeUninit<State>; TILE_QUERIES],
    gathered: [MaybeUninit<Lanes>; TILE_NUMBERS / LANES],
}

/// A query within a run.
#[derive(Clone, Copy)]
struct State {
    /// Positions of the block that it sees.
    seen: u64,
    /// The largest score yet.
    max: f32,
    /// What was gathered before the block counts so much, now that the largest score has changed.
    shrink: f32,
    /// Powers of all scores relative to the largest, lane by lane.
    sum: Lanes,
}

impl State {
    const START: Self = Self { seen: 0, max: f32::NEG_INFINITY, shrink: 1.0, sum: [0.0; LANES] };
}

/// What a tile's queries gathered in a run.
pub(super) struct Gathered<'a> {
    states: &'a [State],
    values: &'a [Lanes],
    vectors: usize,
}

impl Gathered<'_> {
    /// The `n`-th query's weight, and the values it gathered, up to a whole vector.
    #[inline(always)]
    pub(super) fn query<S: Simd>(&self, s: S, n: usize) -> (Weight, &[f32]) {
        let state = &self.states[n];
        let values = self.values[n * self.vectors..][..self.vectors].as_flattened();
        (Weight { max: state.max, sum: s.sum(s.load(&state.sum)) }, values)
    }
}

impl Room {
    #[inline(always)]
    #[allow(clippy::large_stack_arrays)] // Less than a product's unpacked weights, and in nobody's way for long.
    pub(super) fn new() -> Self {
        Self {
            block: Block::ZEROS,
            scores: [MaybeUninit::uninit(); TILE_QUERIES],
            states: [MaybeUninit::uninit(); TILE_QUERIES],
            gathered: [MaybeUninit::uninit(); TILE_NUMBERS / LANES],
        }
    }

    /// Takes `queries`, those of `tile`, through the run that starts at `run`.
    #[inline(always)]
    pub(super) fn gather<S: Simd>(&mut self, s: S, tile: &Tile, queries: &[Query], run: usize) -> Gathered<'_> {
        let vectors = tile.job.values.len().div_ceil(LANES);
        let values = filled(&mut self.gathered, queries.len() * vectors, [0.0; LANES]);
        let states = filled(&mut self.states, queries.len(), State::START);
        let scores = filled(&mut self.scores, queries.len(), [[0.0; LANES]; BLOCK / LANES]);
        let end = tile.range().end.min(run + RUN);
        for block in (run..end).step_by(BLOCK) {
            let mut any = 0;
            let mut all = u64::MAX;
            for (state, query) in states.iter_mut().zip(queries) {
                state.seen = query.seen(block);
                any |= state.seen;
                all &= state.seen;
            }
            if any == 0 {
                continue;
            }
            let places = Places::new(block, any);
            let mixed = places.bits(any) != all;
            let mut step = AtBlock { tile, queries, places, block: &mut self.block, scores, states, values, vectors };
            step.score(s);
            step.weigh(s);
            step.sum(s, mixed);
        }
        Gathered { states, values, vectors }
    }
}

/// A tile at one block of positions.
struct AtBlock<'a> {
    tile: &'a Tile<'a>,
    queries: &'a [Query<'a>],
    places: Places,
    block: &'a mut Block,
    scores: &'a mut [Scores],
    states: &'a mut [State],
    /// For each query `vectors` vectors.
    values: &'a mut [Lanes],
    vectors: usize,
}

impl AtBlock<'_> {
    /// Products of all queries with the keys of all places.
    #[inline(always)]
    fn score<S: Simd>(&mut self, s: S) {
        let dim = self.tile.job.shape.dim_k;
        let vectors = self.places.vectors();
        for start in (0..dim).step_by(DEPTH) {
            let end = dim.min(start + DEPTH);
            let keys = &mut self.block.0;
            unpack::columns(s, self.tile.job.k, self.tile.kv_head, &self.places, start..end, keys);
            let column = self.places.dense.unwrap_or(0) / LANES;
            let keys = &keys[..end - start];
            each(
                s,
                self.queries.len(),
                vectors,
                &mut Score { queries: self.queries, start, keys, column, scores: self.scores },
            );
        }
        if self.places.dense.is_none() {
            for scores in &mut *self.scores {
                let scores = scores.as_flattened_mut();
                // Places come before their positions: the last ones are moved first.
                for (place, offset) in self.places.offsets().iter().enumerate().rev() {
                    scores[usize::from(*offset)] = scores[place];
                }
            }
        }
    }

    /// Scores become powers relative to the largest yet, and 0 where a query does not see the position.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S) {
        let shape = self.tile.job.shape;
        for (state, scores) in self.states.iter_mut().zip(&mut *self.scores) {
            state.shrink = 1.0;
            if state.seen != 0 {
                weigh(s, state, scores, shape.scale, shape.softcap);
            } else {
                *scores = [[0.0; LANES]; BLOCK / LANES];
            }
        }
    }

    /// Adds the values of all places, each times its power.
    #[inline(always)]
    fn sum<S: Simd>(&mut self, s: S, mixed: bool) {
        if self.places.dense.is_none() {
            for scores in &mut *self.scores {
                let scores = scores.as_flattened_mut();
                for (place, offset) in self.places.offsets().iter().enumerate() {
                    scores[place] = scores[usize::from(*offset)];
                }
            }
        }
        let numbers = &self.tile.job.values;
        for start in (0..numbers.len()).step_by(WIDTH * LANES) {
            let end = numbers.len().min(start + WIDTH * LANES);
            let range = numbers.start + start..numbers.start + end;
            unpack::rows(s, self.tile.job.v, self.tile.kv_head, &self.places, range, &mut self.block.0);
            let vectors = (end - start).div_ceil(LANES);
            let block = &self.block.0[..self.places.count];
            let from = start / LANES;
            // A power of 0 leaves a sum as it is, unless the value is not finite.
            if mixed && !unpack::finite(block, vectors) {
                self.sum_seen(s, from, vectors);
                continue;
            }
            let column = self.places.dense.unwrap_or(0);
            let step = &mut Sum {
                powers: self.scores,
                column,
                block,
                states: self.states,
                values: self.values,
                stride: self.vectors,
                from,
            };
            each(s, self.queries.len(), vectors, step);
        }
    }

    /// What the other way to the sums does, with only the values that a query sees.
    #[inline(always)]
    fn sum_seen<S: Simd>(&mut self, s: S, from: usize, vectors: usize) {
        let dense = self.places.dense;
        for (n, (state, powers)) in self.states.iter().zip(&*self.scores).enumerate() {
            let powers = &powers.as_flattened()[dense.unwrap_or(0)..];
            for v in 0..vectors {
                let mut sum = s.splat(0.0);
                for (place, offset) in self.places.offsets().iter().enumerate() {
                    if state.seen >> offset & 1 == 1 {
                        sum = s.mul_add(s.splat(powers[place]), s.load(&self.block.0[place][v]), sum);
                    }
                }
                let value = &mut self.values[n * self.vectors + from + v];
                s.store(s.mul_add(s.load(value), s.splat(state.shrink), sum), value);
            }
        }
    }
}

/// A row of scores becomes powers; the state follows.
#[inline(always)]
fn weigh<S: Simd>(s: S, state: &mut State, scores: &mut Scores, scale: f32, softcap: Option<f32>) {
    let none = s.splat(f32::NEG_INFINITY);
    let mut x = [none; BLOCK / LANES];
    for (x, scores) in x.iter_mut().zip(&*scores) {
        *x = s.mul(s.load(scores), s.splat(scale));
    }
    if let Some(cap) = softcap {
        for x in &mut x {
            *x = s.mul(s.splat(cap), s.tanh(s.div(*x, s.splat(cap))));
        }
    }
    let whole = state.seen == u64::MAX;
    if !whole {
        for (v, x) in x.iter_mut().enumerate() {
            *x = s.select((state.seen >> (v * LANES)) as u16, *x, none);
        }
    }
    let largest = s.largest(s.max(s.max(x[0], x[1]), s.max(x[2], x[3])));
    if largest > state.max {
        state.shrink = if state.max == f32::NEG_INFINITY { 0.0 } else { (state.max - largest).exp() };
        state.max = largest;
    }
    let mut sum = s.mul(s.load(&state.sum), s.splat(state.shrink));
    for (v, (x, scores)) in x.into_iter().zip(scores).enumerate() {
        let mut power = s.exp(s.sub(x, s.splat(state.max)));
        if !whole {
            // The least power that `exp` gives is not 0.
            power = s.select((state.seen >> (v * LANES)) as u16, power, s.splat(0.0));
        }
        sum = s.add(sum, power);
        s.store(power, scores);
    }
    s.store(sum, &mut state.sum);
}

/// Scores of some queries, or what the numbers from `start` on add to them.
struct Score<'a> {
    queries: &'a [Query<'a>],
    start: usize,
    keys: &'a [[Lanes; WIDTH]],
    /// The vector of the scores where the keys' first one goes.
    column: usize,
    scores: &'a mut [Scores],
}

impl<S: Simd> Step<S> for Score<'_> {
    #[inline(always)]
    fn take<const R: usize, const V: usize>(&mut self, s: S, first: usize, at: usize) {
        let a: [&[f32]; R] = std::array::from_fn(|r| &self.queries[first + r].q[self.start..]);
        let sums: [[S::F; V]; R] = product(s, a, self.keys, at);
        for (scores, sums) in self.scores[first..first + R].iter_mut().zip(sums) {
            for (scores, sum) in scores[self.column + at..][..V].iter_mut().zip(sums) {
                let sum = if self.start == 0 { sum } else { s.add(s.load(scores), sum) };
                s.store(sum, scores);
            }
        }
    }
}

/// Sums of values of some queries, added to what they gathered before.
struct Sum<'a> {
    powers: &'a [Scores],
    /// The power of the block's first row.
    column: usize,
    block: &'a [[Lanes; WIDTH]],
    states: &'a [State],
    values: &'a mut [Lanes],
    stride: usize,
    /// The vector of a query's values where the block's first one goes.
    from: usize,
}

impl<S: Simd> Step<S> for Sum<'_> {
    #[inline(always)]
    fn take<const R: usize, const V: usize>(&mut self, s: S, first: usize, at: usize) {
        let a: [&[f32]; R] = std::array::from_fn(|r| &self.powers[first + r].as_flattened()[self.column..]);
        let sums: [[S::F; V]; R] = product(s, a, self.block, at);
        for (n, sums) in (first..).zip(sums) {
            let shrink = s.splat(self.states[n].shrink);
            for (value, sum) in self.values[n * self.stride + self.from + at..][..V].iter_mut().zip(sums) {
                s.store(s.mul_add(s.load(value), shrink, sum), value);
            }
        }
    }
}
