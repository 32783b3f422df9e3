//! Keys and values of a block of positions, unpacked into the first-level cache.

use std::ops::Range;

use plan::KvType;

use super::BLOCK;
use super::product::{DEPTH, WIDTH};
use crate::cpu::KvStore;
use crate::cpu::kv::{F16, F32, Q8, Stored};
use crate::cpu::simd::{LANES, Lanes, Simd};

/// Which positions of a block are unpacked, each to a place of its own.
pub(super) struct Places {
    /// The block's first position.
    pub(super) block: usize,
    /// For each place the position, counted from the block's first.
    list: [u8; BLOCK],
    pub(super) count: usize,
    /// The position of place 0, a multiple of [`LANES`], where places are positions one after the other.
    pub(super) dense: Option<usize>,
}

impl Places {
    /// Places for the positions that have their bit in `any`, one of which must. Where these are few, only they have
    /// one; else those between and before them as well, so that places need not be turned into positions.
    #[inline(always)]
    pub(super) fn new(block: usize, any: u64) -> Self {
        let first = any.trailing_zeros() as usize / LANES * LANES;
        let span = BLOCK - any.leading_zeros() as usize - first;
        let ones = any.count_ones() as usize;
        let mut list = [0; BLOCK];
        if ones.div_ceil(LANES) < span.div_ceil(LANES) {
            let mut rest = any;
            for place in &mut list[..ones] {
                *place = rest.trailing_zeros() as u8;
                rest &= rest - 1;
            }
            return Self { block, list, count: ones, dense: None };
        }
        for (i, place) in list[..span].iter_mut().enumerate() {
            *place = (first + i) as u8;
        }
        Self { block, list, count: span, dense: Some(first) }
    }

    /// The bits of the positions that have a place.
    #[inline(always)]
    pub(super) fn bits(&self, any: u64) -> u64 {
        self.dense.map_or(any, |first| u64::MAX >> (BLOCK - self.count) << first)
    }

    /// Each place's position, counted from the block's first.
    #[inline(always)]
    pub(super) fn offsets(&self) -> &[u8] {
        &self.list[..self.count]
    }

    /// Vectors that hold a number for each place.
    #[inline(always)]
    pub(super) fn vectors(&self) -> usize {
        self.count.div_ceil(LANES)
    }

    /// Asks for the rows that come a block later, where positions follow each other: so memory is busy while the block
    /// is computed.
    #[inline(always)]
    fn prefetch_next<S: Simd>(&self, s: S, store: &KvStore, head: usize, vector: usize) {
        if let Some(first) = self.dense {
            s.prefetch(store.some_rows(head, self.block + BLOCK + first + vector * LANES, LANES));
        }
    }

    /// The rows of the `vector`-th sixteen places; after the last place its row again.
    #[inline(always)]
    fn rows<'a>(&self, store: &'a KvStore, head: usize, vector: usize) -> [&'a [u8]; LANES] {
        let mut rows: [&[u8]; LANES] = [&[]; LANES];
        for (i, row) in rows.iter_mut().enumerate() {
            let place = (vector * LANES + i).min(self.count - 1);
            *row = store.row(head, self.block + usize::from(self.list[place]));
        }
        rows
    }
}

/// Numbers `numbers` of each place's row, turned: `to[i]` has the `i`-th of all places. What comes after the last place
/// has no meaning. `numbers` start at a multiple of 32.
#[inline(always)]
pub(super) fn columns<S: Simd>(
    s: S,
    store: &KvStore,
    head: usize,
    places: &Places,
    numbers: Range<usize>,
    to: &mut [[Lanes; WIDTH]; DEPTH],
) {
    match store.kind() {
        KvType::F32 => columns_of::<S, F32>(s, store, head, places, numbers, to),
        KvType::F16 => columns_of::<S, F16>(s, store, head, places, numbers, to),
        KvType::Q8_0 => columns_of::<S, Q8>(s, store, head, places, numbers, to),
    }
}

