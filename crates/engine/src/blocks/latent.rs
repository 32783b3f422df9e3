//! Multi-head latent attention in its two forms; see [`crate::spec::Latent`] for what they compute.
//!
//! Heads are taken a group at a time: the rows of a group fit one scratch buffer, whatever the context and micro-batch.

use std::ops::Range;

use candle_core::Tensor;
use kernels::cpu::{
    AttentionShape, Columns, Job, KvStore, Pool, Sight, attention_with, matmul_jobs, matmul_transposed,
};
use plan::QuantType;
use plan::cost::LATENT_TILE;
use tiers::{Piece, RowSlice};

use super::{Pass, Result};
use crate::ops;
use crate::session::LayerCache;
use crate::spec::{Attention, HeadRows, Latent, LatentQuery};

const TILE: usize = LATENT_TILE as usize;

/// Numbers in a row of x and out: where head 0 starts, from one head to the next, and from one column to the next.
#[derive(Clone, Copy)]
struct Steps {
    start: usize,
    head: usize,
    column: usize,
}

/// The products of a run of rows with the columns of their heads.
#[derive(Clone, Copy)]
struct HeadProduct {
    /// Rows of one head in the unit, and where the part that is used starts among them.
    stride: usize,
    part: usize,
    /// Rows of one head that are used.
    rows: usize,
    /// Numbers of a row.
    row_elements: usize,
    /// The first head.
    first: usize,
    columns: usize,
    from: Steps,
    to: Steps,
    /// Whether rows are summed over instead of multiplied with.
    transposed: bool,
}

