//! Why there is no plan.

use std::fmt;

use crate::profile::{Origin, ProfileError};
use crate::{Bytes, ExpertUseError, Load, Tier};

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The profile does not fit this model or this machine: a mistake in it.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The counts of experts are of another model.
    #[error(transparent)]
    Experts(#[from] ExpertUseError),
    /// What is asked does not fit under a ceiling.
    #[error(transparent)]
    DoesNotFit(Box<DoesNotFit>),
}

/// A tier that cannot hold what is asked of it, with the sum and ways out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoesNotFit {
    /// The tier.
    pub tier: Tier,
    /// Its ceiling.
    pub ceiling: Bytes,
    /// Who set the ceiling.
    pub origin: Origin,
    /// Whether the ceiling is all that the machine has, which is less than was allowed.
    pub machine_has_less: bool,
    /// What it would have to hold.
    pub loads: Vec<Load>,
    /// Changes of which each alone would make it fit.
    pub ways_out: Vec<String>,
}

impl DoesNotFit {
    /// The sum of what it would have to hold.
    #[must_use]
    pub fn needed(&self) -> Bytes {
        self.loads.iter().map(|load| load.bytes).sum()
    }
}

impl std::error::Error for DoesNotFit {}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (needed, ceiling) = (self.needed(), self.ceiling);
        let over = needed.saturating_sub(ceiling);
        let (tier, origin) = (self.tier, &self.origin);
        if self.machine_has_less {
            write!(f, "{tier}: {needed} needed, {ceiling} in this machine ({origin} allows more)")?;
        } else {
            write!(f, "{tier}: {needed} needed, {ceiling} allowed by {origin}")?;
        }
        writeln!(f, "; {over} too much\n")?;
        let width = self.loads.iter().map(|load| load.what.chars().count()).max().unwrap_or(0);
        for load in &self.loads {
            writeln!(f, "  {:<width$}  {:>11}", load.what, load.bytes.to_string())?;
        }
        write!(f, "  {:<width$}  {:>11}", "sum", needed.to_string())?;
        match self.ways_out.as_slice() {
            [] => Ok(()),
            [only] => write!(f, "\n\nhint: {only}"),
            several => {
                write!(f, "\n\nhint: each of these alone makes it fit")?;
                several.iter().try_for_each(|way| write!(f, "\n  - {way}"))
            }
        }
    }
}
