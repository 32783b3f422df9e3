//! Measures the processor's kernels one by one: what each step of a layer costs.
//!
//! A sketch of what should come out on one core of 2.6 GHz with AVX-512: 12 GB/s of 4-bit weights met by one column, half as many bytes of
//! grids (IQ2, IQ3), 400 to 450 thousand million operations a second of prompts' products, 120 of their attention; half a nanosecond for a number of a norm
//! or of rounding; and a microsecond or less for work that is handed to all threads.

mod steps;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use kernels::cpu::{Activations, Columns, Input, Job, Pool, matmul_jobs, supports};
use kernels::memory::Buffer;
use plan::processor::{COLUMNS, LONG_JOB, Processor, Product, SHORT_JOB};
use plan::{Bytes, QuantType};

use self::steps::{attention_rates, step};
use crate::measure::{QUANT, ROWS, RUNS, WIDTH, matrix_bytes, rate, steady};
use crate::{ProbeError, Spread};

/// How often all types of weights are measured, one after the other. Tests ask whether there are figures, not how good they are.
const ROUNDS: usize = if cfg!(test) { 1 } else { 5 };
/// Types that hardly a model's weights have, and that are slow: measured once.
const SELDOM: [QuantType; 2] = [QuantType::F64, QuantType::Q8K];
/// More than a server's last-level cache holds (480 MiB on the machine that this was found on), several times; less where RAM is short.
const RAM_BYTES: u64 = 2 << 30;
/// Sets of weights that are read over and over, to see what a cache makes of them: the first is at hand anywhere.
const SETS: [usize; 5] = [AT_HAND, 64 << 20, 128 << 20, 256 << 20, 512 << 20];
/// How many times faster than RAM a set is read at least of which something is at hand, and the bytes that are read of RAM beside it.
const AT_HAND_FASTER: f64 = 1.08;
const FAR: usize = 128 << 20;
/// How long one measurement with one column takes, about, and what it reads at least: slow machines are not measured for longer.
const PASS_S: f64 = 0.015;
const PASS_BYTES_MIN: usize = 32 << 20;
const PASS_BYTES: usize = 512 << 20;
/// Virtual machines get all of their cores' time only after a while of work: of 16 cores, 8 threads that waited for each other after every
/// 9 MB of plain reads got 38 GB/s in the first two seconds, and 88 after.
const WARM_UP: Duration = Duration::from_secs(2);
/// Rows of a matrix that meets several columns, and of one that meets one.
const FEW_ROWS: usize = 1024;
/// Numbers of a short job's rows.
const NARROW: usize = 1024;
/// A short row, by which what a row costs is told from what its bytes cost.
const SHORT: usize = 512;
/// What any last-level cache holds of weights, and rows of a job so short that its start shows.
const AT_HAND: usize = 16 << 20;
const START_ROWS: usize = 64;

/// Bytes that are numbers near 1 as floats of any width and as scales: processors are slow with subnormal numbers.
const ORDINARY: [u8; 8] = [0x9a, 0x3e, 0xc5, 0x3f, 0x33, 0x3e, 0x51, 0x3f];

/// Weights that are larger than caches, read on and on.
pub(crate) struct Bench<'a> {
    pool: &'a Pool,
    weights: Buffer,
    at: usize,
    /// How many of them are read before it begins anew.
    set: usize,
    /// Where they were left when a smaller set was read between.
    far: usize,
    /// Bytes that are read for one measurement with one column.
    pass: usize,
    /// How often each figure is measured at a time.
    runs: usize,
}

impl<'a> Bench<'a> {
    /// Fills the memory, by all threads: a virtual machine may have to ask its host for it, which took 3 s a GiB where it was found.
    pub(crate) fn new(pool: &'a Pool, available: Bytes) -> Result<Self, ProbeError> {
        let least = WIDTH * ROWS * 4;
        let mut weights = Buffer::try_new((RAM_BYTES.min(available.0 / 4) as usize).max(least))?;
        let part = weights.len().div_ceil(pool.threads()).next_multiple_of(ORDINARY.len());
        std::thread::scope(|scope| {
            for part in weights.chunks_mut(part) {
                scope.spawn(|| {
                    part.chunks_exact_mut(ORDINARY.len()).for_each(|eight| eight.copy_from_slice(&ORDINARY));
                });
            }
        });
        let (pass, set) = (weights.len().min(PASS_BYTES), weights.len());
        Ok(Self { pool, weights, at: 0, set, far: 0, pass, runs: RUNS })
    }

