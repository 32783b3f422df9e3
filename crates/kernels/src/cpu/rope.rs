//! Rotary position embedding.

use super::Pool;

/// Numbers of one task: below this a second thread costs more than it brings.
const TASK_NUMBERS: usize = 16 * 1024;

/// Which numbers of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours: 2i and 2i + 1 (llama files as GGUF stores them, deepseek).
    Interleaved,
    /// i and i + half of the rotated width (`NeoX`: qwen, gemma, phi).
    Half,
}

/// What of each token is rotated, and how.
#[derive(Clone, Copy, Debug)]
pub struct RopeShape {
    /// Heads of a token.
    pub heads: usize,
    /// Numbers of a head.
    pub dim: usize,
    /// Where in the head the rotated numbers start; they are twice as many as the table has pairs.
    pub offset: usize,
    /// How they are paired.
    pub style: RopeStyle,
}

/// Cosines and sines for some positions, computed once for all layers and heads that share frequencies.
#[derive(Clone, Debug, Default)]
pub struct RopeTable {
    pairs: usize,
    /// For each position all cosines and then all sines.
    turns: Vec<f32>,
}

impl RopeTable {
    /// A table that takes up to `tokens` positions of `pairs` pairs without allocating again.
    #[must_use]
    pub fn with_capacity(pairs: usize, tokens: usize) -> Self {
        Self { pairs, turns: Vec::with_capacity(2 * pairs * tokens) }
    }

    /// Computes the turns of these positions, in `f64`: angle = position · frequency.
    ///
    /// `frequencies` are θ^(−2i/d) with the model's scaling and factors worked in; `attention_factor` multiplies
    /// cosine and sine (`YaRN`'s mscale; 1 without).
    pub fn fill(&mut self, positions: impl IntoIterator<Item = u32>, frequencies: &[f32], attention_factor: f32) {
        self.pairs = frequencies.len();
        self.turns.clear();
        for position in positions {
            let turn = |f: &f32| (f64::from(position) * f64::from(*f)).sin_cos();
            let factor = f64::from(attention_factor);
            self.turns.extend(frequencies.iter().map(|f| (turn(f).1 * factor) as f32));
            self.turns.extend(frequencies.iter().map(|f| (turn(f).0 * factor) as f32));
        }
    }

    /// Positions in the table.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.turns.len().checked_div(2 * self.pairs).unwrap_or(0)
    }
}

/// Rotates `x`, tokens × heads × dim, by the turns of the table, its `t`-th position for the `t`-th token.
///
/// # Panics
/// Where `x` is not as many tokens as the table has, or the rotated part does not fit a head.
pub fn rope(pool: &Pool, x: &mut [f32], shape: RopeShape, table: &RopeTable) {
    let RopeShape { heads, dim, offset, style } = shape;
    let (width, pairs) = (heads * dim, table.pairs);
    assert!(x.len() == width * table.tokens(), "{} numbers, {} tokens of {width}", x.len(), table.tokens());
    assert!(offset + 2 * pairs <= dim, "{pairs} pairs from {offset} in heads of {dim}");
    if x.is_empty() {
        return;
    }
    let tokens = (TASK_NUMBERS / width).max(1);
    pool.run_pieces(x, tokens * width, &|i, x| {
        let turns = table.turns[i * tokens * 2 * pairs..].chunks_exact(2 * pairs);
        for (token, turns) in x.chunks_exact_mut(width).zip(turns) {
            let (cos, sin) = turns.split_at(pairs);
            for head in token.chunks_exact_mut(dim) {
                let part = &mut head[offset..offset + 2 * pairs];
                match style {
                    RopeStyle::Interleaved => {
                        for ((pair, cos), sin) in part.chunks_exact_mut(2).zip(cos).zip(sin) {
                            (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
                        }
                    }
                    RopeStyle::Half => {
                        let (low, high) = part.split_at_mut(pairs);
                        for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                        }
                    }
                }
            }
        }
    });
}