impl Pass<'_> {
    /// attended = latent attention of `normed` over the cache, to which it adds this pass's latents.
    pub(super) fn latent(
        &mut self,
        a: &Attention,
        l: &Latent,
        normed: &Tensor,
        attended: &Tensor,
        cache: &mut LayerCache,
    ) -> Result<()> {
        let s = l.sizes;
        let key = s.plain + s.rotated;
        let q = self.view(&self.scratch.q, a.heads * key)?;
        match &l.query {
            LatentQuery::Direct(matrix) => self.linear(matrix, normed, &q)?,
            LatentQuery::LowRank { down, norm, up, indexing } => {
                let narrow = self.view(&self.scratch.attended, down.outputs)?;
                self.linear(down, normed, &narrow)?;
                self.norm_in_place(norm, &narrow)?;
                if let Some(indexing) = indexing {
                    self.choose_positions(indexing, a.rope, normed, &narrow, cache.index_keys.as_mut())?;
                }
                self.linear(up, &narrow, &q)?;
            }
        }
        self.rotate_from(a.rope, a.heads, key, s.plain, &q)?;
        let latents = self.view(&self.scratch.k, s.rank)?;
        self.linear(&l.down, normed, &latents)?;
        self.norm_in_place(&l.down_norm, &latents)?;
        let rotated = self.view(&self.scratch.v, s.rotated)?;
        self.linear(&l.rotated, normed, &rotated)?;
        self.rotate_from(a.rope, 1, s.rotated, 0, &rotated)?;
        self.keep_latents(&latents, &rotated, s.rank, &mut cache.keys)?;
        ops::between(attended, &q, |out, q| {
            for first in (0..a.heads).step_by(self.form.group.min(a.heads)) {
                let end = a.heads.min(first + self.form.group.min(a.heads));
                if self.form.expanded {
                    self.expanded(a, l, first..end, q, &cache.keys, out)?;
                } else {
                    self.absorbed(a, l, first..end, q, &cache.keys, out)?;
                }
            }
            Ok(())
        })?
    }

    /// Writes each token's latent and rotated key as one row of the cache.
    fn keep_latents(&mut self, latents: &Tensor, rotated: &Tensor, rank: usize, store: &mut KvStore) -> Result<()> {
        let row = &mut self.scratch.row_of_cache;
        row.resize(store.dim(), 0.0);
        let first = self.first_position;
        Ok(ops::with_numbers(latents, |latents| {
            ops::with_numbers(rotated, |rotated| {
                let width = row.len() - rank;
                for (i, (latent, rotated)) in latents.chunks_exact(rank).zip(rotated.chunks_exact(width)).enumerate() {
                    row[..rank].copy_from_slice(latent);
                    row[rank..].copy_from_slice(rotated);
                    store.write(first + i, row);
                }
            })
        })??)
    }

    /// Attention of the heads `group` in the latent's space.
    fn absorbed(
        &mut self,
        a: &Attention,
        l: &Latent,
        group: Range<usize>,
        q: &[f32],
        cache: &KvStore,
        out: &mut [f32],
    ) -> Result<()> {
        let (s, heads, tokens) = (l.sizes, group.len(), self.tokens);
        let (key, wide) = (s.plain + s.rotated, s.rank + s.rotated);
        let mut room = std::mem::take(&mut self.scratch.latent_rows);
        let (queries, gathered) = room.split_at_mut(tokens * heads * wide);
        let gathered = &mut gathered[..tokens * heads * s.rank];
        // The rotated part of a query goes along as it is.
        for (to, from) in queries.chunks_exact_mut(wide).zip(group_heads(q, a.heads, &group, key)) {
            to[..s.rank].fill(0.0);
            to[s.rank..].copy_from_slice(&from[s.plain..]);
        }
        let product = HeadProduct {
            columns: tokens,
            from: Steps { start: group.start * key, head: key, column: a.heads * key },
            to: Steps { start: 0, head: wide, column: heads * wide },
            ..HeadProduct::absorbing(l, group.start)
        };
        self.head_products(l.key_rows(group.start, group.end), product, q, queries)?;
        let shape = plain_shape(heads, 1, wide, s.rank, a.scale);
        attention_with(self.pool, &shape, queries, cache, cache, self.first_position, &self.sight(), gathered);
        let product = HeadProduct {
            columns: tokens,
            from: Steps { start: 0, head: s.rank, column: heads * s.rank },
            to: Steps { start: group.start * s.value, head: s.value, column: a.heads * s.value },
            ..HeadProduct::values(l, group.start)
        };
        self.head_products(l.value_rows(group.start, group.end), product, gathered, out)?;
        self.scratch.latent_rows = room;
        Ok(())
    }

    /// What tokens look at: all positions, or those that an indexer chose.
    fn sight(&self) -> Sight<'_> {
        Sight { selected: self.scratch.selection.rows(), ..Sight::default() }
    }

    /// Attention of the heads `group` over their own keys and values, which are made for all positions first.
    fn expanded(
        &mut self,
        a: &Attention,
        l: &Latent,
        group: Range<usize>,
        q: &[f32],
        cache: &KvStore,
        out: &mut [f32],
    ) -> Result<()> {
        let (s, heads, tokens) = (l.sizes, group.len(), self.tokens);
        let positions = self.first_position + tokens;
        let (key, wide) = (s.plain + s.rotated, s.rank + s.rotated);
        let Some(mut rooms) = self.scratch.expanded.take() else { unreachable!("a latent model has room for it") };
        rooms.keys.reshape(heads, key, positions);
        rooms.values.reshape(heads, s.value, positions);
        rooms.keys.numbers_mut().fill(0.0);
        let rows = l.key_rows(group.start, group.end);
        self.expand(rows, HeadProduct::keys(l, group.start), cache, key, rooms.keys.numbers_mut(), positions)?;
        let rows = l.value_rows(group.start, group.end);
        self.expand(rows, HeadProduct::values(l, group.start), cache, s.value, rooms.values.numbers_mut(), positions)?;
        // The rotated part of keys is the same for all heads.
        let tile = &mut self.scratch.latent_tile;
        each_tile(self.pool, cache, positions, tile, |start, tile| {
            for keys in rooms.keys.numbers_mut().chunks_exact_mut(positions * key) {
                let keys = &mut keys[start * key..];
                for (to, from) in keys.chunks_exact_mut(key).zip(tile.chunks_exact(wide)) {
                    to[s.plain..].copy_from_slice(&from[s.rank..]);
                }
            }
        });
        let mut room = std::mem::take(&mut self.scratch.latent_rows);
        let (queries, gathered) = room.split_at_mut(tokens * heads * key);
        let gathered = &mut gathered[..tokens * heads * s.value];
        for (to, from) in queries.chunks_exact_mut(key).zip(group_heads(q, a.heads, &group, key)) {
            to.copy_from_slice(from);
        }
        let shape = plain_shape(heads, heads, key, s.value, a.scale);
        let (keys, values, sight) = (&rooms.keys, &rooms.values, self.sight());
        attention_with(self.pool, &shape, queries, keys, values, self.first_position, &sight, gathered);
        for (token, from) in gathered.chunks_exact(heads * s.value).enumerate() {
            let to = (token * a.heads + group.start) * s.value;
            out[to..to + heads * s.value].copy_from_slice(from);
        }
        self.scratch.latent_rows = room;
        self.scratch.expanded = Some(rooms);
        Ok(())
    }

    /// Runs `product` over the rows of `slices` with the latents of all positions, into `width` numbers for each position
    /// of a head.
    fn expand(
        &mut self,
        slices: impl Iterator<Item = RowSlice>,
        product: HeadProduct,
        cache: &KvStore,
        width: usize,
        out: &mut [f32],
        positions: usize,
    ) -> Result<()> {
        for slice in slices {
            let quant = self.quants.get(slice.unit);
            for piece in self.tiers.pieces(&slice) {
                let lease = self.tiers.lease(&piece)?;
                each_tile(self.pool, cache, positions, &mut self.scratch.latent_tile, |start, tile| {
                    let product = HeadProduct {
                        columns: tile.len() / cache.dim(),
                        from: Steps { start: 0, head: 0, column: cache.dim() },
                        to: Steps { start: start * width, head: positions * width, column: width },
                        ..product
                    };
                    product.run(self.pool, quant, &piece, &lease, tile, out);
                });
            }
        }
        Ok(())
    }

    /// Runs `product` over the rows of `slices`, piece by piece.
    fn head_products(
        &mut self,
        slices: impl Iterator<Item = RowSlice>,
        product: HeadProduct,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        for slice in slices {
            let quant = self.quants.get(slice.unit);
            for piece in self.tiers.pieces(&slice) {
                let lease = self.tiers.lease(&piece)?;
                product.run(self.pool, quant, &piece, &lease, x, out);
            }
        }
        Ok(())
    }
}

