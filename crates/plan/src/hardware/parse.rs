//! From a catalogue as written to one as proved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use super::{Card, Catalogue, Drive, Figure, Kernels, Memory, Pcie, Price};
use crate::{Bytes, BytesPerSecond, is_rate};

/// One text of a catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The file's name, for messages.
    pub file: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// What is wrong with a catalogue, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}\n\nhint: each part is written as those in configs/hardware/ are")]
pub struct CatalogueError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

/// Words of a file are few; this keeps a wrong file from taking time.
const TEXT_BYTES_MAX: usize = 256 << 10;

type Word = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    version: Word,
    sources: BTreeMap<String, Word>,
    #[serde(default)]
    gpus: BTreeMap<String, RawCard>,
    #[serde(default)]
    memories: BTreeMap<String, RawMemory>,
    #[serde(default)]
    drives: BTreeMap<String, RawDrive>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFigure {
    is: Word,
    from: Word,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrice {
    is: Word,
    from: Word,
    when: Word,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCard {
    title: Word,
    capability: RawFigure,
    memory: RawFigure,
    bandwidth: RawFigure,
    multiprocessors: RawFigure,
    clock: RawFigure,
    pcie: RawFigure,
    price: Option<RawPrice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMemory {
    title: Word,
    bandwidth: RawFigure,
    reachable: RawFigure,
    cores: RawFigure,
    kernels: RawFigure,
    pcie: RawFigure,
    sizes: RawFigure,
    price: RawPrice,
    price_per_gib: RawPrice,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDrive {
    title: Word,
    bandwidth: RawFigure,
    pcie: Option<RawFigure>,
    price: RawPrice,
}

pub(super) fn parse(texts: &[Text<'_>]) -> Result<Catalogue, CatalogueError> {
    let mut catalogue = Catalogue::default();
    let mut names = BTreeSet::new();
    for text in texts {
        let raw = read(text)?;
        let mut prover = Prover { file: text.file, sources: BTreeMap::new(), used: BTreeSet::new() };
        prover.version(&raw.version)?;
        for (name, word) in &raw.sources {
            prover.sources.insert(name.clone(), prover.title(word)?.into());
        }
        for (name, raw) in &raw.gpus {
            prover.name(name, &raw.title, &mut names)?;
            catalogue.cards.insert(name.clone(), prover.card(name, raw)?);
        }
        for (name, raw) in &raw.memories {
            prover.name(name, &raw.title, &mut names)?;
            catalogue.memories.insert(name.clone(), prover.memory(name, raw)?);
        }
        for (name, raw) in &raw.drives {
            prover.name(name, &raw.title, &mut names)?;
            catalogue.drives.insert(name.clone(), prover.drive(name, raw)?);
        }
        if let Some((name, word)) = raw.sources.iter().find(|(name, _)| !prover.used.contains(*name)) {
            return Err(prover.error(word, format!("no figure comes from source {name:?}")));
        }
    }
    Ok(catalogue)
}

fn read(text: &Text<'_>) -> Result<RawFile, CatalogueError> {
    let error = |line, column, message| CatalogueError { file: text.file.to_owned(), line, column, message };
    if text.text.len() > TEXT_BYTES_MAX {
        return Err(error(1, 1, format!("more than {} of text", Bytes(TEXT_BYTES_MAX as u64))));
    }
    let options = serde_saphyr::options! { with_snippet: false, strict_indentation: true };
    serde_saphyr::from_str_with_options(text.text, options).map_err(|cause| {
        let cause = cause.without_snippet();
        let (line, column) = cause.location().map_or((1, 1), |place| (place.line(), place.column()));
        error(line, column, UserMessageFormatter.format_message(cause).into_owned())
    })
}

struct Prover<'a> {
    file: &'a str,
    sources: BTreeMap<String, Arc<str>>,
    used: BTreeSet<String>,
}

type Proved<T> = Result<T, CatalogueError>;

impl Prover<'_> {
    fn error(&self, word: &Word, message: impl fmt::Display) -> CatalogueError {
        let (line, column) = (word.referenced.line(), word.referenced.column());
        CatalogueError { file: self.file.to_owned(), line, column, message: message.to_string() }
    }

    fn version(&self, word: &Word) -> Proved<()> {
        if word.value == "1" { Ok(()) } else { Err(self.error(word, "this plimsoll reads `version: 1`")) }
    }

    /// Names are parts of what users write after `--on`: `+`, `:` and `*` have a meaning there.
    fn name(&self, name: &str, near: &Word, names: &mut BTreeSet<String>) -> Proved<()> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
            return Err(self.error(near, format!("{name:?} is no name: small letters, digits and `-`, a letter first")));
        }
        if names.insert(name.to_owned()) { Ok(()) } else { Err(self.error(near, format!("a second part {name:?}"))) }
    }

    fn title(&self, word: &Word) -> Proved<String> {
        if word.value.trim().is_empty() { Err(self.error(word, "a text is missing")) } else { Ok(word.value.clone()) }
    }

    fn source(&mut self, from: &Word) -> Proved<Arc<str>> {
        self.used.insert(from.value.clone());
        let source = self.sources.get(&from.value).cloned();
        source.ok_or_else(|| self.error(from, format!("{:?} is not among this file's sources", from.value)))
    }

    fn figure<T>(&mut self, raw: &RawFigure, what: &str, read: impl Fn(&str) -> Option<T>) -> Proved<Figure<T>> {
        let source = self.source(&raw.from)?;
        let value = read(&raw.is.value);
        let value = value.ok_or_else(|| self.error(&raw.is, format!("{:?} is no {what}", raw.is.value)))?;
        Ok(Figure { value, source })
    }

    fn price(&mut self, raw: &RawPrice) -> Proved<Price> {
        let source = self.source(&raw.from)?;
        let usd = raw.is.value.strip_suffix("USD").and_then(positive);
        let usd = usd.ok_or_else(|| self.error(&raw.is, format!("{:?} is no price: write 300USD", raw.is.value)))?;
        if !is_month(&raw.when.value) {
            return Err(self.error(&raw.when, format!("{:?} is no month: write 2026-05", raw.when.value)));
        }
        Ok(Price { usd, when: raw.when.value.clone(), source })
    }

    fn card(&mut self, name: &str, raw: &RawCard) -> Proved<Card> {
        Ok(Card {
            name: name.to_owned(),
            title: self.title(&raw.title)?,
            capability: self.figure(&raw.capability, "compute capability", capability)?,
            memory: self.figure(&raw.memory, "size", size)?,
            bandwidth: self.figure(&raw.bandwidth, "rate", rate)?,
            multiprocessors: self.figure(&raw.multiprocessors, "number of multiprocessors", count)?,
            clock: self.figure(&raw.clock, "clock", clock)?,
            pcie: self.figure(&raw.pcie, "generation of PCI Express", pcie)?,
            price: raw.price.as_ref().map(|price| self.price(price)).transpose()?,
        })
    }

    fn memory(&mut self, name: &str, raw: &RawMemory) -> Proved<Memory> {
        Ok(Memory {
            name: name.to_owned(),
            title: self.title(&raw.title)?,
            bandwidth: self.figure(&raw.bandwidth, "rate", rate)?,
            reachable: self
                .figure(&raw.reachable, "share from 0 to 1", |text| positive(text).filter(|is| *is <= 1.0))?,
            cores: self.figure(&raw.cores, "number of cores", count)?,
            kernels: self.figure(&raw.kernels, "instruction set: avx2, avx-vnni or avx512", kernels)?,
            pcie: self.figure(&raw.pcie, "generation of PCI Express", pcie)?,
            sizes: self.figure(&raw.sizes, "list of ascending sizes", sizes)?,
            price: self.price(&raw.price)?,
            price_per_gib: self.price(&raw.price_per_gib)?,
        })
    }

    fn drive(&mut self, name: &str, raw: &RawDrive) -> Proved<Drive> {
        let pcie = raw.pcie.as_ref().map(|raw| self.figure(raw, "generation of PCI Express", pcie));
        Ok(Drive {
            name: name.to_owned(),
            title: self.title(&raw.title)?,
            bandwidth: self.figure(&raw.bandwidth, "rate", rate)?,
            pcie: pcie.transpose()?,
            price: self.price(&raw.price)?,
        })
    }
}

/// No price or clock is beyond.
const MOST: f64 = 1e9;

fn positive(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| *value > 0.0 && *value <= MOST)
}

