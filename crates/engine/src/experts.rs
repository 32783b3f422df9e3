//! What routers chose: counted, and told to who listens.

use plan::{ExpertUse, Inventory};

use crate::ExpertCacheStats;

/// What the router of one layer chose in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The position of the pass's first token.
    pub first_position: usize,
    /// The layer.
    pub layer: usize,
    /// Experts of each token.
    pub used: usize,
    /// Token after token, `used` experts each.
    pub experts: &'a [u32],
}

/// A listener to choices.
pub type Trace = Box<dyn FnMut(&Choice<'_>) + Send>;

/// Choices so far.
pub(crate) struct ExpertRecord {
    pub(crate) uses: ExpertUse,
    pub(crate) cache: ExpertCacheStats,
    pub(crate) trace: Option<Trace>,
}

impl ExpertRecord {
    pub(crate) fn new(inventory: &Inventory) -> Self {
        Self { uses: ExpertUse::new(inventory), cache: ExpertCacheStats::default(), trace: None }
    }

    /// Forgets what was counted.
    pub(crate) fn forget(&mut self) {
        self.uses.clear();
        self.cache = ExpertCacheStats::default();
    }

    /// Counts tokens that start through the layers.
    pub(crate) fn passes(&mut self, tokens: usize) {
        self.uses.add_tokens(tokens as u64);
    }

    /// Counts what a router chose.
    pub(crate) fn chose(&mut self, choice: &Choice) {
        self.uses.add(choice.layer as u32, choice.experts);
        if let Some(trace) = &mut self.trace {
            trace(choice);
        }
    }

    /// Counts experts that were guessed before a router chose, and those that it chose.
    pub(crate) fn guessed(&mut self, (guessed, chosen): (u64, u64)) {
        self.uses.add_guesses(guessed, chosen);
    }

    /// Counts an expert that a pass computes with: a hit is one that is wholly resident.
    pub(crate) fn used(&mut self, resident: bool) {
        if resident {
            self.cache.hits += 1;
        } else {
            self.cache.misses += 1;
        }
    }

    /// Counts bytes of an expert that came from disk.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.cache.bytes_read += bytes as u64;
    }
}
