//! How fast the CPU's matrix products are on this machine: `cargo bench -p kernels --bench kernels -- [THREADS [ISA [TYPE]]]`.
//!
//! For each type GB/s of weights for a few columns, from RAM and from the second-level cache, and 10^9 operations a second for a
//! prompt's; beside them what a plain loop reads from RAM, before and after. Then what mixtures and latent attention ask for. Best
//! of several runs, since other programs share the machine.

mod timing;

use std::fmt::Write;

use kernels::cpu::{self, Activations, Column, Columns, Input, Isa, Job, Pool, WeightedColumn, WeightedJob};
use kernels::memory::Buffer;
use plan::QuantType;

use crate::timing::best_of;

/// Numbers of a row.
const K: usize = 2048;
const RUNS: usize = 7;
/// Several times a last-level cache's share, and half of a small second-level cache.
const RAM: usize = 256 << 20;
const CACHE: usize = 256 << 10;
/// Columns of speculation and small batches, and of a prompt.
const FEW: [usize; 4] = [1, 2, 4, 8];
const PROMPT: usize = 512;

/// Bytes that are numbers near 1 as floats of any width and as scales: processors are slow with subnormal numbers.
const ORDINARY: [u8; 8] = [0x9a, 0x3e, 0xc5, 0x3f, 0x33, 0x3e, 0x51, 0x3f];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo adds a flag of its own.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let isa = arguments.next().map_or(Ok(Isa::best()), |name| Isa::named(&name))?;
    let only = arguments.next();
    let pool = Pool::new(threads, isa)?;
    println!("{} threads, {}, rows of {K}", pool.threads(), pool.isa().name());
    let plain = plain_reads(threads)?;
    let columns = FEW.map(|m| format!("{m:>6}")).join(" ");
    println!("{:8} | from RAM, GB/s, columns {columns} | from L2 {columns} | {PROMPT} columns, GOP/s", "type");
    for quant in QuantType::ALL.iter().copied().filter(|quant| cpu::supports(*quant)) {
        if only.as_ref().is_some_and(|only| quant.name() != only) || !K.is_multiple_of(quant.block_elements()) {
            continue;
        }
        let mut line = format!("{:8} |", quant.name());
        for (bytes, width) in [(RAM, 22), (CACHE, 7)] {
            let matrix = Matrix::new(quant, bytes)?;
            let rates = FEW.map(|m| format!("{:6.1}", matrix.weights.len() as f64 / 1e9 / matrix.seconds(&pool, m)));
            write!(line, "{:width$} {} |", "", rates.join(" "))?;
        }
        let matrix = Matrix::new(quant, CACHE)?;
        let operations = (2 * matrix.rows * K * PROMPT) as f64 / 1e9;
        println!("{line} {:8.0}", operations / matrix.seconds(&pool, PROMPT));
    }
    println!("plain reads: {plain:.1} GB/s before, {:.1} after", plain_reads(threads)?);
    if only.is_none() {
        mixture_rates(&pool);
        latent_rates(&pool);
    }
    Ok(())
}

struct Matrix {
    quant: QuantType,
    rows: usize,
    weights: Buffer,
}

impl Matrix {
    /// About so many bytes.
    fn new(quant: QuantType, bytes: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let row = K / quant.block_elements() * quant.block_bytes();
        let rows = (bytes / row).next_multiple_of(32);
        let mut weights = Buffer::try_new(rows * row)?;
        for (i, byte) in weights.iter_mut().enumerate() {
            *byte = ORDINARY[i % ORDINARY.len()];
        }
        Ok(Self { quant, rows, weights })
    }

    /// For a product with `m` columns, which are quantized before.
    fn seconds(&self, pool: &Pool, m: usize) -> f64 {
        let x: Vec<f32> = (0..m * K).map(|i| (i % 37) as f32 - 18.0).collect();
        let mut quantized = Activations::default();
        quantized.quantize(pool, &x, K);
        let mut out = vec![0.0; m * self.rows];
        let columns = Columns::Strided { from: 0, from_step: K, to: 0, to_step: self.rows, count: m };
        let job = Job { quant: self.quant, weights: &self.weights, rows: self.rows, columns };
        let input = Input { numbers: &x, quantized: Some(&quantized) };
        best_of(RUNS, || cpu::matmul_jobs(pool, &[job], K, input, &mut out))
    }
}

/// What threads read of a large buffer that they only add up, in GB/s.
fn plain_reads(threads: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let mut buffer = Buffer::try_new(2 * RAM)?;
    buffer.fill(1);
    let part = buffer.len() / threads;
    let add = |bytes: &[u8]| {
        let words = bytes.as_chunks::<8>().0.iter();
        std::hint::black_box(words.fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word))));
    };
    let seconds = best_of(RUNS, || {
        std::thread::scope(|scope| {
            for bytes in buffer.chunks(part) {
                scope.spawn(move || add(bytes));
            }
        });
    });
    Ok(buffer.len() as f64 / 1e9 / seconds)
}

