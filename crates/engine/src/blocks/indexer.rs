//! The choice of the positions that sparse attention looks at; see [`crate::spec::Indexer`].

use kernels::cpu::{KvStore, RopeShape};

use super::{Pass, Result};
use crate::ops::{AddVector, LayerNorm, Rotate};
use crate::span::{Span, with_all};
use crate::spec::Indexer;

/// What the variance of an indexer's key is kept above; the one constant that no file names.
const KEY_EPS: f32 = 1e-6;

impl Pass<'_> {
    /// Keeps the indexer's keys `k` of this pass's tokens.
    pub(super) fn keep_index_keys(
        &mut self,
        indexer: &Indexer,
        rope: Option<usize>,
        k: &Span,
        keys: Option<&mut KvStore>,
    ) -> Result<()> {
        let Some(keys) = keys else { unreachable!("a layer with an indexer keeps its keys") };
        let width = indexer.shape.dim;
        self.load(&indexer.k_norm)?;
        let weight = &self.scratch.vector[..width];
        k.change(&LayerNorm { pool: self.pool, weight, width, eps: KEY_EPS })?;
        self.load(&indexer.k_norm_bias)?;
        k.change(&AddVector(&self.scratch.vector[..width]))?;
        self.rotate_index(indexer, rope, 1, k)?;
        self.keep(k, keys)
    }

    /// Chooses for each token the positions that it looks at, from the indexer's queries and the weights of its heads. Where
    /// there is nothing to choose it looks at all.
    pub(super) fn choose_positions(
        &mut self,
        indexer: &Indexer,
        rope: Option<usize>,
        q: &Span,
        weights: &Span,
        keys: Option<&KvStore>,
    ) -> Result<()> {
        let Some(keys) = keys.filter(|_| self.form.selects) else {
            self.scratch.selection.lift();
            return Ok(());
        };
        self.rotate_index(indexer, rope, indexer.shape.heads, q)?;
        let (pool, first) = (self.pool, self.first_position);
        let selection = &mut self.scratch.selection;
        Ok(with_all([q, weights], |[q, weights]| selection.choose(pool, &indexer.shape, (q, weights), keys, first))?)
    }

    /// Turns the first numbers of each head, by the angles of the model's rope and the indexer's pairs.
    fn rotate_index(&self, indexer: &Indexer, rope: Option<usize>, heads: usize, x: &Span) -> Result<()> {
        let Some(rope) = rope else { return Ok(()) };
        let shape = RopeShape { heads, dim: indexer.shape.dim, offset: 0, style: indexer.style };
        Ok(x.change(&Rotate { pool: self.pool, shape, table: &self.turns[rope] })?)
    }
}
