//! Multi-head latent attention in its two forms; see [`crate::spec::Latent`] for what they compute.
//!
//! Heads are taken a group at a time: the rows of a group fit one scratch buffer, whatever the context and micro-batch.

use std::ops::Range;

use kernels::cpu::{AttentionShape, KvStore, Pool, Sight, attention_with, rms_norm_in_place};
use plan::cost::LATENT_TILE;
use tiers::RowSlice;

use super::head_product::{HeadProduct, Rows, Strides};
use super::linear::each_staged;
use super::{Pass, Result};
use crate::scratch::LatentRooms;
use crate::session::LayerCache;
use crate::span::Span;
use crate::spec::{Attention, Latent, LatentQuery, Vector};
use crate::steps::Register;

const TILE: usize = LATENT_TILE as usize;

/// Some heads of one layer in one pass.
struct Group<'a> {
    attention: &'a Attention,
    latent: &'a Latent,
    heads: Range<usize>,
    /// All heads' queries, token after token.
    q: &'a [f32],
    cache: &'a KvStore,
}

impl Pass<'_> {
    /// attended = latent attention of `normed` over the cache, to which it adds this pass's latents.
    pub(super) fn latent_attention(
        &mut self,
        a: &Attention,
        l: &Latent,
        normed: &Span,
        attended: &Span,
        cache: &mut LayerCache,
    ) -> Result<()> {
        let s = l.sizes;
        let indexer = l.indexer();
        let index_widths = indexer.map_or([0; 2], |i| [i.shape.dim, if self.form.selects { i.shape.heads } else { 0 }]);
        let widths = [l.query.first().outputs, l.down.outputs, index_widths[0], index_widths[1]];
        let (all, [first, kept, index_k, index_weights]) = &self.views(Register::Projected, widths);
        self.linears(l.inputs(self.form), normed, all)?;
        if let Some(indexer) = indexer {
            self.keep_index_keys(indexer, a.rope, index_k, cache.index_keys.as_mut())?;
        }
        let q = &match &l.query {
            LatentQuery::Direct(_) => first.clone(),
            LatentQuery::LowRank { norm, up, .. } => {
                self.norm_in_place(norm, first)?;
                let index_q = indexer.filter(|_| self.form.selects).map_or(0, |indexer| indexer.q.outputs);
                let (all, [q, index_q]) = self.views(Register::Queries, [up.outputs, index_q]);
                self.linears(l.queries(self.form), first, &all)?;
                if let Some(indexer) = indexer {
                    self.choose_positions(indexer, a.rope, &index_q, index_weights, cache.index_keys.as_ref())?;
                }
                q
            }
        };
        self.rotate_from(a.rope, a.heads, s.plain + s.rotated, s.plain, q)?;
        self.rotate_from(a.rope, 1, s.rank + s.rotated, s.rank, kept)?;
        self.keep_latents(&l.down_norm, kept, &mut cache.keys)?;
        // The rooms come back whatever happens between.
        let Some(mut rooms) = self.scratch.latent.take() else { unreachable!("a latent model has rooms") };
        let outcome = attended.with_from(q, |out, q| {
            let step = self.form.group.min(a.heads);
            for first in (0..a.heads).step_by(step) {
                let heads = first..a.heads.min(first + step);
                let group = Group { attention: a, latent: l, heads, q, cache: &cache.keys };
                if self.form.expanded {
                    self.expanded(&group, &mut rooms, out)?;
                } else {
                    self.absorbed(&group, &mut rooms, out)?;
                }
            }
            Ok(())
        });
        self.scratch.latent = Some(rooms);
        outcome?
    }

    /// Writes each token's latent, normed, and rotated key as one row of the cache.
    fn keep_latents(&mut self, norm: &Vector, kept: &Span, store: &mut KvStore) -> Result<()> {
        self.load(norm)?;
        let (pool, first, rank, eps) = (self.pool, self.first_position, norm.length, self.spec.norm_eps);
        let weight = Some(&self.scratch.vector[..rank]);
        Ok(kept.with_mut(|kept| {
            for (i, row) in kept.chunks_exact_mut(store.dim()).enumerate() {
                rms_norm_in_place(pool, &mut row[..rank], weight, rank, eps);
                store.write(first + i, row);
            }
        })?)
    }

    /// Attention of a group of heads in the latent's space.
    fn absorbed(&mut self, g: &Group, rooms: &mut LatentRooms, out: &mut [f32]) -> Result<()> {
        let (s, all, heads, tokens) = (g.latent.sizes, g.attention.heads, g.heads.len(), self.tokens);
        let (key, wide) = (s.plain + s.rotated, s.rank + s.rotated);
        let (queries, gathered) = rooms.rows.split_at_mut(tokens * heads * wide);
        let gathered = &mut gathered[..tokens * heads * s.rank];
        // The rotated part of a query goes along as it is.
        for (to, from) in queries.chunks_exact_mut(wide).zip(g.queries(key)) {
            to[..s.rank].fill(0.0);
            to[s.rank..].copy_from_slice(&from[s.plain..]);
        }
        let from = Strides { start: g.heads.start * key, head: key, column: all * key };
        let to = Strides { start: 0, head: wide, column: heads * wide };
        let product = HeadProduct::absorbing(g.latent, g.heads.start).of(tokens, from, to);
        self.head_products(g.latent.key_rows(g.heads.start, g.heads.end), product, g.q, queries)?;
        let shape = plain_shape(heads, 1, wide, s.rank, g.attention.scale);
        attention_with(self.pool, &shape, queries, g.cache, g.cache, self.first_position, &self.sight(), gathered);
        let from = Strides { start: 0, head: s.rank, column: heads * s.rank };
        let to = Strides { start: g.heads.start * s.value, head: s.value, column: all * s.value };
        let product = HeadProduct::values(g.latent, g.heads.start).of(tokens, from, to);
        self.head_products(g.latent.value_rows(g.heads.start, g.heads.end), product, gathered, out)
    }

    /// Attention of a group of heads over their own keys and values, which are made for all positions first.
    fn expanded(&mut self, g: &Group, rooms: &mut LatentRooms, out: &mut [f32]) -> Result<()> {
        let (s, heads, tokens) = (g.latent.sizes, g.heads.len(), self.tokens);
        let (first, end) = (g.heads.start, g.heads.end);
        let positions = self.first_position + tokens;
        let key = s.plain + s.rotated;
        let LatentRooms { rows, tile, keys, values } = rooms;
        keys.reshape(heads, key, positions);
        values.reshape(heads, s.value, positions);
        // The rotated part is the same for all heads; the plain part is added up.
        each_tile(self.pool, g.cache, positions, tile, |start, tile| {
            self.pool.run_pieces(keys.numbers_mut(), positions * key, &|_, keys| {
                let keys = &mut keys[start * key..];
                for (to, from) in keys.chunks_exact_mut(key).zip(tile.chunks_exact(s.rank + s.rotated)) {
                    to[..s.plain].fill(0.0);
                    to[s.plain..].copy_from_slice(&from[s.rank..]);
                }
            });
        });
        let making = HeadProduct::keys(g.latent, first);
        self.expand(g, g.latent.key_rows(first, end), making, tile, key, keys)?;
        let making = HeadProduct::values(g.latent, first);
        self.expand(g, g.latent.value_rows(first, end), making, tile, s.value, values)?;
        let (queries, gathered) = rows.split_at_mut(tokens * heads * key);
        let gathered = &mut gathered[..tokens * heads * s.value];
        let all = g.attention.heads;
        self.pool.run_pieces(queries, heads * key, &|token, queries| {
            queries.copy_from_slice(&g.q[(token * all + first) * key..][..heads * key]);
        });
        let shape = plain_shape(heads, heads, key, s.value, g.attention.scale);
        attention_with(self.pool, &shape, queries, keys, values, self.first_position, &self.sight(), gathered);
        self.pool.run_pieces(out, all * s.value, &|token, out| {
            let from = &gathered[token * heads * s.value..][..heads * s.value];
            out[first * s.value..end * s.value].copy_from_slice(from);
        });
        Ok(())
    }

    /// What tokens look at: all positions, or those that an indexer chose.
    fn sight(&self) -> Sight<'_> {
        Sight { selected: self.scratch.selection.rows(), ..Sight::default() }
    }

    /// Runs `product` over the rows of `slices` with the latents of all positions, into `width` numbers for each position
    /// of a head.
    fn expand(
        &mut self,
        g: &Group,
        slices: impl Iterator<Item = RowSlice>,
        product: HeadProduct,
        tile: &mut [f32],
        width: usize,
        store: &mut KvStore,
    ) -> Result<()> {
        let (pool, positions, wide) = (self.pool, self.first_position + self.tokens, g.cache.dim());
        self.each_rows(slices, &mut |parts| {
            each_tile(pool, g.cache, positions, tile, |start, tile| {
                let from = Strides { start: 0, head: 0, column: wide };
                let to = Strides { start: start * width, head: positions * width, column: width };
                product.of(tile.len() / wide, from, to).run(pool, parts, tile, store.numbers_mut());
            });
        })
    }

    /// Runs `product` over the rows of `slices`.
    fn head_products(
        &mut self,
        slices: impl Iterator<Item = RowSlice>,
        product: HeadProduct,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let pool = self.pool;
        self.each_rows(slices, &mut |parts| product.run(pool, parts, x, out))
    }

    /// Hands the rows of `slices`, of one unit, to `use_them`: all at once where they are resident, else piece by piece.
    fn each_rows(&mut self, slices: impl Iterator<Item = RowSlice>, use_them: &mut dyn FnMut(&[Rows])) -> Result<()> {
        let mut slices = slices.peekable();
        let Some(unit) = slices.peek().map(|slice| slice.unit) else { return Ok(()) };
        let quant = self.quants.get(unit);
        if self.tiers.is_resident(unit) {
            let rows = |slice: RowSlice| {
                let weights = self.tiers.resident(&slice)?;
                Some(Rows { quant, start: slice.rows.start as usize, weights })
            };
            use_them(&slices.filter_map(rows).collect::<Vec<_>>());
            return Ok(());
        }
        for slice in slices {
            each_staged(self.tiers, &slice, &mut |first, _, weights| {
                use_them(&[Rows { quant, start: slice.rows.start as usize + first, weights }]);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Group<'_> {
    /// The queries of each token's heads in this group, token after token, of `width` numbers each.
    fn queries(&self, width: usize) -> impl Iterator<Item = &[f32]> {
        let (start, end) = (self.heads.start * width, self.heads.end * width);
        let tokens = self.q.chunks_exact(self.attention.heads * width);
        tokens.flat_map(move |token| token[start..end].chunks_exact(width))
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

const fn plain_shape(heads: usize, kv_heads: usize, dim_k: usize, dim_v: usize, scale: f32) -> AttentionShape {
    AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window: None, softcap: None }
}
