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

use kernels::cpu::{Activations, Columns, Input, Isa, Job, Pool, matmul_jobs};
use kernels::memory::{Buffer, ByteSource, Depth, FileSource, Method, Queue, Reading};
use plan::{Bytes, Machine, QuantType};

use crate::cache::Rates;
use crate::look::{Drive, Seen};
use crate::{CardRates, ProbeError, Spread, assemble};

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
    /// Where the rates are kept.
    pub kept_in: Option<PathBuf>,
}

/// Measures RAM, processor, drive and GPUs, in some ten seconds and one for each GPU, and keeps the rates. `now` hears what is being measured.
///
/// # Errors
/// [`ProbeError`] where memory or threads are refused, the drive fails, or the cache cannot be written.
pub fn measure(options: &Options<'_>, now: &mut dyn FnMut(&str)) -> Result<Measured, ProbeError> {
    let seen = Seen::look();
    let pool = Pool::new(seen.cores as usize, options.isa).map_err(ProbeError::Threads)?;
    now("RAM");
    let ram_read = ram(&pool, seen.ram_available)?;
    now("processor");
    let cpu_ops = prefill(&pool)?;
    now("drive");
    let disk_read = disk(options.path)?;

    let cards = cards(now);

    let old = options.cache.and_then(|folder| Rates::load(folder, &seen));
    let mut rates = Rates::new(&seen, ram_read, cpu_ops);
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
    let kept_in = options.cache.map(|folder| rates.save(folder, &seen)).transpose()?;
    Ok(Measured { machine: assemble(&seen, drive, Some(&rates)), ram_read, cpu_ops, disk_read, cards, kept_in })
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
/// Rows of one multiplication in decode: as a layer's matrices have, so that starting threads is counted in.
pub(crate) const ROWS: usize = 4096;
/// More than caches hold on a desktop; less where RAM is short.
const RAM_BYTES: u64 = 512 << 20;
/// Columns of a prompt.
const COLUMNS: usize = 128;
/// Measurements of RAM and processor, after one to warm up.
const RUNS: usize = 5;

/// Passes over weights larger than caches, one column at a time, as decode does.
fn ram(pool: &Pool, available: Bytes) -> Result<Spread, ProbeError> {
    let matrix = matrix_bytes();
    let matrices = (RAM_BYTES.min(available.0 / 4) as usize / matrix).max(4);
    let weights = weights(matrices)?;
    let x = vec![0.5; WIDTH];
    let mut out = vec![0.0; ROWS];
    let quantized = quantized(pool, &x);
    let pass = || {
        for weights in weights.chunks_exact(matrix) {
            multiply(pool, weights, Input { numbers: &x, quantized: Some(&quantized) }, &mut out);
        }
    };
    Ok(rate((matrices * matrix) as f64, RUNS, pass))
}

/// One matrix times many columns, as prefill does.
fn prefill(pool: &Pool) -> Result<Spread, ProbeError> {
    let weights = weights(1)?;
    let x = vec![0.5; COLUMNS * WIDTH];
    let mut out = vec![0.0; COLUMNS * ROWS];
    let operations = 2.0 * (COLUMNS * ROWS * WIDTH) as f64;
    let quantized = quantized(pool, &x);
    let input = Input { numbers: &x, quantized: Some(&quantized) };
    Ok(rate(operations, RUNS, || multiply(pool, &weights, input, &mut out)))
}

/// The columns of `x` in 8 bits, as a layer makes them once for several matrices.
fn quantized(pool: &Pool, x: &[f32]) -> Activations {
    let mut columns = Activations::default();
    columns.quantize(pool, x, WIDTH);
    columns
}

/// One matrix times all columns.
fn multiply(pool: &Pool, weights: &[u8], x: Input, out: &mut [f32]) {
    let count = x.numbers.len() / WIDTH;
    let columns = Columns::Strided { from: 0, from_step: WIDTH, to: 0, to_step: ROWS, count };
    matmul_jobs(pool, &[Job { quant: QUANT, weights, rows: ROWS, columns }], WIDTH, x, out);
}

pub(crate) fn matrix_bytes() -> usize {
    ROWS * WIDTH / QUANT.block_elements() * QUANT.block_bytes()
}

/// `matrices` matrices of arbitrary weights with small scales, so that no product is infinite.
fn weights(matrices: usize) -> Result<Buffer, ProbeError> {
    let matrix = block_pattern();
    let mut buffer = Buffer::try_new(matrices * matrix.len())?;
    buffer.chunks_exact_mut(matrix.len()).for_each(|part| part.copy_from_slice(&matrix));
    Ok(buffer)
}

/// One such matrix.
pub(crate) fn block_pattern() -> Vec<u8> {
    let mut state = 1u32;
    let mut matrix: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(matrix_bytes())
    .collect();
    for block in matrix.chunks_exact_mut(QUANT.block_bytes()) {
        // Scale and minimum come first, as two float16: 2^-10 each.
        block[..4].copy_from_slice(&[0, 0x14, 0, 0x14]);
    }
    matrix
}

/// Bytes of one slot, as a ring has it, and how many there are; one of a ring's six is in use.
const READ_BYTES: usize = 2 << 20;
const READS: usize = 5;
/// Bytes of one measurement of the drive.
const DISK_BYTES: u64 = 512 << 20;
/// Measurements of the drive.
const DISK_RUNS: usize = 3;
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
    for run in 0..DISK_RUNS {
        // Each run reads another part, where the file is long enough.
        let start = if file.len() >= DISK_BYTES * DISK_RUNS as u64 { DISK_BYTES * run as u64 } else { 0 };
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

/// `work` per second, measured `runs` times after one to warm up.
fn rate(work: f64, runs: usize, mut run: impl FnMut()) -> Spread {
    run();
    let once = || {
        let started = Instant::now();
        run();
        work / started.elapsed().as_secs_f64()
    };
    spread(std::iter::repeat_with(once).take(runs).collect())
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
    fn a_file_is_read_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        fs::write(&path, vec![1; 3 << 20]).expect("a file");
        let rates = read(&path).expect("rates");
        assert!(rates.worst > 0.0 && rates.runs == DISK_RUNS as u32, "{rates:?}");
        let error = read(&folder.path().join("absent")).expect_err("no file");
        assert!(error.to_string().contains("absent"), "{error}");
        fs::write(&path, "").expect("a file");
        assert!(read(&path).expect_err("nothing to read").to_string().contains("empty"));
    }

    #[test]
    fn the_kernels_are_timed() {
        let pool = Pool::new(1, Isa::best()).expect("a pool");
        let rates = ram(&pool, Bytes::ZERO).expect("rates");
        assert!(rates.worst > 1e6 && rates.best >= rates.median, "{rates:?}");
    }
}
