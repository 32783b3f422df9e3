//! The choice of the positions that sparse attention looks at; see [`crate::spec::Indexer`].

use candle_core::Tensor;
use kernels::cpu::{KvStore, RopeShape};

use super::{Pass, Result};
use crate::ops::{self, AddVector, LayerNorm, Rotate};
use crate::spec::{Indexer, Indexing};

/// What the variance of an indexer's key is kept above; the one constant that no file names.
const KEY_EPS: f32 = 1e-6;

impl Pass<'_> {
    /// Keeps the indexer's keys of this pass's tokens, and chooses for each the positions that it looks at: from `narrow`,
    /// what its queries are made from, and the layer's input `normed`. A layer without an indexer leaves the choice as it is.
    pub(super) fn choose_positions(
        &mut self,
        indexing: &Indexing,
        rope: Option<usize>,
        normed: &Tensor,
        narrow: &Tensor,
        keys: Option<&mut KvStore>,
    ) -> Result<()> {
        let Indexing::Own(indexer) = indexing else { return Ok(()) };
        let Some(keys) = keys else { unreachable!("a layer with an indexer keeps its keys") };
        self.keep_index_keys(indexer, rope, normed, keys)?;
        if !self.form.selects {
            self.scratch.selection.lift();
            return Ok(());
        }
        // Queries and latents, which use the same room, are made later.
        let q = self.view(&self.scratch.q, indexer.q.outputs)?;
        self.linear(&indexer.q, narrow, &q)?;
        self.rotate_index(indexer, rope, indexer.shape.heads, &q)?;
        let weights = self.view(&self.scratch.v, indexer.shape.heads)?;
        self.linear(&indexer.weights, normed, &weights)?;
        let (pool, first) = (self.pool, self.first_position);
        let selection = &mut self.scratch.selection;
        ops::with_numbers(&q, |q| {
            ops::with_numbers(&weights, |weights| {
                selection.choose(pool, &indexer.shape, (q, weights), keys, first);
            })
        })??;
        Ok(())
    }

    fn keep_index_keys(
        &mut self,
        indexer: &Indexer,
        rope: Option<usize>,
        normed: &Tensor,
        keys: &mut KvStore,
    ) -> Result<()> {
        let width = indexer.shape.dim;
        let k = self.view(&self.scratch.k, width)?;
        self.linear(&indexer.k, normed, &k)?;
        self.load(&indexer.k_norm)?;
        let weight = &self.scratch.vector[..width];
        k.inplace_op1(&LayerNorm { pool: self.pool, weight, width, eps: KEY_EPS })?;
        self.load(&indexer.k_norm_bias)?;
        k.inplace_op1(&AddVector(&self.scratch.vector[..width]))?;
        self.rotate_index(indexer, rope, 1, &k)?;
        self.keep(&k, keys)
    }

    /// Turns the first numbers of each head, by the angles of the model's rope and the indexer's pairs.
    fn rotate_index(&self, indexer: &Indexer, rope: Option<usize>, heads: usize, tensor: &Tensor) -> Result<()> {
        let Some(rope) = rope else { return Ok(()) };
        let shape = RopeShape { heads, dim: indexer.shape.dim, offset: 0, style: indexer.style };
        Ok(tensor.inplace_op1(&Rotate { pool: self.pool, shape, table: &self.turns[rope] })?)
    }
}
