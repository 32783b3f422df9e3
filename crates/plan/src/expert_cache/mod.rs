//! Experts that change places: who of a layer has one in RAM, and who makes room.
//!
//! Owns the rule alone: the tiers move bytes by it, and a recorded trace is replayed by it ([`replay()`]). Must never
//! know what an expert is made of.

mod rates;
mod replay;

pub use rates::starts;
pub(crate) use rates::{HitRates, KeptRates};
pub use replay::{LayerStart, Replay, Replayed, Tally, replay};
use serde::{Deserialize, Serialize};

/// Who goes when another one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Nobody: places stay as the plan has them.
    Fixed,
    /// The least recently used one.
    Recent,
    /// The least used one, where a use counts half after so many passes through the layer; nobody where the one that comes was used less.
    Decayed(u32),
}

impl Default for Policy {
    fn default() -> Self {
        Self::USUAL
    }
}

impl Policy {
    /// What the tiers do where nobody asks for another.
    pub const USUAL: Self = Self::Decayed(64);
    /// Those that profiles may ask for.
    pub const ALL: [Self; 3] = [Self::USUAL, Self::Recent, Self::Fixed];

    /// Its name in profiles.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "none",
            Self::Recent => "least_recent",
            Self::Decayed(_) => "least_used",
        }
    }
}

/// The use of one layer's experts so far, and what follows from it by a policy.
#[derive(Clone, Debug)]
pub struct Uses {
    policy: Policy,
    experts: Vec<Use>,
    pass: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// As of its last pass.
    count: f32,
    last: u64,
}

impl Uses {
    /// Of so many experts, none of them used yet.
    #[must_use]
    pub fn new(policy: Policy, experts: usize) -> Self {
        Self { policy, experts: vec![Use::default(); experts], pass: 0 }
    }

    /// Forgets all uses.
    pub fn clear(&mut self) {
        self.experts.fill(Use::default());
        self.pass = 0;
    }

    /// Begins a pass.
    pub const fn begin(&mut self) {
        self.pass += 1;
    }

    /// Counts an expert that the pass uses.
    ///
    /// # Panics
    /// Where there is no such expert.
    pub fn count(&mut self, expert: usize) {
        let count = self.worth(expert) + 1.0;
        self.experts[expert] = Use { count, last: self.pass };
    }

    /// Who of those that hold places makes room for `coming`, an expert of this pass. Others of this pass never do, so a
    /// long prompt, which uses nearly all, drives none out.
    ///
    /// # Panics
    /// Where there is no such expert.
    #[must_use]
    pub fn leaves(&self, holders: impl Iterator<Item = usize>, coming: usize) -> Option<usize> {
        if self.policy == Policy::Fixed {
            return None;
        }
        let idle = holders.filter(|expert| self.experts[*expert].last != self.pass);
        let least = idle.min_by(|a, b| self.worth(*a).total_cmp(&self.worth(*b)))?;
        (self.worth(least) < self.worth(coming)).then_some(least)
    }

    /// What an expert is worth in this pass.
    fn worth(&self, expert: usize) -> f32 {
        let Use { count, last } = self.experts[expert];
        match self.policy {
            Policy::Decayed(half_life) => count * (-((self.pass - last) as f32) / half_life as f32).exp2(),
            Policy::Fixed | Policy::Recent => last as f32,
        }
    }
}
