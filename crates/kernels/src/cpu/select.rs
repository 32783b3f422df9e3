//! The choice of the positions that sparse attention looks at: DeepSeek-V3.2's lightning indexer.
//!
//! A query has some heads of its own for this, and each position one key. Scores of a few tokens are computed at once, so
//! that a key is read once for all of them, and by blocks of positions, so that one token keeps all threads busy too. Then
//! the score of the last position to be taken is found digit by digit, without sorting. A score is a sum in one order, so
//! the choice depends on the token alone.

use super::isa::Kernel;
use super::matmul::{CHUNK, dot_tile};
use super::simd::Simd;
use super::{KvStore, Pool};

/// Positions of one task and of one word: [`select`]'s room for scores comes in whole blocks.
pub const SELECT_BLOCK: usize = u64::BITS as usize;

/// The most numbers that a head of an indexer may have.
pub const SELECT_DIM: usize = CHUNK;

/// Tokens whose scores are computed at once.
const TOKENS_MAX: usize = 16;

/// Keys and heads that are multiplied together.
const TOGETHER: usize = 4;

/// The sizes of an indexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectShape {
    /// Heads of a query.
    pub heads: usize,
    /// Numbers of a head and of a position's key; at most [`SELECT_DIM`].
    pub dim: usize,
    /// Positions that a token takes.
    pub top_k: usize,
}

/// For each token a row of words with a bit for each position that it takes, as [`Sight::selected`](super::Sight) has
/// them: of those up to its own the `top_k` with the largest `Σ_h weight_h · max(q_h · k_p, 0)`, of equals the lower ones,
/// and all where they are no more than that. What is no number ranks last.
///
/// `q` is m × heads × dim, `weights` m × heads; token i stands at `first_position + i`, up to which keys must have been
/// written. `selected` is m rows that cover the last token's position. `scores` is room for one token at least,
/// `first_position + m` rounded up to [`SELECT_BLOCK`]; with more, keys are read less often.
///
/// Source: DeepSeek-AI, "DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models", 2025,
/// <https://arxiv.org/abs/2512.02556>, 2.1.
///
/// # Panics
/// Where lengths and sizes do not fit each other.
#[allow(clippy::too_many_arguments)]
pub fn select(
    pool: &Pool,
    shape: &SelectShape,
    q: &[f32],
    weights: &[f32],
    k: &KvStore,
    first_position: usize,
    scores: &mut [f32],
    selected: &mut [u64],
) {
    let SelectShape { heads, dim, top_k } = *shape;
    assert!(heads > 0 && dim > 0 && dim <= SELECT_DIM && top_k > 0, "an indexer of {shape:?}");
    assert!(k.heads() == 1 && k.dim() == dim, "{} keys of {} for {shape:?}", k.heads(), k.dim());
    let m = weights.len() / heads;
    assert!(weights.len() == m * heads && q.len() == m * heads * dim, "{} and {} numbers", weights.len(), q.len());
    let end = first_position + m;
    assert!(end <= k.capacity(), "{end} positions in a store of {}", k.capacity());
    if m == 0 {
        return;
    }
    let words = selected.len() / m;
    assert!(selected.len() == m * words && words >= end.div_ceil(SELECT_BLOCK), "{m} rows of {words} for {end}");
    // Tokens that see no more than they may take.
    let free = top_k.saturating_sub(first_position).min(m);
    for (i, row) in selected[..free * words].chunks_exact_mut(words).enumerate() {
        fill_below(row, first_position + i + 1);
    }
    if free == m {
        return;
    }
    let room = scores.len() / end.next_multiple_of(SELECT_BLOCK);
    assert!(room > 0, "room for {} scores of {end} positions", scores.len());
    let group = room.min(TOKENS_MAX);
    for first in (free..m).step_by(group) {
        let count = group.min(m - first);
        let end = first_position + first + count;
        let blocks = end.div_ceil(SELECT_BLOCK);
        let scores = &mut scores[..blocks * count * SELECT_BLOCK];
        let (q, weights) =
            (&q[first * heads * dim..][..count * heads * dim], &weights[first * heads..][..count * heads]);
        // Of each block of positions the scores of all tokens, one token after the other.
        pool.run_pieces(scores, count * SELECT_BLOCK, &|block, scores| {
            let positions = block * SELECT_BLOCK..end.min((block + 1) * SELECT_BLOCK);
            pool.isa().run(Score { heads, q, weights, k, positions, scores });
        });
        let rows = &mut selected[first * words..][..count * words];
        pool.run_pieces(rows, words, &|i, row| {
            let own = scores.chunks_exact(SELECT_BLOCK).skip(i).step_by(count);
            take_best(&own, first_position + first + i + 1, top_k, row);
        });
    }
}

/// Sets the bits of the positions below `end` and no others.
fn fill_below(row: &mut [u64], end: usize) {
    for (i, word) in row.iter_mut().enumerate() {
        let bits = end.saturating_sub(i * SELECT_BLOCK);
        *word = if bits < SELECT_BLOCK { (1 << bits) - 1 } else { u64::MAX };
    }
}

/// The scores of some tokens at a block of positions: a row of [`SELECT_BLOCK`] for each token.
struct Score<'a> {
    heads: usize,
    q: &'a [f32],
    weights: &'a [f32],
    k: &'a KvStore,
    positions: std::ops::Range<usize>,
    scores: &'a mut [f32],
}

