//! Multi-head latent attention as data (DeepSeek-V2, <https://arxiv.org/abs/2405.04434>, section 2.1), and its two forms.
//!
//! The cache holds for each token a latent vector of `rank` numbers, from which every head's key and value are made, and
//! `rotated` numbers of key that all heads share. Head h makes its key from the latent by `K_h` (plain × rank) and its value
//! by `V_h` (value × rank). Two ways lead to the same scores:
//!
//! - *absorbed*: `q · (K_h c) = (K_hᵀ q) · c`. The query moves into the latent's space and meets the cache as it is; what
//!   it gathers there goes through `V_h` once;
//! - *expanded*: keys and values of a head are made for all positions, and attention is the plain one.

use plan::UnitId;
use tiers::RowSlice;

use super::sizes::LatentSizes;
use super::{Indexer, Indexing, Linear, Sizes, Vector};
use crate::claims::Claims;

/// Latent attention of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Latent {
    pub(crate) query: LatentQuery,
    /// Makes what is kept of a token: its latent, and after it the key's part that rotates, one for all heads.
    pub(crate) down: Linear,
    /// Of the latent.
    pub(crate) down_norm: Vector,
    pub(crate) rows: HeadRows,
    pub(crate) sizes: LatentSizes,
}

/// Where queries come from.
#[derive(Clone, Debug)]
pub(crate) enum LatentQuery {
    /// One matrix.
    Direct(Linear),
    /// Down to a narrow vector, normed, and up again. The narrow vector makes an indexer's queries too.
    LowRank { down: Linear, norm: Vector, up: Linear, indexing: Option<Indexing> },
}

impl LatentQuery {
    /// The matrix that reads the layer's input.
    pub(crate) const fn first(&self) -> &Linear {
        match self {
            Self::Direct(linear) | Self::LowRank { down: linear, .. } => linear,
        }
    }
}

/// `K_h` and `V_h` of all heads, as the file has them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeadRows {
    /// `attn_k_b`: for each head `rank` rows of `plain` numbers (`K_hᵀ`). `attn_v_b`: `value` rows of `rank` numbers.
    Split { k: UnitId, v: UnitId },
    /// `attn_kv_b`: for each head `plain` rows of `K_h` and then `value` rows of `V_h`, of `rank` numbers each.
    Combined(UnitId),
}

/// How one pass computes latent attention. Heads are taken `group` at a time, as many as their rows have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) expanded: bool,
    pub(crate) group: usize,
    /// Whether there are more positions than an indexer lets a token look at.
    pub(crate) selects: bool,
}

impl Form {
    /// One token: queries are absorbed, all heads at once.
    pub(crate) const DECODE: Self = Self { expanded: false, group: usize::MAX, selects: false };
    /// The same where tokens do not look at all positions: the one that uses every matrix.
    pub(crate) const SELECTING: Self = Self { selects: true, ..Self::DECODE };
}

impl Latent {
    pub(super) fn build(own: LatentSizes, sizes: &Sizes, heads: usize, claims: &mut Claims, index: usize) -> Self {
        let name = |part: &str| format!("blk.{index}.{part}");
        let LatentSizes { rank, rotated, plain, value, query_rank } = own;
        let width = sizes.width;
        let queries = heads * (plain + rotated);
        // Files without the narrow step may name its width all the same.
        let query = match query_rank.filter(|_| sizes.indexer.is_some() || claims.has(&name("attn_q_a.weight"))) {
            Some(narrow) => LatentQuery::LowRank {
                down: claims.matrix(&name("attn_q_a"), width, narrow, true),
                norm: claims.vector(&name("attn_q_a_norm.weight"), narrow),
                up: claims.matrix(&name("attn_q_b"), narrow, queries, false),
                indexing: sizes.indexer.as_ref().map(|i| Indexing::build(i, width, narrow, claims, index)),
            },
            None => LatentQuery::Direct(claims.matrix(&name("attn_q"), width, queries, false)),
        };
        let down = claims.matrix(&name("attn_kv_a_mqa"), width, rank + rotated, true);
        let combined = name("attn_kv_b.weight");
        // Some converters write the combined matrix beside the split ones.
        let rows = if claims.has(&name("attn_k_b.weight")) {
            claims.skip(&combined);
            HeadRows::Split {
                k: claims.take(&name("attn_k_b.weight"), &[plain, rank, heads]),
                v: claims.take(&name("attn_v_b.weight"), &[rank, value, heads]),
            }
        } else {
            HeadRows::Combined(claims.take(&combined, &[rank, heads * (plain + value)]))
        };
        let down_norm = claims.vector(&name("attn_kv_a_norm.weight"), rank);
        Self { query, down, down_norm, rows, sizes: own }
    }