    /// Every figure of the processor, and the spreads of the two that people know it by: bytes of weights per second in decode, and operations
    /// per second of a prompt's products.
    pub(crate) fn measure(&mut self) -> Result<(Processor, Spread, Spread), ProbeError> {
        let pool = self.pool;
        let awake = pool.stay_awake();
        self.warm_up();
        let (Ok(ram), operations) = (steady(|| Ok::<_, Infallible>(self.reads(pool))), self.operations());
        self.pass = ((ram.median * PASS_S) as usize).clamp(PASS_BYTES_MIN, self.pass);
        // Threads that look for work would take the cores of smaller pools: those are measured while they sleep.
        drop(awake);
        let (reads, alone) = (self.threads(ram.median)?, self.alone()?);
        let _awake = pool.stay_awake();
        let mut processor = Processor { reads, again: self.again(), step_s: step(pool), ..Processor::default() };
        processor.output_s = self.beside_s(QUANT, COLUMNS[COLUMNS.len() - 1]);
        self.rounds(&mut processor, &alone)?;
        Ok((processor, ram, operations))
    }

    /// Keeps all threads busy with a matrix from RAM, for about as long as a layer's take.
    pub(crate) fn one_matrix(&mut self) {
        self.seconds(self.pool, QUANT, (ROWS, WIDTH), 1, 1);
    }

    /// Keeps all threads busy for a while.
    fn warm_up(&mut self) {
        let (pool, started) = (self.pool, Instant::now());
        while started.elapsed() < WARM_UP {
            self.seconds(pool, QUANT, (ROWS, WIDTH), 1, 1);
        }
    }

    /// The next so many bytes.
    fn next(&mut self, bytes: usize) -> usize {
        if self.at + bytes > self.set {
            self.at = 0;
        }
        let at = self.at;
        self.at += bytes.next_multiple_of(64);
        at
    }

    /// Seconds of one matrix of so many rows with some columns, each time another one; the sum of `times` of them.
    fn seconds(
        &mut self,
        pool: &Pool,
        quant: QuantType,
        (rows, width): (usize, usize),
        columns: u32,
        times: usize,
    ) -> f64 {
        let bytes = rows * width / quant.block_elements() * quant.block_bytes();
        let x = vec![0.5; columns as usize * width];
        let mut quantized = Activations::default();
        quantized.quantize(pool, &x, width);
        let mut out = vec![0.0; columns as usize * rows];
        let input = Input { numbers: &x, quantized: Some(&quantized) };
        let count = columns as usize;
        let columns = Columns::Strided { from: 0, from_step: width, to: 0, to_step: rows, count };
        let started = Instant::now();
        for _ in 0..times {
            let at = self.next(bytes);
            let weights = &self.weights[at..at + bytes];
            matmul_jobs(pool, &[Job { quant, weights, rows, columns }], width, input, &mut out);
        }
        started.elapsed().as_secs_f64()
    }

    /// Bytes per second of weights that meet one column, by this pool.
    fn reads(&mut self, pool: &Pool) -> Spread {
        let rows = self.fitting(QUANT, (LONG_JOB / WIDTH, WIDTH));
        let matrix = matrix_bytes(QUANT, rows, WIDTH);
        let times = (self.pass / matrix).max(1);
        rate((times * matrix) as f64, || {
            self.seconds(pool, QUANT, (rows, WIDTH), 1, times);
        })
    }

    /// How many times faster sets of weights are read that a cache may still hold, as far as RAM holds them four times. RAM and each set are read in
    /// pairs: a moment in which the machine is slow would make all sets look as if they were at hand.
    fn again(&mut self) -> Vec<(f64, f64)> {
        let whole = self.weights.len();
        let sets = SETS.into_iter().filter(|set| 4 * set <= whole);
        let again = sets.map(|set| {
            let faster = median((0..RUNS).map(|_| {
                let far = self.of_set(whole, FAR);
                self.of_set(set, set);
                far / self.of_set(set, set.max(FAR))
            }));
            (set as f64, if faster < AT_HAND_FASTER { 1.0 } else { faster })
        });
        let again = again.collect();
        self.set = whole;
        again
    }

    /// Seconds of a matrix where so many bytes are read of a set, from where it begins or, of all weights, from where they were left.
    fn of_set(&mut self, set: usize, bytes: usize) -> f64 {
        let (pool, whole) = (self.pool, self.weights.len());
        (self.set, self.at) = (set, if set == whole { self.far } else { 0 });
        let times = (bytes / matrix_bytes(QUANT, ROWS, WIDTH)).max(1);
        let seconds = self.seconds(pool, QUANT, (ROWS, WIDTH), 1, times);
        if set == whole {
            self.far = self.at;
        }
        seconds / times as f64
    }

