//! Measures rates with the kernels and reads that will run.
//!
//! A sketch of what should come out: decode reads quantized weights once, so its rate is RAM's bandwidth (20 GB/s a
//! channel of DDR4-3200) or, with few cores, their speed of unpacking (some GB/s each); prefill is bound by
//! multiplications (tens of `GFLOP/s` a core); reads of a drive give 0.5 GB/s (SATA) to 7 GB/s (`NVMe`).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::cpu::{Isa, Pool};
use kernels::memory::{Buffer, ByteSource, Depth, FileSource, Method, Queue, Reading};
use plan::{Machine, QuantType};

use crate::busy::Watch;
use crate::cache::Rates;
use crate::look::{Drive, Seen};
use crate::{CardRates, ProbeError, Spread, assemble};
use crate::{processor, runs};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// A large file on the drive that holds models, usually a model; a folder there does too: then a temporary file is
    /// written to it.
    pub path: &'a Path,
    /// Where rates are kept; `None` keeps nothing.
    pub cache: Option<&'a Path>,
    /// The instruction set that will run.
    pub isa: Isa,
    /// Whether rates are kept even where others used the machine meanwhile.
    pub busy_too: bool,
}

/// A machine that was measured, with how far the measurements lie apart.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Measured {
    /// The machine with the median rates.
    pub machine: Machine,
    /// Bytes per second of weights read from RAM in decode.
    pub ram_read: Spread,
    /// Operations per second in prefill.
    pub cpu_ops: Spread,
    /// Bytes per second read from the drive.
    pub disk_read: Spread,
    /// GPUs by number, in builds with the feature `cuda`: what was measured, or why nothing was.
    pub cards: Vec<Result<CardRates, String>>,
    /// The share of the processors' time that others had meanwhile, where the system says.
    pub others: Option<f64>,
    /// What was measured, and how many seconds that took; nothing where it was measured before.
    pub took: Vec<(String, f64)>,
    /// Where the rates are kept; nowhere where others used too much of the machine.
    pub kept_in: Option<PathBuf>,
}

impl Measured {
    /// Whether others used so much of the machine that its rates are not to be trusted.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.others.is_some_and(|others| others > OTHERS_MOST)
    }
}

/// The most that others may have of the processors' time while rates are measured that are kept.
const OTHERS_MOST: f64 = 0.1;

/// Measures RAM, processor, drive and GPUs, in ten to twenty seconds and one for each GPU, and keeps the rates unless others used the machine. `now` hears what is being measured.
///
/// # Errors
/// [`ProbeError`] where memory or threads are refused, the drive fails, or the cache cannot be written.
pub fn measure(options: &Options<'_>, now: &mut dyn FnMut(&str)) -> Result<Measured, ProbeError> {
    let (seen, watch) = (Seen::look(), Watch::start());
    if let Some(folder) = options.cache {
        Rates::check(folder, &seen)?;
    }
    let pool = Pool::new(seen.cores as usize, options.isa).map_err(ProbeError::Threads)?;
    let mut begun: Vec<(String, Instant)> = Vec::new();
    let mut now = |what: &str| {
        begun.push((what.to_owned(), Instant::now()));
        now(what);
    };
    now("RAM and processor");
    let (processor, ram_read, cpu_ops) = processor::measure(&pool, seen.ram_available)?;
    now("drive");
    let disk_read = disk(options.path)?;

    let cards = cards(&mut now);
    let ends = begun.iter().skip(1).map(|(_, started)| *started).chain([Instant::now()]);
    let took = begun.iter().zip(ends).map(|((what, from), to)| (what.clone(), to.duration_since(*from).as_secs_f64()));
    let took = took.collect();

    let old = options.cache.and_then(|folder| Rates::load(folder, &seen));
    let mut rates = Rates::new(&seen, ram_read, cpu_ops, processor);
    // Other drives of this machine keep what was measured of them.
    let (drives, old_cards) = old.map(|old| (old.drives, old.cards)).unwrap_or_default();
    rates.drives = drives;
    let drive = Drive::of(options.path);
    if let Some(drive) = drive {
        rates.drives.insert(drive.key(), disk_read);
    }
    // What could not be measured now, because something else fills the card, may have been before.
    rates.cards = old_cards;
    rates.cards.extend(cards.iter().filter_map(|(uuid, card)| Some((uuid.clone(), card.as_ref().ok()?.clone()))));
    let cards = cards.into_iter().map(|(_, card)| card).collect();
    let machine = assemble(&seen, drive, Some(&rates));
    let others = watch.others();
    let mut measured = Measured { machine, ram_read, cpu_ops, disk_read, cards, others, took, kept_in: None };
    if options.busy_too || !measured.is_busy() {
        measured.kept_in = options.cache.map(|folder| rates.save(folder, &seen)).transpose()?;
        if let Some(folder) = options.cache {
            runs::forget(folder, &seen);
        }
    }
    Ok(measured)
}

