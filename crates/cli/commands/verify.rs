//! `plimsoll verify`: whether a model's bytes are still those that its checksums were made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use kernels::memory::{ByteSource, Checksum, read_through};
use plan::Bytes;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::failure::{Damaged, Usage};
use crate::signals::Signals;
use crate::sums::{self, Part, Sums};
use crate::{open, output, show};

/// A file beside its checksums.
#[derive(Serialize)]
struct Found {
    file: String,
    bytes: u64,
    parts: usize,
    damaged: Vec<DamagedPart>,
}

/// A part that is not what it was.
#[derive(Serialize)]
struct DamagedPart {
    name: String,
    offset: u64,
    bytes: u64,
}

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    Signals::install()?;
    if args.write {
        return write(args);
    }
    let mut found = Vec::new();
    for file in files(args)? {
        found.push(verify(&file)?);
    }
    let (parts, damaged): (usize, usize) =
        found.iter().fold((0, 0), |(parts, damaged), file| (parts + file.parts, damaged + file.damaged.len()));
    if args.json {
        show::json(&found)?;
    } else {
        show::product(&found.iter().map(text).collect::<String>())?;
    }
    if damaged == 0 { Ok(()) } else { Err(Damaged { damaged, parts }.into()) }
}

/// All files of the model. Where its header cannot be read, that may be what is damaged: then this file.
fn files(args: &VerifyArgs) -> anyhow::Result<Vec<PathBuf>> {
    match open::header(&args.model) {
        Ok(model) => Ok(model.inventory.files.iter().map(|file| PathBuf::from(&file.path)).collect()),
        Err(_) if sums::place(Path::new(&args.model.model)).exists() => Ok(vec![PathBuf::from(&args.model.model)]),
        Err(error) => Err(error),
    }
}

fn verify(file: &Path) -> anyhow::Result<Found> {
    let name = file.display().to_string();
    let Some(Sums(expected)) = Sums::read(file)? else {
        let hint = "`plimsoll repack` writes them with a prepared copy, `plimsoll verify --write` for a file as it is";
        return Err(Usage(format!("{name} has no checksums\n\nhint: {hint}")).into());
    };
    let source = open::source(file)?;
    let length = source.len();
    let parts: Vec<Part> = expected.iter().map(|(part, _)| part.clone()).collect();
    let there = parts.iter().take_while(|part| part.bytes.end <= length).count();
    let found = sum_up(&source, &parts[..there]).with_context(|| name.clone())?;
    let mut found = found.into_iter();
    // What is cut off has none.
    let differing = expected.iter().filter(|(_, sum)| found.next() != Some(*sum)).map(|(part, _)| part);
    let mut damaged: Vec<DamagedPart> = differing
        .map(|Part { name, bytes }| DamagedPart {
            name: name.clone(),
            offset: bytes.start,
            bytes: bytes.end - bytes.start,
        })
        .collect();
    if let Some(end) = parts.last().map(|part| part.bytes.end).filter(|end| *end < length) {
        damaged.push(DamagedPart { name: "behind the last tensor".to_owned(), offset: end, bytes: length - end });
    }
    Ok(Found { file: name, bytes: length, parts: parts.len(), damaged })
}

/// The checksum of each part.
fn sum_up(source: &Arc<dyn ByteSource>, parts: &[Part]) -> anyhow::Result<Vec<u64>> {
    let mut sums = vec![Checksum::new(); parts.len()];
    let total = Bytes(parts.last().map_or(0, |part| part.bytes.end));
    let bar = show::Progress::bytes("reading", total);
    let ranges: Vec<_> = parts.iter().map(|part| part.bytes.clone()).collect();
    let mut done = 0;
    read_through(source, &ranges, |index, bytes| {
        sums[index].add(bytes);
        done += bytes.len() as u64;
        bar.at(Bytes(done), total);
        Ok::<_, std::convert::Infallible>(())
    })?;
    Ok(sums.iter().map(Checksum::value).collect())
}

/// Writes checksums of the model as it is.
fn write(args: &VerifyArgs) -> anyhow::Result<()> {
    let model = open::header(&args.model)?;
    for (index, file) in model.inventory.files.iter().enumerate() {
        let path = Path::new(&file.path);
        let parts = sums::parts(&model.inventory, index);
        let found = sum_up(&open::source(path)?, &parts).with_context(|| file.path.clone())?;
        let place = sums::place(path);
        output::write_whole(&place, &Sums(parts.into_iter().zip(found).collect()).text())?;
        show::product(&format!("{}\n", place.display()))?;
    }
    Ok(())
}

fn text(found: &Found) -> String {
    let Found { file, bytes, parts, damaged } = found;
    let (file, bytes) = (show::visible(file), Bytes(*bytes));
    if damaged.is_empty() {
        return format!("{file}: {parts} parts, {bytes}, all as they were\n");
    }
    let line = |part: &DamagedPart| {
        format!("{file}: {} differs ({} bytes from {} on)\n", show::visible(&part.name), part.bytes, part.offset)
    };
    damaged.iter().map(line).collect()
}
