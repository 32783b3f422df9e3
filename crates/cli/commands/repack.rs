//! `plimsoll repack`: a prepared copy of a model, each tensor on a page of the drive, with a checksum for each unit.
//!
//! Each file is written under a name of its own beside its place, and moved there when it is on the drive as a whole: who is killed midway leaves
//! that one name, which the next run writes anew. Checksums come first, so that no copy is ever without.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use gguf::Aligned;
use kernels::memory::{ByteSource, Checksum, FileSource, PAGE, ThroughError, read_through};
use plan::{Bytes, Inventory, Unit};

use crate::args::RepackArgs;
use crate::failure::{Interrupted, NoRoom, Usage};
use crate::signals::Signals;
use crate::sums::{self, Part, Sums};
use crate::{open, show};

/// Bytes after which what was written is on the drive and leaves the page cache.
const SETTLE: u64 = 64 << 20;

pub(super) fn run(args: &RepackArgs) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let stop = Arc::new(AtomicBool::new(false));
    signals.raise(Arc::clone(&stop))?;
    let _gentle = signals.gently();
    let model = open::header(&args.model)?;
    let cannot = || format!("cannot make the folder {}", args.output.display());
    fs::create_dir_all(&args.output).with_context(cannot)?;
    let copies = (0..model.inventory.files.len()).map(|file| Copy::new(&model.inventory, file, &args.output));
    let copies = copies.collect::<anyhow::Result<Vec<_>>>()?;
    let (kept, missing): (Vec<&Copy>, Vec<&Copy>) = copies.iter().partition(|copy| copy.there);
    for copy in kept {
        show::note(&format!("note: {} is there already, and is kept", copy.place.display()));
    }
    room(&args.output, &missing)?;
    for copy in missing {
        copy.make(&stop)?;
    }
    show::product(&copies.first().map_or(String::new(), |copy| format!("{}\n", copy.place.display())))
}

/// Refuses what the drive has no room for, before it is written.
fn room(folder: &Path, copies: &[&Copy]) -> Result<(), NoRoom> {
    let need: u64 = copies.iter().map(|copy| copy.layout.bytes).sum();
    // What an earlier run left under the name of a copy is written over.
    let left: u64 = copies.iter().filter_map(|copy| fs::metadata(copy.temporary()).ok()).map(|there| there.len()).sum();
    let Ok(system) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = (system.f_bavail * system.f_frsize).saturating_add(left);
    if need <= free {
        return Ok(());
    }
    Err(NoRoom { need: Bytes(need), free: Bytes(free), folder: folder.to_owned() })
}

/// One file and the copy of it.
struct Copy {
    from: PathBuf,
    place: PathBuf,
    layout: Aligned,
    /// The copy's parts, and the bytes of the old file that each begins with.
    parts: Vec<(Part, Range<u64>)>,
    /// Whether the copy was made before.
    there: bool,
}

impl Copy {
    fn new(inventory: &Inventory, file: usize, folder: &Path) -> anyhow::Result<Self> {
        let from = PathBuf::from(&inventory.files[file].path);
        let layout = gguf::aligned(&from, PAGE as u32)?;
        let place = folder.join(from.file_name().unwrap_or_default());
        let parts = parts(inventory, file, &layout);
        let there = place.exists();
        if there && !is_copy(&place, &layout) {
            let what = format!("{} is there, and is no prepared copy of {}", place.display(), from.display());
            return Err(Usage(format!("{what}\n\nhint: name another folder, or remove that file first")).into());
        }
        Ok(Self { from, place, layout, parts, there })
    }

    /// The name of the copy while it is made.
    fn temporary(&self) -> PathBuf {
        temporary(&self.place)
    }

    fn make(&self, stop: &AtomicBool) -> anyhow::Result<()> {
        let cannot = || format!("cannot write {}", self.place.display());
        let mut target = Target::create(self.temporary()).with_context(cannot)?;
        let sums = self.write(&mut target, stop)?;
        target.file.sync_all().with_context(cannot)?;
        let place = sums::place(&self.place);
        let mut beside = Target::create(temporary(&place)).with_context(cannot)?;
        beside.write(sums.text().as_bytes()).and_then(|()| beside.file.sync_all()).with_context(cannot)?;
        beside.move_to(&place).with_context(cannot)?;
        target.move_to(&self.place).with_context(cannot)?;
        show::note(&format!("wrote {} ({}) and its checksums", self.place.display(), Bytes(self.layout.bytes)));
        Ok(())
    }