#[inline(always)]
fn columns_of<S: Simd, N: Stored>(
    s: S,
    store: &KvStore,
    head: usize,
    places: &Places,
    numbers: Range<usize>,
    to: &mut [[Lanes; WIDTH]; DEPTH],
) {
    for vector in 0..places.vectors() {
        let rows = places.rows(store, head, vector);
        if numbers.start == 0 {
            places.prefetch_next(s, store, head, vector);
        }
        let mut scales = s.splat(1.0);
        let groups = numbers.start / LANES..numbers.end.div_ceil(LANES);
        for (group, to) in groups.zip(to.as_chunks_mut::<LANES>().0) {
            let mut square = if group < N::whole(rows[0]) {
                // Written out, so that all of them stay in registers.
                [
                    N::load(s, rows[0], group),
                    N::load(s, rows[1], group),
                    N::load(s, rows[2], group),
                    N::load(s, rows[3], group),
                    N::load(s, rows[4], group),
                    N::load(s, rows[5], group),
                    N::load(s, rows[6], group),
                    N::load(s, rows[7], group),
                    N::load(s, rows[8], group),
                    N::load(s, rows[9], group),
                    N::load(s, rows[10], group),
                    N::load(s, rows[11], group),
                    N::load(s, rows[12], group),
                    N::load(s, rows[13], group),
                    N::load(s, rows[14], group),
                    N::load(s, rows[15], group),
                ]
            } else {
                let mut square = [s.splat(0.0); LANES];
                for (to, row) in square.iter_mut().zip(&rows) {
                    *to = N::load_end(s, row, group);
                }
                square
            };
            s.transpose(&mut square);
            if N::SCALED > 0 {
                if group.is_multiple_of(N::SCALED) {
                    scales = scales_of::<S, N>(s, &rows, group);
                }
                for column in &mut square {
                    *column = s.mul(*column, scales);
                }
            }
            for (column, to) in square.into_iter().zip(to) {
                s.store(column, &mut to[vector]);
            }
        }
    }
}

/// The scales of a group of each row.
#[inline(always)]
fn scales_of<S: Simd, N: Stored>(s: S, rows: &[&[u8]; LANES], group: usize) -> S::F {
    let mut halves = [0; 2 * LANES];
    for (half, row) in halves.as_chunks_mut().0.iter_mut().zip(rows) {
        *half = N::scale(row, group).to_le_bytes();
    }
    s.halves_to_f32(&halves)
}

/// Numbers `numbers` of each place's row: `to[i]` has those of place i. `numbers` start at a multiple of 32.
#[inline(always)]
pub(super) fn rows<S: Simd>(
    s: S,
    store: &KvStore,
    head: usize,
    places: &Places,
    numbers: Range<usize>,
    to: &mut [[Lanes; WIDTH]; DEPTH],
) {
    match store.kind() {
        KvType::F32 => rows_of::<S, F32>(s, store, head, places, numbers, to),
        KvType::F16 => rows_of::<S, F16>(s, store, head, places, numbers, to),
        KvType::Q8_0 => rows_of::<S, Q8>(s, store, head, places, numbers, to),
    }
}

#[inline(always)]
fn rows_of<S: Simd, N: Stored>(
    s: S,
    store: &KvStore,
    head: usize,
    places: &Places,
    numbers: Range<usize>,
    to: &mut [[Lanes; WIDTH]; DEPTH],
) {
    let first = numbers.start / LANES;
    let groups = numbers.len().div_ceil(LANES);
    for vector in 0..places.vectors() {
        let rows = places.rows(store, head, vector);
        if numbers.start == 0 {
            places.prefetch_next(s, store, head, vector);
        }
        let whole = N::whole(rows[0]);
        let to = &mut to[vector * LANES..][..LANES];
        for at in (0..groups).step_by(N::SCALED.max(1)) {
            let mut scales = [1.0; LANES];
            if N::SCALED > 0 {
                s.store(scales_of::<S, N>(s, &rows, first + at), &mut scales);
            }
            for at in at..groups.min(at + N::SCALED.max(1)) {
                let group = first + at;
                for ((row, to), scale) in rows.iter().zip(&mut *to).zip(&scales) {
                    let mut numbers = if group < whole { N::load(s, row, group) } else { N::load_end(s, row, group) };
                    if N::SCALED > 0 {
                        numbers = s.mul(s.splat(*scale), numbers);
                    }
                    s.store(numbers, &mut to[at]);
                }
            }
        }
    }
}

/// Whether all numbers are finite.
#[inline(always)]
pub(super) fn finite(block: &[[Lanes; WIDTH]], vectors: usize) -> bool {
    /// The bits of infinity; those of all larger numbers and of none at all are above.
    const INFINITY: u32 = f32::INFINITY.to_bits();
    let mut largest = 0;
    for row in block {
        for x in row[..vectors].as_flattened() {
            largest = largest.max(x.abs().to_bits());
        }
    }
    largest < INFINITY
}
