//! What a pass takes, by what it takes it for.

use std::ops::AddAssign;

use serde::Serialize;

/// What a pass spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// The processor multiplies with weights.
    Weights,
    /// The processor's attention.
    Attention,
    /// The processor's norms, sums, activations and rounding, and handing work to its threads.
    Vectors,
    /// GPUs compute.
    Gpu,
    /// Numbers cross between the processor and a GPU.
    Crossings,
    /// Nothing computes: the drive is waited for.
    Disk,
    /// Nothing computes: weights on their way to a GPU are waited for.
    Link,
}

/// Every term.
pub const TERMS: [Term; 7] =
    [Term::Weights, Term::Attention, Term::Vectors, Term::Gpu, Term::Crossings, Term::Disk, Term::Link];

impl Term {
    /// In words, as the subject of a sentence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weights => "the CPU's products with weights",
            Self::Attention => "the CPU's attention",
            Self::Vectors => "the CPU's norms, activations and hand-overs",
            Self::Gpu => "the GPU's computing",
            Self::Crossings => "crossings between CPU and GPU",
            Self::Disk => "waiting for the drive",
            Self::Link => "waiting for the link to the GPU",
        }
    }
}

/// The time of a pass, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// From its begin to its end.
    pub seconds: f64,
    /// What its seconds are spent on, as [`TERMS`] are ordered; their sum is `seconds`.
    pub terms: [f64; TERMS.len()],
    /// Seconds that the processor works.
    pub cpu_s: f64,
    /// Seconds that GPUs work.
    pub gpu_s: f64,
    /// Seconds that the drive works.
    pub disk_s: f64,
    /// Seconds that links to GPUs work on weights.
    pub link_s: f64,
}

impl Cost {
    /// The seconds spent on one term.
    #[must_use]
    pub fn of(&self, term: Term) -> f64 {
        self.terms[term as usize]
    }

    /// What most of the time is spent on.
    #[must_use]
    pub fn bottleneck(&self) -> Term {
        let most = TERMS.into_iter().max_by(|a, b| self.of(*a).total_cmp(&self.of(*b)));
        most.unwrap_or(Term::Weights)
    }

    /// The same several times.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        Self {
            seconds: self.seconds * factor,
            terms: self.terms.map(|seconds| seconds * factor),
            cpu_s: self.cpu_s * factor,
            gpu_s: self.gpu_s * factor,
            disk_s: self.disk_s * factor,
            link_s: self.link_s * factor,
        }
    }

    pub(super) fn spend(&mut self, term: Term, seconds: f64) {
        self.terms[term as usize] += seconds;
        self.seconds += seconds;
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.terms.iter_mut().zip(other.terms).for_each(|(mine, others)| *mine += others);
        self.cpu_s += other.cpu_s;
        self.gpu_s += other.gpu_s;
        self.disk_s += other.disk_s;
        self.link_s += other.link_s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_found_by_their_place_and_add_up() {
        for (place, term) in TERMS.into_iter().enumerate() {
            assert_eq!(term as usize, place, "{term:?}");
        }
        let mut cost = Cost::default();
        cost.spend(Term::Disk, 2.0);
        cost.spend(Term::Weights, 1.0);
        let mut twice = cost.times(2.0);
        twice += cost;
        assert_eq!((twice.seconds, twice.of(Term::Disk), twice.bottleneck()), (9.0, 6.0, Term::Disk));
    }
}
