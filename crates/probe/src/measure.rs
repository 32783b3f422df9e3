//! Measures rates with the kernels and reads that will run.
//!
//! A sketch of what should come out: decode reads quantized weights once, so its rate is RAM's bandwidth (20 GB/s a
//! channel of DDR4-3200) or, with few cores, their speed of unpacking (some GB/s each); prefill is bound by
//! multiplications (tens of `GFLOP/s` a core).

use std::path::{Path, PathBuf};
use std::time::Instant;

use kernels::cpu::{Isa, Pool};
use plan::{Machine, QuantType};

use crate::busy::Watch;
use crate::cache::Rates;
use crate::look::{Drive, Seen};
use crate::processor::Bench;
use crate::{CardRates, DriveRates, ProbeError, Spread, assemble};
use crate::{drive, runs};

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
    /// Bytes per second read from the drive, and by how many reads at once.
    pub disk_read: DriveRates,
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

/// Measures RAM, processor, drive and GPUs, in twenty to thirty seconds and one for each GPU, and keeps the rates unless others used the machine. `now` hears what is being measured.
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
    let mut bench = Bench::new(&pool, seen.ram_available)?;
    let (processor, ram_read, cpu_ops) = bench.measure()?;
    now("drive");
    let disk_read = drive::measure(options.path, &mut || bench.one_matrix())?;
    drop(bench);

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
}