/// Eight of 64 experts of 768 × 2048 and back, for each of some tokens.
fn mixture_rates(pool: &Pool) {
    let (experts, used, inner, outer, quant) = (64, 8, 768, 2048, QuantType::Q4K);
    let weights: Vec<u8> = ordinary(inner * outer / quant.block_elements() * quant.block_bytes());
    println!("\nmixture, {used} of {experts} experts of {inner} × {outer}, {quant}: GFLOP/s");
    println!("{:8} {:>12} {:>12}", "tokens", "gate and up", "down");
    for tokens in [1, 16, 256] {
        let mut lists = vec![Vec::new(); experts];
        for place in 0..tokens * used {
            // Neighbours of a token's first expert: all different, and spread over all of them.
            lists[(place / used * 5 + place % used) % experts].push(place);
        }
        let x = vec![0.5; tokens * used * inner.max(outer)];
        let (mut wide, mut narrow) = (Activations::default(), Activations::default());
        wide.quantize(pool, &x[..tokens * outer], outer);
        narrow.quantize(pool, &x[..tokens * used * inner], inner);
        let mut out = vec![0.0; 2 * tokens * used * inner.max(outer)];
        let up = |part: usize| {
            let column = move |place: &usize| Column { from: place / used * outer, to: (place * 2 + part) * inner };
            lists.iter().map(move |list| list.iter().map(column).collect()).collect::<Vec<Vec<Column>>>()
        };
        let columns = [up(0), up(1)].concat();
        let job = |columns| Job { quant, weights: &weights, rows: inner, columns: Columns::Listed(columns) };
        let jobs: Vec<Job> = columns.iter().map(|list| job(list)).filter(|job| !job.columns.is_empty()).collect();
        let first = best_of(RUNS, || {
            cpu::matmul_jobs(pool, &jobs, outer, Input { numbers: &x, quantized: Some(&wide) }, &mut out);
        });
        let column = |place: &usize| WeightedColumn { from: place * inner, to: place / used * outer, weight: 0.125 };
        let columns: Vec<Vec<WeightedColumn>> = lists.iter().map(|list| list.iter().map(column).collect()).collect();
        let job = |columns| WeightedJob { quant, weights: &weights, rows: outer, columns };
        let jobs: Vec<WeightedJob> = columns.iter().filter(|list| !list.is_empty()).map(|list| job(list)).collect();
        let second = best_of(RUNS, || {
            cpu::matmul_weighted(pool, &jobs, inner, Input { numbers: &x, quantized: Some(&narrow) }, &mut out);
        });
        let operations = (2 * tokens * used * inner * outer) as f64 / 1e9;
        println!("{tokens:8} {:12.1} {:12.1}", 2.0 * operations / first, operations / second);
    }
}

/// The query absorbed into 128 heads of 128 × 512, and keys of one head expanded from 2048 latents.
fn latent_rates(pool: &Pool) {
    println!("\nlatent attention, transposed products: GFLOP/s");
    println!("{:8} {:>12} {:>12}", "type", "absorb", "expand");
    for quant in [QuantType::F16, QuantType::Q8_0, QuantType::Q4K] {
        let weights = ordinary(128 * 512 / quant.block_elements() * quant.block_bytes());
        let (x, mut out) = (vec![0.5; 2048 * 512], vec![0.0; 2048 * 512]);
        let job = |rows: usize, from: usize, to: usize, count: usize| {
            let columns = Columns::Strided { from, from_step: 512, to, to_step: 128, count };
            Job { quant, weights: &weights, rows, columns }
        };
        let heads: Vec<Job> = (0..128).map(|head| job(128, head * 128, head * 512, 1)).collect();
        let absorb = best_of(RUNS, || cpu::matmul_transposed(pool, &heads, 512, &x, &mut out, false));
        let whole = quant.block_elements() <= 128;
        let expand = best_of(RUNS, || {
            if whole {
                cpu::matmul_transposed(pool, &[job(512, 0, 0, 2048)], 128, &x, &mut out, false);
            }
        });
        let (heads, latents) = ((2 * 128 * 128 * 512) as f64 / 1e9, (2 * 2048 * 128 * 512) as f64 / 1e9);
        let expand = if whole { format!("{:12.1}", latents / expand) } else { "-".to_owned() };
        println!("{:8} {:12.1} {expand:>12}", quant.name(), heads / absorb);
    }
}

fn ordinary(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| ORDINARY[i % ORDINARY.len()]).collect()
}
