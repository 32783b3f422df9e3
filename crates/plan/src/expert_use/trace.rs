//! The trace of a file of expert statistics: what routers chose, pass by pass.

/// One pass through a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedPass<'a> {
    /// The position in the context of its first token.
    pub first_position: u32,
    /// The layer.
    pub layer: u32,
    /// Its tokens.
    pub tokens: u32,
    /// The experts that its tokens chose, each once, in ascending order.
    pub experts: &'a [u32],
}

/// Passes in the order in which they ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpertTrace {
    passes: Vec<Pass>,
    /// Of all passes, one after another.
    experts: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pass {
    first_position: u32,
    layer: u32,
    tokens: u32,
    /// Where its experts end.
    end: usize,
}

impl ExpertTrace {
    /// Adds a pass, by the experts of each of its tokens in turn.
    pub fn add<T: AsRef<[u32]>>(&mut self, first_position: u32, layer: u32, chosen: impl IntoIterator<Item = T>) {
        let (start, mut tokens) = (self.experts.len(), 0);
        for token in chosen {
            tokens += 1;
            self.experts.extend_from_slice(token.as_ref());
        }
        self.experts[start..].sort_unstable();
        let mut kept = start;
        for at in start..self.experts.len() {
            if at == start || self.experts[at] != self.experts[kept - 1] {
                self.experts[kept] = self.experts[at];
                kept += 1;
            }
        }
        self.experts.truncate(kept);
        self.passes.push(Pass { first_position, layer, tokens, end: kept });
    }

    /// All passes in order.
    #[must_use]
    pub fn passes(&self) -> impl DoubleEndedIterator<Item = TracedPass<'_>> {
        (0..self.passes.len()).map(|index| {
            let Pass { first_position, layer, tokens, end } = self.passes[index];
            let start = index.checked_sub(1).map_or(0, |before| self.passes[before].end);
            TracedPass { first_position, layer, tokens, experts: &self.experts[start..end] }
        })
    }

    /// How many passes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.passes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.passes.is_empty()
    }
}