/// Unpacks the rows of `positions` a tile at a time, and hands each to `use_it` with its first position.
fn each_tile(pool: &Pool, cache: &KvStore, positions: usize, tile: &mut [f32], mut use_it: impl FnMut(usize, &[f32])) {
    for start in (0..positions).step_by(TILE) {
        let end = positions.min(start + TILE);
        let tile = &mut tile[..(end - start) * cache.dim()];
        cache.read_rows(pool, 0, start..end, 0..cache.dim(), tile);
        use_it(start, tile);
    }
}

/// The numbers of each token's heads in `group`, token after token.
fn group_heads<'a>(
    q: &'a [f32],
    heads: usize,
    group: &Range<usize>,
    width: usize,
) -> impl Iterator<Item = &'a [f32]> + use<'a> {
    let (start, end) = (group.start * width, group.end * width);
    q.chunks_exact(heads * width).flat_map(move |token| token[start..end].chunks_exact(width))
}

const fn plain_shape(heads: usize, kv_heads: usize, dim_k: usize, dim_v: usize, scale: f32) -> AttentionShape {
    AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window: None, softcap: None }
}

impl HeadProduct {
    /// Keys from latents: `K_h c`.
    fn keys(l: &Latent, first: usize) -> Self {
        let s = l.sizes;
        let (stride, rows, row_elements, transposed) = match l.rows {
            HeadRows::Split { .. } => (s.rank, s.rank, s.plain, true),
            HeadRows::Combined(_) => (s.plain + s.value, s.plain, s.rank, false),
        };
        let steps = Steps { start: 0, head: 0, column: 0 };
        Self { stride, part: 0, rows, row_elements, first, columns: 0, from: steps, to: steps, transposed }
    }

    /// Queries into the latent's space: `K_hᵀ q`.
    fn absorbing(l: &Latent, first: usize) -> Self {
        let keys = Self::keys(l, first);
        Self { transposed: !keys.transposed, ..keys }
    }

    /// Values from latents: `V_h c`.
    fn values(l: &Latent, first: usize) -> Self {
        let s = l.sizes;
        let (stride, part) = match l.rows {
            HeadRows::Split { .. } => (s.value, 0),
            HeadRows::Combined(_) => (s.plain + s.value, s.plain),
        };
        Self { stride, part, rows: s.value, row_elements: s.rank, transposed: false, ..Self::keys(l, first) }
    }

    /// The products of the rows of `piece`, which may start and end inside a head. Transposed ones add to `out`.
    fn run(&self, pool: &Pool, quant: QuantType, piece: &Piece, weights: &[u8], x: &[f32], out: &mut [f32]) {
        let row_bytes = self.row_elements / quant.block_elements() * quant.block_bytes();
        let (start, end) = (piece.rows.start as usize, piece.rows.end as usize);
        let mut jobs = Vec::with_capacity((end - start) / self.rows + 2);
        let mut row = start;
        while row < end {
            let (head, within) = (row / self.stride, row % self.stride - self.part);
            let rows = (self.rows - within).min(end - row);
            let place = |steps: Steps, extra: usize| steps.start + (head - self.first) * steps.head + extra;
            let (in_x, in_out) = if self.transposed { (within, 0) } else { (0, within) };
            jobs.push(Job {
                quant,
                weights: &weights[(row - start) * row_bytes..][..rows * row_bytes],
                rows,
                columns: Columns::Strided {
                    from: place(self.from, in_x),
                    from_step: self.from.column,
                    to: place(self.to, in_out),
                    to_step: self.to.column,
                    count: self.columns,
                },
            });
            row += rows;
        }
        if self.transposed {
            matmul_transposed(pool, &jobs, self.row_elements, x, out, true);
        } else {
            matmul_jobs(pool, &jobs, self.row_elements, x, out);
        }
    }
}