    /// Writes the copy, and gives its checksums.
    fn write(&self, target: &mut Target, stop: &AtomicBool) -> anyhow::Result<Sums> {
        let source = open::source(&self.from)?;
        let bar = show::Progress::bytes("copying", Bytes(self.layout.bytes));
        let (header, parts) = self.parts.split_first().context("a copy has a header")?;
        let mut sums = vec![(header.0.clone(), Checksum::of(&self.layout.header))];
        let cannot = || format!("cannot write {}", self.place.display());
        target.write(&self.layout.header).with_context(cannot)?;
        let mut sum = Checksum::new();
        let ranges: Vec<_> = parts.iter().map(|(_, from)| from.clone()).collect();
        let copied = read_through(&source, &ranges, |index, bytes| {
            if stop.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            let (part, from) = &parts[index];
            let mut put = |bytes: &[u8]| {
                sum.add(bytes);
                target.write(bytes).with_context(cannot)
            };
            put(bytes)?;
            let data = part.bytes.start + (from.end - from.start);
            if target.written == data {
                let padding = [0; PAGE];
                sum.add(&padding[..(part.bytes.end - data) as usize]);
                target.write(&padding[..(part.bytes.end - data) as usize]).with_context(cannot)?;
                sums.push((part.clone(), std::mem::take(&mut sum).value()));
            }
            bar.at(Bytes(target.written), Bytes(self.layout.bytes));
            Ok(())
        });
        match copied {
            Ok(()) => Ok(Sums(sums)),
            Err(ThroughError::Taker(error)) => Err(error),
            Err(error) => Err(anyhow::Error::new(error).context(self.from.display().to_string())),
        }
    }
}

/// The one name that a file has while it is made.
fn temporary(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(".part");
    place.with_file_name(name)
}

/// The parts of a copy in their order, each with the bytes of the old file that it begins with.
fn parts(inventory: &Inventory, file: usize, layout: &Aligned) -> Vec<(Part, Range<u64>)> {
    let mut units: Vec<(u64, &Unit)> = Vec::new();
    let mut here: Vec<&Unit> =
        inventory.units.iter().filter(|unit| inventory.tensor_of(unit).file as usize == file).collect();
    here.sort_by_key(|unit| unit.offset);
    for tensor in &layout.tensors {
        let first = here.partition_point(|unit| unit.offset < tensor.from);
        let of = here[first..].iter().take_while(|unit| unit.offset < tensor.from + tensor.bytes);
        units.extend(of.map(|unit| (tensor.to + unit.offset - tensor.from, *unit)));
    }
    let starts = units.iter().map(|(start, unit)| (*start, sums::name(inventory, unit)));
    let from = units.iter().map(|(_, unit)| unit.offset..unit.offset + unit.bytes.0);
    sums::following(starts, layout.bytes).into_iter().zip(std::iter::once(0..0).chain(from)).collect()
}

/// Whether a file is the copy that would be made: its checksums say so, and it begins as they do.
fn is_copy(place: &Path, layout: &Aligned) -> bool {
    let header = Checksum::of(&layout.header);
    let named = Sums::read(place).ok().flatten();
    let named =
        named.is_some_and(|sums| sums.bytes() == layout.bytes && sums.0.first().is_some_and(|(_, sum)| *sum == header));
    named && fs::metadata(place).is_ok_and(|there| there.len() == layout.bytes)
}

/// A file that is being made; what is dropped unfinished is removed.
struct Target {
    file: File,
    path: PathBuf,
    written: u64,
    settled: u64,
    finished: bool,
}

impl Target {
    fn create(path: PathBuf) -> anyhow::Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!("another process is making it\n\nhint: wait for that one"),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        Ok(Self { file, path, written: 0, settled: 0, finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written - self.settled >= SETTLE {
            self.file.sync_data()?;
            FileSource::open_buffered(&self.path)?.forget(self.settled, self.written - self.settled);
            self.settled = self.written;
        }
        Ok(())
    }

    fn move_to(mut self, place: &Path) -> std::io::Result<()> {
        fs::rename(&self.path, place)?;
        self.finished = true;
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The name is on the drive, too.
        File::open(folder)?.sync_all()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.finished {
            // The failure that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}