/// What was measured before and is kept, where that is so of this machine, its drive and its kernels.
#[must_use]
pub fn kept(options: &Options<'_>) -> Option<Measured> {
    let (seen, drive) = (Seen::look(), Drive::of(options.path));
    let rates = Rates::load(options.cache?, &seen)?;
    let disk_read = *rates.drives.get(&drive?.key())?;
    let machine = assemble(&seen, drive, Some(&rates));
    let cards = rates.cards.values().cloned().map(Ok).collect();
    let kept_in = options.cache.map(|folder| crate::cache::path(folder, &seen));
    Some(Measured {
        machine,
        ram_read: rates.ram_read,
        cpu_ops: rates.cpu_ops,
        disk_read,
        cards,
        others: None,
        took: Vec::new(),
        kept_in,
    })
}

/// Every GPU that kernels are built for, with its identity.
fn cards(now: &mut dyn FnMut(&str)) -> Vec<(String, Result<CardRates, String>)> {
    #[cfg(feature = "cuda")]
    let measured = crate::cards::measure(now);
    #[cfg(not(feature = "cuda"))]
    let measured = {
        let _ = now;
        Vec::new()
    };
    measured
}

/// The type whose block layout most models have.
pub(crate) const QUANT: QuantType = QuantType::Q4K;
/// Width of the matrices: that of a model of 7 to 8 billion weights.
pub(crate) const WIDTH: usize = 4096;
/// Rows of one multiplication in decode: as a layer's matrices have.
pub(crate) const ROWS: usize = 4096;
/// Measurements of each figure, after one to warm up: the middle one counts.
pub(crate) const RUNS: usize = 5;
/// The same of a figure whose spread people are shown.
pub(crate) const RUNS_SHOWN: usize = 7;
/// How much higher than the middle of a series its best may be, and how many series there are at most. The link of one of two cards was read at 22 GB/s in
/// the middle, at 46 at best, and gave 55 afterwards.
const DISTURBED: f64 = 1.15;
const SERIES: usize = 4;
/// Bytes of one slot, as a ring has it, and how many there are; one of a ring's six is in use.
const READ_BYTES: usize = 2 << 20;
const READS: usize = 5;
/// Bytes of one measurement of the drive.
const DISK_BYTES: u64 = 512 << 20;
/// A slow drive is not read for longer than this at a time.
const DISK_TIME: Duration = Duration::from_secs(4);

/// Reads a file, or a temporary one in a folder, as the ring from disk does.
fn disk(path: &Path) -> Result<Spread, ProbeError> {
    if path.is_dir() {
        let file = Temporary::write(path)?;
        return read(&file.0);
    }
    read(path)
}

fn read(path: &Path) -> Result<Spread, ProbeError> {
    let fail = |source: std::io::Error| ProbeError::Drive { path: path.to_owned(), source };
    let file = Arc::new(FileSource::open(path).map_err(fail)?);
    if file.is_empty() {
        return Err(fail(std::io::Error::other("the file is empty")));
    }
    let mut slots = Buffer::try_parts(Queue::room(READ_BYTES), READS)?;
    let mut queue = Queue::open(vec![Arc::clone(&file) as Arc<dyn ByteSource>], Depth::USUAL, Method::Uring);
    let mut rates = Vec::new();
    for run in 0..RUNS {
        // Each run reads another part, where the file is long enough.
        let start = if file.len() >= DISK_BYTES * RUNS as u64 { DISK_BYTES * run as u64 } else { 0 };
        let end = file.len().min(start + DISK_BYTES);
        file.forget(start, end - start);
        let started = Instant::now();
        let (mut offset, mut landed) = (start, Vec::new());
        loop {
            let late = started.elapsed() >= DISK_TIME;
            while let Some(buffer) = slots.pop_if(|_| offset < end && !late) {
                let length = (end - offset).min(READ_BYTES as u64) as usize;
                queue.add(Reading { tag: offset, source: 0, offset, length, buffer });
                offset += length as u64;
            }
            if queue.under_way() == 0 {
                break;
            }
            queue.step(&mut landed).map_err(|error| fail(std::io::Error::other(error)))?;
            for landed in landed.drain(..) {
                landed.outcome.map_err(|error| fail(std::io::Error::other(error)))?;
                slots.push(landed.buffer);
            }
        }
        rates.push((offset - start) as f64 / started.elapsed().as_secs_f64());
    }
    Ok(spread(rates))
}

