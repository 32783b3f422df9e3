//! A machine as a user names it: `rtx3060+ddr4-3200x2:64GiB+nvme4`.
//!
//! ```text
//! machine  =  part { "+" part }
//! part     =  [ count "*" ] gpu  |  memory ":" size  |  drive  |  count "cores"
//! ```
//!
//! in any order: one memory with its size, one drive, any number of GPUs, and at most one number of cores, where it is not the catalogue's.

use std::fmt;

use super::{Card, Catalogue, Drive, Memory};
use crate::Bytes;
use crate::machine::GPU_CAPABILITY_MIN;
use crate::suggest::closest;

/// Parts that make a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Build {
    /// GPUs, by number.
    pub cards: Vec<Card>,
    /// Memory and processor.
    pub memory: Memory,
    /// How much memory.
    pub ram: Bytes,
    /// The drive that holds the model.
    pub drive: Drive,
    /// Cores.
    pub cores: u32,
}

/// GPUs that one board takes.
const CARDS_MAX: usize = 16;
/// Cores of the largest processors.
const CORES_MAX: u32 = 1024;

/// Why words are no machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Nothing between two `+`, or nothing at all.
    #[error("{0:?}: a part is missing\n\nhint: {GRAMMAR}")]
    Empty(String),
    /// No part has this name.
    #[error("{part:?} is not in the catalogue\n\nhint: {hint}")]
    Unknown {
        /// What was written.
        part: String,
        /// What may have been meant, and what there is.
        hint: String,
    },
    /// A GPU that no kernel is built for.
    #[error(
        "{name} ({title}) is sm_{major}{minor}, too old: GPUs from sm_{least}0 up are used\n\nhint: leave it out, and the processor computes",
        major = capability.0, minor = capability.1, least = GPU_CAPABILITY_MIN.0
    )]
    TooOld {
        /// Its name.
        name: String,
        /// Its name for people.
        title: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// No memory, or no drive.
    #[error("{text:?} names no {what}\n\nhint: {GRAMMAR}")]
    Missing {
        /// The machine.
        text: String,
        /// What it lacks.
        what: &'static str,
    },
    /// A second memory, drive or number of cores.
    #[error("{part:?} is a second {what}\n\nhint: a machine has one; GPUs may be several")]
    Twice {
        /// The second.
        part: String,
        /// What it is.
        what: &'static str,
    },
    /// A memory without a size, or a size where none belongs.
    #[error(
        "{part:?}: {what}\n\nhint: write a memory with its size, such as ddr4-3200x2:64GiB, and everything else without"
    )]
    Size {
        /// The part.
        part: String,
        /// What is wrong.
        what: String,
    },
    /// A number of GPUs or cores that no machine has.
    #[error("{part:?}: {what}")]
    Count {
        /// The part.
        part: String,
        /// What is wrong.
        what: String,
    },
}

const GRAMMAR: &str = "a machine is a memory with its size and a drive, and GPUs if any: rtx3060+ddr4-3200x2:64GiB+nvme4, 2*rtx3090+ddr5-6000x2:128GiB+nvme5";

/// Parts while they are read.
#[derive(Default)]
struct Parts {
    cards: Vec<Card>,
    memory: Option<(Memory, Bytes)>,
    drive: Option<Drive>,
    cores: Option<u32>,
}

impl Build {
    /// Reads a machine. Case does not matter, nor do blanks around parts.
    ///
    /// # Errors
    /// [`BuildError`] that names the part.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, BuildError> {
        let mut parts = Parts::default();
        for part in text.split('+') {
            let part = part.trim().to_ascii_lowercase();
            if part.is_empty() {
                return Err(BuildError::Empty(cut(text)));
            }
            if cut(&part) != part {
                return Err(unknown(&cut(&part), "", catalogue));
            }
            parts.add(&part, catalogue)?;
        }
        let missing = |what| BuildError::Missing { text: cut(text), what };
        let (memory, ram) = parts.memory.ok_or_else(|| missing("memory"))?;
        let drive = parts.drive.ok_or_else(|| missing("drive"))?;
        let cores = parts.cores.unwrap_or(memory.cores.value);
        Ok(Self { cards: parts.cards, memory, ram, drive, cores })
    }

    /// What it costs, about, if every part has a price.
    #[must_use]
    pub fn price_usd(&self) -> Option<f64> {
        let cards = self.cards.iter().map(|card| card.price.as_ref().map(|price| price.usd));
        let cards: f64 = cards.sum::<Option<f64>>()?;
        let gib = self.ram.as_f64() / Bytes::GIB.as_f64();
        Some(cards + self.memory.price.usd + gib * self.memory.price_per_gib.usd + self.drive.price.usd)
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cards = self.cards.chunk_by(|a, b| a.name == b.name).map(|same| match same {
            [one] => one.name.clone(),
            several => format!("{}*{}", several.len(), several[0].name),
        });
        let rest = [format!("{}:{}", self.memory.name, short(self.ram)), self.drive.name.clone()];
        let cores = (self.cores != self.memory.cores.value).then(|| format!("{}cores", self.cores));
        f.pad(&cards.chain(rest).chain(cores).collect::<Vec<_>>().join("+"))
    }
}