    /// The same for fewer threads than all, which are known.
    fn threads(&mut self, all: f64) -> Result<Vec<(u32, f64)>, ProbeError> {
        let most = self.pool.threads() as u32;
        let mut rates = Vec::new();
        for threads in (0..).map(|power| 1 << power).take_while(|threads| *threads < most) {
            let pool = Pool::new(threads as usize, self.pool.isa()).map_err(ProbeError::Threads)?;
            let _awake = pool.stay_awake();
            rates.push((threads, self.reads(&pool).median));
        }
        rates.push((most, all));
        Ok(rates)
    }

    /// Operations per second of a prompt's products.
    fn operations(&mut self) -> Spread {
        let columns = COLUMNS[COLUMNS.len() - 1];
        let operations = 2.0 * (columns as usize * ROWS * WIDTH) as f64;
        let pool = self.pool;
        rate(operations, || {
            self.seconds(pool, QUANT, (ROWS, WIDTH), columns, 1);
        })
    }

    /// What a row costs beside its bytes, for each of several columns: what is left of short rows when the bytes' share of long ones is taken off.
    fn beside_s(&mut self, quant: QuantType, columns: u32) -> f64 {
        let (pool, runs) = (self.pool, self.runs);
        let most = self.weights.len() / matrix_bytes(quant, 1, SHORT);
        let rows = (8 * FEW_ROWS).min(most);
        let mut of = |rows: usize, width| {
            usual(runs, || self.seconds(pool, quant, (rows, width), columns, 2))
                / (2 * rows) as f64
                / f64::from(columns)
        };
        let (short, long) = (of(rows, SHORT), of(rows * SHORT / WIDTH, WIDTH));
        let share = SHORT as f64 / WIDTH as f64;
        ((short - long * share) / (1.0 - share)).max(0.0)
    }

    /// Bytes per second of one column by one thread, of each type: nothing where the pool has no more.
    fn alone(&mut self) -> Result<BTreeMap<QuantType, f64>, ProbeError> {
        if self.pool.threads() == 1 {
            return Ok(BTreeMap::new());
        }
        let pool = Pool::new(1, self.pool.isa()).map_err(ProbeError::Threads)?;
        let types = QuantType::ALL.iter().copied().filter(|quant| supports(*quant));
        Ok(types.map(|quant| (quant, self.one_column(&pool, quant, (ROWS, WIDTH), 16))).collect())
    }

    /// So many rows, or fewer where RAM is short and numbers are wide.
    fn fitting(&self, quant: QuantType, (rows, width): (usize, usize)) -> usize {
        (self.weights.len() / matrix_bytes(quant, 1, width)).min(rows)
    }

    /// Bytes per second of matrices of so many rows, or of as many as RAM has room for, that meet one column; a `part` of what is usually read.
    fn one_column(&mut self, pool: &Pool, quant: QuantType, (rows, width): (usize, usize), part: usize) -> f64 {
        let height = self.fitting(quant, (rows, width));
        let matrix = matrix_bytes(quant, height, width);
        let times = (self.pass / part / matrix).max(1);
        // Not once before: these are other bytes each time.
        let seconds = median((0..self.runs).map(|_| self.seconds(pool, quant, (height, width), 1, times)));
        (times * matrix) as f64 / seconds
    }

