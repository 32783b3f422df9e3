//! How much room a card needs for the mixtures of a model: the sizes from which buffers follow.
//!
//! Must never know what is kept in them.

use kernels::cuda::{Arena, JOB_COLUMNS, JobRoom, Quantized, RouteMail};
use plan::Bytes;

use super::experts::{FEW, mixture};
use super::words::WORDS_OF_PAIR;
use crate::spec::Spec;

/// The most rows of one kernel.
const ROWS_MAX: usize = 65_535;

/// Counts from which all sizes follow: of a model's mixtures, the most of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    layers: usize,
    pub(super) experts: usize,
    /// Experts of a token.
    pub(super) used: usize,
    /// Numbers between an expert's matrices.
    pub(super) inner: usize,
    /// Tokens of a micro-batch.
    pub(super) tokens: usize,
    /// Pairs whose outputs have room at one time.
    pub(super) run: usize,
}

impl Counts {
    /// Those of `spec`, if it has mixtures, where `room` numbers are free for experts' outputs.
    pub(super) fn of(spec: &Spec, tokens: usize, room: usize) -> Option<Self> {
        let mixtures = || spec.layers.iter().filter_map(|layer| mixture(&layer.ffn));
        let used = mixtures().map(|f| f.routing.used).max()?;
        Some(Self {
            layers: spec.layers.len(),
            experts: mixtures().map(|f| f.routing.experts).max()?,
            used,
            inner: mixtures().map(|f| f.inner).max()?,
            tokens,
            run: (room / spec.width).min(tokens * used).min(ROWS_MAX),
        })
    }

    /// Pairs of a micro-batch: each token's choices.
    pub(super) const fn pairs(&self) -> usize {
        self.tokens * self.used
    }

    /// Choices of a few tokens in all layers.
    pub(super) const fn untold(&self) -> usize {
        self.layers * FEW * self.used
    }

    /// Entries and columns of a layer's lists: three for each expert that is used, and more for those of many columns.
    pub(super) fn jobs(&self) -> (usize, usize) {
        (3 * (self.experts.min(self.pairs()) + self.pairs().div_ceil(JOB_COLUMNS)), 3 * self.pairs())
    }

    /// Words about a layer's pairs.
    pub(super) const fn words(&self) -> usize {
        WORDS_OF_PAIR * self.pairs()
    }

    /// Columns of inner numbers at one time.
    pub(super) fn inner_columns(&self) -> usize {
        self.run.max(FEW.min(self.tokens) * self.used)
    }

    /// What all of it takes of an arena.
    pub(super) fn bytes(&self) -> Bytes {
        let (entries, columns) = self.jobs();
        [
            Arena::bytes_of::<u32>(self.pairs()),
            Arena::bytes_of::<f32>(self.pairs()),
            Arena::bytes_of::<u32>(self.untold()),
            Quantized::bytes(self.inner, self.inner_columns()),
            JobRoom::bytes(entries, columns),
            Arena::bytes_of::<u32>(self.words()),
            RouteMail::BYTES,
            Arena::bytes_of::<u64>(self.experts).times(3 * self.layers as u64),
        ]
        .into_iter()
        .sum()
    }
}