/// As much of a text as a message shows; no part of the catalogue has so long a name.
fn cut(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    if text.chars().count() <= CHARS_MAX {
        text.to_owned()
    } else {
        text.chars().take(CHARS_MAX).chain(['…']).collect()
    }
}

/// A size in the largest unit that it is a whole number of: `64GiB`.
pub(super) fn short(size: Bytes) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| size.0 >= *unit && size.0.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", size.0 / unit),
        None => format!("{}B", size.0),
    }
}

impl Parts {
    fn add(&mut self, part: &str, catalogue: &Catalogue) -> Result<(), BuildError> {
        if let Some(count) = part.strip_suffix("cores") {
            return self.add_cores(part, count);
        }
        let (count, rest) = match part.split_once('*') {
            Some((count, rest)) => (Some(count), rest),
            None => (None, part),
        };
        let (name, size) = match rest.split_once(':') {
            Some((name, size)) => (name, Some(size)),
            None => (rest, None),
        };
        if let Some(memory) = catalogue.memories.get(name) {
            return if count.is_some() { Err(no_count(part)) } else { self.add_memory(part, memory, size) };
        }
        let known_without_size = catalogue.cards.contains_key(name) || catalogue.drives.contains_key(name);
        if known_without_size && size.is_some() {
            return Err(BuildError::Size { part: part.to_owned(), what: format!("{name} has one size only") });
        }
        if let Some(card) = catalogue.cards.get(name) {
            return self.add_cards(part, card, count);
        }
        let Some(drive) = catalogue.drives.get(name) else { return Err(unknown(part, name, catalogue)) };
        if count.is_some() {
            return Err(no_count(part));
        }
        if self.drive.replace(drive.clone()).is_some() {
            return Err(BuildError::Twice { part: part.to_owned(), what: "drive" });
        }
        Ok(())
    }

    fn add_cores(&mut self, part: &str, count: &str) -> Result<(), BuildError> {
        let cores = count.trim().parse().ok().filter(|cores| (1..=CORES_MAX).contains(cores));
        let what = || format!("cores are 1 to {CORES_MAX}\n\nhint: write 16cores, or leave it out");
        let cores = cores.ok_or_else(|| BuildError::Count { part: part.to_owned(), what: what() })?;
        if self.cores.replace(cores).is_some() {
            return Err(BuildError::Twice { part: part.to_owned(), what: "number of cores" });
        }
        Ok(())
    }

    fn add_memory(&mut self, part: &str, memory: &Memory, size: Option<&str>) -> Result<(), BuildError> {
        let wrong = |what: String| BuildError::Size { part: part.to_owned(), what };
        let sizes: Vec<String> = memory.sizes.value.iter().map(|size| short(*size)).collect();
        let Some(size) = size else { return Err(wrong(format!("how much of it? Usual are {}", sizes.join(", ")))) };
        let least = Bytes::GIB;
        let bytes: Bytes = size.parse().map_err(|_| wrong(format!("{size:?} is not a size")))?;
        let most = memory.sizes.value.last().copied().unwrap_or(least);
        if bytes < least || bytes > most {
            return Err(wrong(format!("it is sold from {} to {}", short(least), short(most))));
        }
        if self.memory.replace((memory.clone(), bytes)).is_some() {
            return Err(BuildError::Twice { part: part.to_owned(), what: "memory" });
        }
        Ok(())
    }

    fn add_cards(&mut self, part: &str, card: &Card, count: Option<&str>) -> Result<(), BuildError> {
        let (name, title, capability) = (card.name.clone(), card.title.clone(), card.capability.value);
        if capability < GPU_CAPABILITY_MIN {
            return Err(BuildError::TooOld { name, title, capability });
        }
        let left = CARDS_MAX - self.cards.len();
        let count = count.map_or(Some(1), |count| count.trim().parse().ok()).filter(|count| (1..=left).contains(count));
        let what = || format!("a machine has at most {CARDS_MAX} GPUs\n\nhint: write 2*{name} for two of them");
        let count = count.ok_or_else(|| BuildError::Count { part: part.to_owned(), what: what() })?;
        self.cards.extend(std::iter::repeat_n(card.clone(), count));
        Ok(())
    }
}

fn no_count(part: &str) -> BuildError {
    BuildError::Count {
        part: part.to_owned(),
        what: "only GPUs are counted\n\nhint: leave out the number and `*`".to_owned(),
    }
}

fn unknown(part: &str, name: &str, catalogue: &Catalogue) -> BuildError {
    let near = closest(name, catalogue.names()).map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
    let list = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>().join(", ");
    let hint = format!(
        "{near}GPUs are {}; memories {}; drives {}",
        list(catalogue.cards.keys().collect()),
        list(catalogue.memories.keys().collect()),
        list(catalogue.drives.keys().collect())
    );
    BuildError::Unknown { part: part.to_owned(), hint }
}