impl Kernel for Score<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (heads, dim) = (self.heads, self.k.dim());
        let mut keys = [[0.0; CHUNK]; TOGETHER];
        for position in self.positions.clone().step_by(TOGETHER) {
            for (i, key) in keys.iter_mut().enumerate() {
                // Beyond the last position the last one is read again; its score is not used.
                self.k.read_row(s, 0, (position + i).min(self.positions.end - 1), 0, &mut key[..dim]);
            }
            let keys: [&[f32]; TOGETHER] = std::array::from_fn(|i| &keys[i][..dim]);
            let tokens = self.q.chunks_exact(heads * dim).zip(self.weights.chunks_exact(heads));
            for ((q, weights), scores) in tokens.zip(self.scores.chunks_exact_mut(SELECT_BLOCK)) {
                let sums = score(s, keys, q, weights);
                scores[position % SELECT_BLOCK..][..TOGETHER].copy_from_slice(&sums);
            }
        }
    }
}

/// One token's scores at some positions, its heads added up in order.
#[inline(always)]
fn score<S: Simd>(s: S, keys: [&[f32]; TOGETHER], q: &[f32], weights: &[f32]) -> [f32; TOGETHER] {
    let dim = keys[0].len();
    let mut sums = [0.0; TOGETHER];
    let (groups, rest) = weights.as_chunks::<TOGETHER>();
    let (group_q, rest_q) = q.split_at(groups.len() * TOGETHER * dim);
    for (weights, q) in groups.iter().zip(group_q.chunks_exact(TOGETHER * dim)) {
        let heads: [&[f32]; TOGETHER] = std::array::from_fn(|h| &q[h * dim..][..dim]);
        add_heads(&dot_tile(s, keys, heads), weights, &mut sums);
    }
    for (weight, q) in rest.iter().zip(rest_q.chunks_exact(dim)) {
        add_heads(&dot_tile(s, keys, [q]), &[*weight], &mut sums);
    }
    sums
}

#[inline(always)]
fn add_heads<const M: usize>(dots: &[[f32; M]; TOGETHER], weights: &[f32; M], sums: &mut [f32; TOGETHER]) {
    for (sum, dots) in sums.iter_mut().zip(dots) {
        for (dot, weight) in dots.iter().zip(weights) {
            // Not `max`, which would make 0 of what is no number.
            *sum += weight * if *dot < 0.0 { 0.0 } else { *dot };
        }
    }
}

/// Takes the best of the positions below `end`, whose scores come by blocks.
fn take_best<'a>(blocks: &(impl Iterator<Item = &'a [f32]> + Clone), end: usize, top_k: usize, row: &mut [u64]) {
    if end <= top_k {
        return fill_below(row, end);
    }
    let ranks = || blocks.clone().flatten().take(end).map(|score| rank(*score));
    // The rank of the last one taken, from its highest digit down, and how many of that rank are taken.
    let (mut last, mut known, mut left) = (0, 0, top_k);
    for shift in [24, 16, 8, 0] {
        let mut counts = [0; 256];
        for rank in ranks().filter(|rank| rank & known == last) {
            counts[(rank >> shift & 255) as usize] += 1;
        }
        let mut digit = 255;
        while counts[digit] < left {
            left -= counts[digit];
            digit -= 1;
        }
        last |= (digit as u32) << shift;
        known |= 255 << shift;
    }
    row.fill(0);
    for (position, rank) in ranks().enumerate() {
        let equal = rank == last && left > 0;
        left -= usize::from(equal);
        row[position / SELECT_BLOCK] |= u64::from(equal || rank > last) << (position % SELECT_BLOCK);
    }
}

/// A whole number that grows with the score; the two zeros have the same, and what is no number has the least.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    match (score.is_nan(), bits >> 31) {
        (true, _) => 0,
        (_, 0) => bits | 1 << 31,
        _ => !bits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_in_the_order_of_scores() {
        let scores = [f32::NAN, f32::NEG_INFINITY, -3.5, -1e-40, 0.0, 1e-40, 2.0, f32::MAX, f32::INFINITY];
        assert!(scores.map(rank).is_sorted_by(|a, b| a < b));
        assert_eq!((rank(-0.0), rank(-f32::NAN)), (rank(0.0), 0));
    }

    #[test]
    fn the_best_are_taken_whatever_their_digits() {
        for (scores, top_k, expected) in [
            (&[1.0, 1.0, 1.0, 1.0][..], 2, 0b0011),
            (&[1.0, 2.0, 1.0, 2.0], 3, 0b1011),
            (&[-1.0, f32::NAN, f32::NEG_INFINITY, 0.5], 3, 0b1101),
            (&[f32::NAN, f32::NAN, f32::NAN, -9.0], 2, 0b1001),
            (&[1.0, 1.000_000_1, 1.000_000_2, 1.0], 1, 0b0100),
            (&[-0.0, 0.0, -0.0, 0.0], 2, 0b0011),
            (&[1.0, 2.0], 5, 0b0011),
        ] {
            let mut row = [u64::MAX; 2];
            take_best(&std::iter::once(scores), scores.len(), top_k, &mut row);
            assert_eq!(row, [expected, 0], "{top_k} of {scores:?}");
        }
    }
}