    /// The rates of all types, of vectors and of attention. A shared machine is slow for seconds at a time: what is measured in one moment would look
    /// slower than the rest, so that each figure is the middle one of several rounds through all of them.
    fn rounds(&mut self, known: &mut Processor, alone: &BTreeMap<QuantType, f64>) -> Result<(), ProbeError> {
        self.runs = 1;
        let mut products: BTreeMap<QuantType, Vec<Product>> = BTreeMap::new();
        let (mut vectors, mut attention) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            vectors.push(steps::vectors(self.pool)?);
            attention.push(attention_rates(self.pool)?);
            let measured = |quant: &QuantType| supports(*quant) && (round == 0 || !SELDOM.contains(quant));
            for quant in QuantType::ALL.iter().copied().filter(measured) {
                let product = self.product(quant, known, alone.get(&quant).copied());
                products.entry(quant).or_default().push(product);
            }
        }
        self.runs = RUNS;
        known.products = products.into_iter().map(|(quant, products)| (quant, middle(&products))).collect();
        (known.vectors, known.attention) = (steps::middle(&vectors), steps::middle_attention(&attention));
        Ok(())
    }

    /// The rates of one type; `alone` is one thread's, where there are more.
    fn product(&mut self, quant: QuantType, known: &Processor, alone: Option<f64>) -> Product {
        let pool = self.pool;
        let (at_hand, start_s, row_s) = self.at_hand(quant);
        // As long as RAM's rate takes for a pass, for types that are slow to unpack too.
        let most = alone.map_or(f64::INFINITY, |rate| rate * pool.threads() as f64 * PASS_S);
        let part = (self.pass as f64 / most).max(1.0) as usize;
        let all = self.one_column(pool, quant, (LONG_JOB / WIDTH, WIDTH), part);
        // Jobs are short where rows are: an expert's of 1024 numbers.
        let short = self.one_column(pool, quant, (SHORT_JOB / NARROW, NARROW), 2 * part).min(all);
        let mut bytes_per_s = [all; COLUMNS.len()];
        for (place, columns) in COLUMNS.into_iter().enumerate().skip(1) {
            let matrix = matrix_bytes(quant, FEW_ROWS, WIDTH) as f64;
            let times = if columns <= 16 { 4 } else { 1 };
            let seconds = self.seconds(pool, quant, (FEW_ROWS, WIDTH), columns, times) / times as f64;
            let of_row = (f64::from(columns) * known.output_s).max(row_s);
            // What a row costs is a difference of two measurements: it is never most of it.
            bytes_per_s[place] = matrix / (seconds - FEW_ROWS as f64 * of_row).max(seconds / 2.0);
        }
        let one_thread = alone.unwrap_or(all);
        Product { bytes_per_s, one_thread, short, at_hand, start_s, row_s }
    }

    /// Bytes per second with one column of weights that a cache holds, seconds of a job's start, and seconds of a row beside its bytes.
    fn at_hand(&mut self, quant: QuantType) -> (f64, f64, f64) {
        let (pool, whole, runs) = (self.pool, self.set, self.runs);
        (self.set, self.at) = (AT_HAND, 0);
        let mut seconds = |rows: usize, width: usize| {
            let times = AT_HAND / matrix_bytes(quant, rows, width);
            usual(runs, || self.seconds(pool, quant, (rows, width), 1, times)) / times as f64
        };
        let rows = SHORT_JOB / WIDTH;
        let (long, short, narrow) =
            (seconds(rows, WIDTH), seconds(START_ROWS, WIDTH), seconds(SHORT_JOB / SHORT, SHORT));
        self.set = whole;
        let row_s = ((narrow - long) / (SHORT_JOB / SHORT - rows) as f64).max(0.0);
        // Bytes and rows of the two are in one relation.
        let each = (long - short) / (rows - START_ROWS) as f64;
        let start_s = (short - START_ROWS as f64 * each).clamp(0.0, short);
        let byte_s = (long - start_s - rows as f64 * row_s).max(long / 2.0) / matrix_bytes(quant, rows, WIDTH) as f64;
        (byte_s.recip(), start_s, row_s)
    }
}

/// The middle one of what `run` says, which is run once before.
fn usual(runs: usize, mut run: impl FnMut() -> f64) -> f64 {
    run();
    median(std::iter::repeat_with(run).take(runs))
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The middle of each figure of several.
fn middle(products: &[Product]) -> Product {
    let of = |figure: &dyn Fn(&Product) -> f64| median(products.iter().map(figure));
    Product {
        bytes_per_s: std::array::from_fn(|columns| of(&|product| product.bytes_per_s[columns])),
        one_thread: of(&|product| product.one_thread),
        short: of(&|product| product.short),
        at_hand: of(&|product| product.at_hand),
        start_s: of(&|product| product.start_s),
        row_s: of(&|product| product.row_s),
    }
}

#[cfg(test)]
mod tests {
    use kernels::cpu::Isa;

    use super::*;

    #[test]
    fn a_product_is_the_middle_of_its_figures() {
        let product = |rate: f64, start_s: f64| Product {
            bytes_per_s: [rate; COLUMNS.len()],
            one_thread: rate,
            short: rate,
            at_hand: rate,
            start_s,
            row_s: 0.0,
        };
        let found = middle(&[product(3.0, 0.1), product(1.0, 0.3), product(2.0, 0.2)]);
        assert_eq!(found, product(2.0, 0.2));
    }

    #[test]
    fn every_kernel_has_its_figure() {
        let pool = Pool::new(1, Isa::best()).expect("a pool");
        let mut bench = Bench::new(&pool, Bytes::ZERO).expect("memory");
        let (processor, ram, operations) = bench.measure().expect("figures");
        assert!(processor.is_sane(), "{processor:?}");
        assert!(processor.products.contains_key(&QUANT) && processor.products.len() > 20, "{processor:?}");
        assert!(processor.vectors.norm_s > 0.0 && processor.step_s > 0.0, "{processor:?}");
        assert!(ram.worst > 1e6 && operations.best >= operations.median, "{ram:?} {operations:?}");
    }
}