    /// The matrices that read the layer's input, in the order of their use: what makes queries or the narrow vector, what is
    /// kept, and an indexer's key and the weights of its heads. Keys are kept in every pass, weights
    /// made where there is something to choose.
    pub(crate) fn inputs(&self, form: Form) -> impl Iterator<Item = &Linear> + Clone {
        let indexer = self.indexer();
        let weights = indexer.filter(|_| form.selects).map(|indexer| &indexer.weights);
        let own = [Some(self.query.first()), Some(&self.down)];
        own.into_iter().chain([indexer.map(|indexer| &indexer.k), weights]).flatten()
    }

    /// The matrices that read the narrow vector: what makes all heads' queries, and those of an indexer that chooses.
    pub(crate) fn queries(&self, form: Form) -> impl Iterator<Item = &Linear> + Clone {
        let up = match &self.query {
            LatentQuery::Direct(_) => None,
            LatentQuery::LowRank { up, .. } => Some(up),
        };
        [up, self.indexer().filter(|_| form.selects).map(|indexer| &indexer.q)].into_iter().flatten()
    }

    /// The layer's own indexer.
    pub(crate) fn indexer(&self) -> Option<&Indexer> {
        match &self.query {
            LatentQuery::LowRank { indexing: Some(Indexing::Own(indexer)), .. } => Some(indexer),
            _ => None,
        }
    }

    /// Whether some indexer, this layer's or another's, chooses the positions that are looked at.
    pub(crate) const fn is_indexed(&self) -> bool {
        matches!(self.query, LatentQuery::LowRank { indexing: Some(_), .. })
    }

    /// The rows of `K` of heads `first..end`, in order: one slice, or one for each head.
    pub(crate) fn key_rows(&self, first: usize, end: usize) -> impl Iterator<Item = RowSlice> + use<> {
        let LatentSizes { rank, plain, value, .. } = self.sizes;
        self.head_rows(first, end, rank, plain + value, 0..plain, true)
    }

    /// The rows of `V` of heads `first..end`.
    pub(crate) fn value_rows(&self, first: usize, end: usize) -> impl Iterator<Item = RowSlice> + use<> {
        let LatentSizes { plain, value, .. } = self.sizes;
        self.head_rows(first, end, value, plain + value, plain..plain + value, false)
    }

    fn head_rows(
        &self,
        first: usize,
        end: usize,
        split: usize,
        combined: usize,
        part: std::ops::Range<usize>,
        keys: bool,
    ) -> impl Iterator<Item = RowSlice> + use<> {
        let rows = self.rows;
        let slices = match rows {
            HeadRows::Split { .. } => 1,
            HeadRows::Combined(_) => end - first,
        };
        (0..slices).map(move |i| match rows {
            HeadRows::Split { k, v } => {
                RowSlice { unit: if keys { k } else { v }, rows: (first * split) as u64..(end * split) as u64 }
            }
            HeadRows::Combined(unit) => {
                let start = (first + i) * combined;
                RowSlice { unit, rows: (start + part.start) as u64..(start + part.end) as u64 }
            }
        })
    }

