//! Machines that nobody here owns: a catalogue of parts, and what they make together.
//!
//! Owns the parts with the source of each figure ([`Catalogue`]), the words by which a user names a machine ([`Build`]), the rates that
//! kernels reach of the figures on data sheets ([`Build::machine`]), and the search for the cheapest that is fast enough ([`advise`]). Must never know a file: catalogues come in as text. The project's own
//! lie in `configs/hardware/`.

mod advise;
mod build;
mod parse;
mod rates;

pub use advise::{Advice, Limit, NoAdvice, advise, most_tokens_per_s};
pub use build::{Build, BuildError};
pub use parse::{CatalogueError, Text};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Bytes, BytesPerSecond};

/// A figure with where it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure<T> {
    /// The figure.
    pub value: T,
    /// An address, or the words `assumed, …`.
    pub source: Arc<str>,
}

/// What a part costs, about.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// US dollars.
    pub usd: f64,
    /// The month: `2026-05`.
    pub when: String,
    /// An address, or the words `assumed, …`.
    pub source: Arc<str>,
}

/// A generation of PCI Express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pcie(pub u32);

impl Pcie {
    /// What one lane carries in one direction: 8 GT/s in 128 of 130 bits for generation 3, and twice that for each further one
    /// (<https://pcisig.com/pci-express-6.0-specification>, table of generations).
    #[must_use]
    pub fn lane(self) -> BytesPerSecond {
        BytesPerSecond(8e9 / 8.0 * 128.0 / 130.0 * 2.0_f64.powf(f64::from(self.0) - 3.0))
    }
}

/// Which of the processor's kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// AVX2 without dot products.
    Avx2,
    /// AVX2 with dot products (AVX-VNNI).
    AvxVnni,
    /// AVX-512 with dot products (VNNI).
    Avx512,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The name on the command line: `rtx3060`.
    pub name: String,
    /// The name for people.
    pub title: String,
    /// Compute capability, such as (8, 6).
    pub capability: Figure<(u32, u32)>,
    /// Its memory.
    pub memory: Figure<Bytes>,
    /// Its memory's peak.
    pub bandwidth: Figure<BytesPerSecond>,
    /// Multiprocessors.
    pub multiprocessors: Figure<u32>,
    /// Cycles per second, boosted.
    pub clock: Figure<f64>,
    /// How it is attached, by sixteen lanes.
    pub pcie: Figure<Pcie>,
    /// Its price, where one was found.
    pub price: Option<Price>,
}

/// A memory with the processor that usually stands beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// The name on the command line: `ddr4-3200x2`.
    pub name: String,
    /// The name for people.
    pub title: String,
    /// The peak over all channels.
    pub bandwidth: Figure<BytesPerSecond>,
    /// The share of the peak that plain reads with all cores get.
    pub reachable: Figure<f64>,
    /// Cores.
    pub cores: Figure<u32>,
    /// What the cores compute with.
    pub kernels: Figure<Kernels>,
    /// The slots of the board.
    pub pcie: Figure<Pcie>,
    /// Sizes that are sold, ascending; the last is the most that the board takes.
    pub sizes: Figure<Vec<Bytes>>,
    /// Board, processor, power supply and case.
    pub price: Price,
    /// Each GiB.
    pub price_per_gib: Price,
}

/// A drive.
#[derive(Clone, Debug, PartialEq)]
pub struct Drive {
    /// The name on the command line: `nvme4`.
    pub name: String,
    /// The name for people.
    pub title: String,
    /// Sequential reads.
    pub bandwidth: Figure<BytesPerSecond>,
    /// How it is attached, by four lanes; none for SATA.
    pub pcie: Option<Figure<Pcie>>,
    /// Its price.
    pub price: Price,
}

/// Parts that machines are made of, each kind by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    /// GPUs.
    pub cards: BTreeMap<String, Card>,
    /// Memories with their processors.
    pub memories: BTreeMap<String, Memory>,
    /// Drives.
    pub drives: BTreeMap<String, Drive>,
}

impl Catalogue {
    /// Reads a catalogue from as many texts as it is written in; their names are only for messages.
    ///
    /// # Errors
    /// [`CatalogueError`] with file and line: YAML that is none, unknown keys, a figure without a source that is listed, one that is not
    /// positive, a name twice, a source that nothing names.
    pub fn parse(texts: &[Text<'_>]) -> Result<Self, CatalogueError> {
        parse::parse(texts)
    }

    /// The names of all parts.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.cards.keys().chain(self.memories.keys()).chain(self.drives.keys()).map(String::as_str)
    }
}