/// A file that is removed again.
struct Temporary(PathBuf);

impl Temporary {
    fn write(folder: &Path) -> Result<Self, ProbeError> {
        let path = folder.join(format!(".plimsoll-probe.{}.tmp", std::process::id()));
        let fail = |source| ProbeError::Drive { path: path.clone(), source };
        let mut file = fs::File::create(&path).map_err(fail)?;
        let temporary = Self(path.clone());
        // Not zeros: some drives and file systems store those in no space and no time.
        let block: Vec<u8> = (0..READ_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for _ in 0..DISK_BYTES / READ_BYTES as u64 {
            file.write_all(&block).map_err(fail)?;
        }
        file.sync_all().map_err(fail)?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a file that will not go.
        let _ = fs::remove_file(&self.0);
    }
}

/// Bytes of a matrix.
pub(crate) const fn matrix_bytes(quant: QuantType, rows: usize, width: usize) -> usize {
    rows * width / quant.block_elements() * quant.block_bytes()
}

/// `work` per second, as often as what people are shown is measured, after one to warm up.
pub(crate) fn rate(work: f64, mut run: impl FnMut()) -> Spread {
    run();
    let once = || {
        let started = Instant::now();
        run();
        work / started.elapsed().as_secs_f64()
    };
    spread(std::iter::repeat_with(once).take(RUNS_SHOWN).collect())
}

/// The steadiest of a few series: another follows as long as the best of one is far from its middle, which something disturbs then. Of several the one
/// whose middle is highest counts.
pub(crate) fn steady<E>(mut series: impl FnMut() -> Result<Spread, E>) -> Result<Spread, E> {
    let mut steadiest = series()?;
    for _ in 1..SERIES {
        if steadiest.best <= steadiest.median * DISTURBED {
            break;
        }
        let next = series()?;
        if next.median > steadiest.median {
            steadiest = next;
        }
    }
    Ok(steadiest)
}

pub(crate) fn spread(mut rates: Vec<f64>) -> Spread {
    rates.sort_by(f64::total_cmp);
    let at = |place: usize| rates.get(place).copied().unwrap_or(0.0);
    Spread {
        best: at(rates.len().saturating_sub(1)),
        median: at(rates.len() / 2),
        worst: at(0),
        runs: rates.len() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_orders_its_runs() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), Spread { best: 3.0, median: 2.0, worst: 1.0, runs: 3 });
    }

    #[test]
    fn a_disturbed_series_is_repeated() {
        let mut taken = 0;
        let mut steady_of = |medians: &[f64]| {
            taken = 0;
            let series = || {
                taken += 1;
                Ok::<_, ()>(Spread { best: 50.0, median: medians[taken - 1], worst: 1.0, runs: 7 })
            };
            let found = steady(series).expect("a series").median;
            (found, taken)
        };
        assert_eq!(steady_of(&[45.0]), (45.0, 1));
        assert_eq!(steady_of(&[22.0, 20.0, 49.0]), (49.0, 3));
        assert_eq!(steady_of(&[22.0, 30.0, 20.0, 21.0]), (30.0, 4), "never quiet");
    }

    #[test]
    fn a_file_is_read_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        fs::write(&path, vec![1; 3 << 20]).expect("a file");
        let rates = read(&path).expect("rates");
        assert!(rates.worst > 0.0 && rates.runs == RUNS as u32, "{rates:?}");
        let error = read(&folder.path().join("absent")).expect_err("no file");
        assert!(error.to_string().contains("absent"), "{error}");
        fs::write(&path, "").expect("a file");
        assert!(read(&path).expect_err("nothing to read").to_string().contains("empty"));
    }
}