    /// The form that multiplies less for `tokens` queries after `before` positions, of those that have room: for the rows
    /// of queries and what they gather, and for keys and values of so many positions times heads.
    ///
    /// Per head, with c the latent's rank, r, p and v the rotated, plain and value widths, and n = before + tokens:
    ///
    /// ```text
    /// absorbed = tokens·c·(p + v) + pairs·(2c + r)        pairs = tokens·(before + (tokens + 1) / 2)
    /// expanded =      n·c·(p + v) + pairs·(p + r + v)
    /// ```
    ///
    /// Where an indexer lets a token look at k positions, absorbed queries meet no more: their pairs are tokens·k at most.
    /// Expanded heads are multiplied with the positions that any of a few neighbouring tokens look at, and count as all.
    pub(crate) fn form(&self, heads: usize, tokens: usize, before: usize, rooms: (usize, usize)) -> Form {
        let LatentSizes { rank, rotated, plain, value, .. } = self.sizes;
        let positions = before + tokens;
        let pairs = tokens * before + tokens * (tokens + 1) / 2;
        let top_k = self.indexer().map_or(usize::MAX, |indexer| indexer.shape.top_k);
        let chosen = pairs.min(tokens.saturating_mul(top_k));
        let selects = positions > top_k;
        let absorbed = tokens * rank * (plain + value) + chosen * (2 * rank + rotated);
        let expanded = positions * rank * (plain + value) + pairs * (plain + rotated + value);
        let most = (rooms.0 / (tokens * (plain + rotated + value))).min(rooms.1 / positions).min(heads);
        if expanded < absorbed && most > 0 {
            return Form { expanded: true, group: most, selects };
        }
        let group = (rooms.0 / (tokens * (2 * rank + rotated))).clamp(1, heads);
        Form { expanded: false, group, selects }
    }
}

#[cfg(test)]
mod tests {
    use kernels::cpu::{RopeStyle, SelectShape};

    use super::*;

    fn r1() -> Latent {
        let slice = RowSlice { unit: UnitId(0), rows: 0..1 };
        let linear = Linear { weight: slice.clone(), bias: None, inputs: 1, outputs: 1 };
        Latent {
            query: LatentQuery::Direct(linear.clone()),
            down: linear,
            down_norm: Vector { slice, start: 0, length: 512 },
            rows: HeadRows::Combined(UnitId(0)),
            sizes: LatentSizes { rank: 512, rotated: 64, plain: 128, value: 128, query_rank: Some(1536) },
        }
    }

    #[test]
    fn the_form_is_the_cheaper_one_that_has_room() {
        let room = (4 << 20, 13_107);
        for (tokens, before, expanded, group) in [
            (1, 1, false, 128),
            (1, 8_000, false, 128),
            (16, 4_000, false, 128),
            (512, 0, true, 25),
            (512, 3_584, true, 3),
            (512, 12_000, true, 1),
            // No room for one head's keys and values of all positions.
            (512, 13_000, false, 7),
        ] {
            let form = r1().form(128, tokens, before, room);
            assert_eq!(form, Form { expanded, group, selects: false }, "{tokens} tokens after {before}");
        }
    }

    #[test]
    fn chosen_positions_make_absorbing_cheaper() {
        let slice = RowSlice { unit: UnitId(0), rows: 0..1 };
        let linear = Linear { weight: slice.clone(), bias: None, inputs: 1, outputs: 1 };
        let vector = Vector { slice, start: 0, length: 1 };
        let indexer = Indexer {
            q: linear.clone(),
            k: linear.clone(),
            k_norm: vector.clone(),
            k_norm_bias: vector.clone(),
            weights: linear.clone(),
            shape: SelectShape { heads: 64, dim: 128, top_k: 2048 },
            style: RopeStyle::Half,
        };
        let indexing = Some(Indexing::Own(Box::new(indexer)));
        let query = LatentQuery::LowRank { down: linear.clone(), norm: vector, up: linear, indexing };
        let latent = Latent { query, ..r1() };
        for (tokens, before, expanded, selects) in [
            (1, 2_047, false, false),
            (1, 2_048, false, true),
            (512, 1_024, true, false),
            (512, 2_048, true, true),
            (512, 12_000, false, true),
        ] {
            let form = latent.form(128, tokens, before, (4 << 20, 13_107));
            assert_eq!((form.expanded, form.selects), (expanded, selects), "{tokens} tokens after {before}");
        }
    }

    #[test]
    fn rows_of_heads_are_one_run_or_one_for_each() {
        let ranges = |latent: &Latent| {
            let list =
                |rows: &mut dyn Iterator<Item = RowSlice>| rows.map(|s| (s.rows.start, s.rows.end)).collect::<Vec<_>>();
            (list(&mut latent.key_rows(1, 3)), list(&mut latent.value_rows(1, 3)))
        };
        let mut latent = r1();
        assert_eq!(ranges(&latent), (vec![(256, 384), (512, 640)], vec![(384, 512), (640, 768)]));
        latent.rows = HeadRows::Split { k: UnitId(0), v: UnitId(1) };
        assert_eq!(ranges(&latent), (vec![(512, 1536)], vec![(128, 384)]));
    }
}