fn count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| (1..=4096).contains(count))
}

fn size(text: &str) -> Option<Bytes> {
    Bytes::from_str(text).ok().filter(|size| *size > Bytes::ZERO)
}

fn sizes(text: &str) -> Option<Vec<Bytes>> {
    let sizes: Option<Vec<Bytes>> = text.split_whitespace().map(size).collect();
    sizes.filter(|sizes| !sizes.is_empty() && sizes.is_sorted_by(|a, b| a < b))
}

fn rate(text: &str) -> Option<BytesPerSecond> {
    let bytes = size(text.strip_suffix("/s")?)?.as_f64();
    is_rate(bytes).then_some(BytesPerSecond(bytes))
}

fn clock(text: &str) -> Option<f64> {
    let gigahertz = positive(text.strip_suffix("GHz")?)?;
    (gigahertz <= 100.0).then_some(gigahertz * 1e9)
}

fn capability(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    let number = |text: &str| text.parse().ok().filter(|number| *number < 100);
    Some((number(major)?, number(minor)?))
}

fn pcie(text: &str) -> Option<Pcie> {
    match text {
        "3.0" => Some(Pcie(3)),
        "4.0" => Some(Pcie(4)),
        "5.0" => Some(Pcie(5)),
        _ => None,
    }
}

fn kernels(text: &str) -> Option<Kernels> {
    match text {
        "avx2" => Some(Kernels::Avx2),
        "avx-vnni" => Some(Kernels::AvxVnni),
        "avx512" => Some(Kernels::Avx512),
        _ => None,
    }
}

fn is_month(text: &str) -> bool {
    let Some((year, month)) = text.split_once('-') else { return false };
    let number = |text: &str, digits| if text.len() == digits { text.parse::<u32>().ok() } else { None };
    number(year, 4).is_some() && matches!(number(month, 2), Some(1..=12))
}
