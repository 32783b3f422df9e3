//! Which positions the tokens of a pass look at, where indexers choose them.
//!
//! Owns the room for scores and choices, allocated once. A choice stands until the next layer with an indexer makes its own.

use kernels::cpu::{KvStore, Pool, SELECT_BLOCK, SelectShape, select};
use plan::{ModelShape, Plan, cost};

/// A choice of positions for each token of a pass.
pub(crate) struct Selection {
    scores: Vec<f32>,
    words: Vec<u64>,
    /// Words in use; none where tokens look at all positions.
    used: Option<usize>,
}

impl Selection {
    /// Room for this plan's micro-batch, threads and context; none for models without indexers.
    pub(crate) fn new(shape: &ModelShape, plan: &Plan) -> Self {
        let (tokens, threads, context) = (plan.micro_batch, plan.threads, plan.kv.tokens);
        let all = cost::selection(shape, tokens, threads, context);
        let scores = if all.0 > 0 { cost::scores(threads, context).0 } else { 0 };
        let words = (all.0 - scores) / 8;
        Self { scores: vec![0.0; scores as usize / 4], words: vec![0; words as usize], used: None }
    }

    /// Lets tokens look at all positions.
    pub(crate) fn lift(&mut self) {
        self.used = None;
    }

    /// Chooses, from the heads `q` and their weights, for tokens from `first_position` on whose keys were kept.
    pub(crate) fn choose(
        &mut self,
        pool: &Pool,
        shape: &SelectShape,
        (q, weights): (&[f32], &[f32]),
        keys: &KvStore,
        first_position: usize,
    ) {
        let tokens = weights.len() / shape.heads;
        let used = tokens * (first_position + tokens).div_ceil(SELECT_BLOCK);
        self.used = Some(used);
        select(pool, shape, q, weights, keys, first_position, &mut self.scores, &mut self.words[..used]);
    }

    /// A row of words for each token, as attention takes them; none where tokens look at all positions.
    pub(crate) fn rows(&self) -> Option<&[u64]> {
        self.used.map(|used| &self.words[..used])
    }
}
