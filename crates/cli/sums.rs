//! Checksums of a model's file, part by part, in a text file beside it.
//!
//! Parts are the header, and then each tensor or expert with the padding behind it, so that every byte of the file belongs to one. The text is
//! one line a part: checksum (XXH64), first byte, length, name. The last line is the checksum of all lines before it.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use kernels::memory::Checksum;
use plan::{Bytes, Inventory, Unit};

use crate::input;

const FIRST_LINE: &str = "plimsoll sums 1 xxh64";
/// What is read of such a file: some hundred bytes for each of a million experts.
const TEXT_MAX: Bytes = Bytes(256 << 20);

/// The name of what is before the first tensor.
pub(crate) const HEADER: &str = "header";

/// A run of bytes with one checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// `blk.3.ffn_up_exps.weight[17]` for an expert.
    pub(crate) name: String,
    pub(crate) bytes: Range<u64>,
}

/// All parts of a file in order, each with its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sums(pub(crate) Vec<(Part, u64)>);

/// A file of checksums that is not one.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}\n\nhint: `plimsoll verify --write` makes checksums anew, of the model as it is now")]
pub(crate) struct SumsError {
    file: String,
    problem: String,
}

/// Where the checksums of a file are.
pub(crate) fn place(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sums");
    PathBuf::from(name)
}

/// What a unit is called.
pub(crate) fn name(inventory: &Inventory, unit: &Unit) -> String {
    let tensor = &inventory.tensor_of(unit).name;
    // One expert of a tensor that holds several.
    match unit.expert.filter(|_| unit.bytes != inventory.tensor_of(unit).bytes) {
        Some(expert) => format!("{tensor}[{expert}]"),
        None => tensor.clone(),
    }
}

/// The parts of a file of the model.
pub(crate) fn parts(inventory: &Inventory, file: usize) -> Vec<Part> {
    let here = |unit: &&Unit| inventory.tensor_of(unit).file as usize == file;
    let mut units: Vec<&Unit> = inventory.units.iter().filter(here).collect();
    units.sort_by_key(|unit| unit.offset);
    let starts = units.iter().map(|unit| (unit.offset, name(inventory, unit)));
    following(starts, inventory.files[file].bytes.0)
}

/// Parts that follow each other, the header before them, to the end of the file.
pub(crate) fn following(starts: impl Iterator<Item = (u64, String)>, end: u64) -> Vec<Part> {
    let mut starts = std::iter::once((0, HEADER.to_owned())).chain(starts).peekable();
    let mut parts = Vec::new();
    while let Some((start, name)) = starts.next() {
        parts.push(Part { name, bytes: start..starts.peek().map_or(end, |(next, _)| *next) });
    }
    parts
}

impl Sums {
    /// Length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.last().map_or(0, |(part, _)| part.bytes.end)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for (Part { name, bytes }, sum) in &self.0 {
            let name: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            let _ = writeln!(text, "{sum:016x} {} {} {name}", bytes.start, bytes.end - bytes.start);
        }
        let own = Checksum::of(text.as_bytes());
        let _ = writeln!(text, "{own:016x}");
        text
    }

    /// The checksums of a model's file; none where there are none.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        let place = place(file);
        if !place.exists() {
            return Ok(None);
        }
        let text = input::read_text(&place, TEXT_MAX, "checksums")?;
        let wrong = |problem| SumsError { file: place.display().to_string(), problem };
        Ok(Some(Self::parse(&text).map_err(wrong)?))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n'));
        let (lines, own) = lines.ok_or("no checksums of a model's file")?;
        let lines = &text[..=lines.len()];
        let mut rest = lines.lines();
        if rest.next() != Some(FIRST_LINE) {
            return Err(format!("its first line is not {FIRST_LINE:?}"));
        }
        if u64::from_str_radix(own, 16) != Ok(Checksum::of(lines.as_bytes())) {
            return Err("it was changed or cut: its last line is not the checksum of the others".to_owned());
        }
        let mut parts = Vec::new();
        let mut end = 0;
        for (number, line) in rest.enumerate() {
            let (part, sum) = parse_line(line, end).ok_or_else(|| format!("line {} is no part", number + 2))?;
            end = part.bytes.end;
            parts.push((part, sum));
        }
        Ok(Self(parts))
    }
}

/// A line whose part begins where the one before it ended.
fn parse_line(line: &str, end: u64) -> Option<(Part, u64)> {
    let mut words = line.splitn(4, ' ');
    let sum = u64::from_str_radix(words.next()?, 16).ok()?;
    let (start, length): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let bytes = start..start.checked_add(length)?;
    (start == end).then_some((Part { name: words.next()?.to_owned(), bytes }, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums() -> Sums {
        let starts = [(100, "token_embd.weight".to_owned()), (4096, "blk.0.x with spaces[3]".to_owned())];
        Sums(following(starts.into_iter(), 5000).into_iter().zip([7, u64::MAX, 0]).collect())
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let text = sums().text();
        assert_eq!(Sums::parse(&text), Ok(sums()));
        assert_eq!(sums().bytes(), 5000);
        assert!(text.contains("\nffffffffffffffff 100 3996 token_embd.weight\n"), "{text}");
        for cut in 0..text.len() {
            assert!(Sums::parse(&text[..cut]).is_err(), "cut at {cut}");
        }
        for (place, _) in text.char_indices() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 1;
            let changed = String::from_utf8(bytes).expect("text");
            assert_ne!(Sums::parse(&changed), Ok(sums()), "byte {place}");
        }
    }
}
