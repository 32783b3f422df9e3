//! How fast the CPU kernels are on this machine: `cargo run --release -p kernels --example kernel_rates [THREADS [ISA]]`.
//!
//! For each type the GB/s of weights in decode (one column, a matrix larger than any cache) and the GFLOP/s in prefill
//! (256 columns); then what mixtures and latent attention ask for. Best of several runs, since other programs share the
//! machine. Attention has rates of its own: `attention_rates`.

use std::time::Instant;

use kernels::cpu::{self, Activations, Column, Columns, Input, Isa, Job, Pool, WeightedColumn, WeightedJob};
use plan::QuantType;

const COLUMNS: usize = 256;
const K: usize = 4096;
const RUNS: usize = 5;

/// Bytes that are numbers near 1 as floats of any width and as scales: processors are slow with subnormal numbers.
const ORDINARY: [u8; 8] = [0x9a, 0x3e, 0xc5, 0x3f, 0x33, 0x3e, 0x51, 0x3f];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let isa = arguments.next().map_or(Ok(Isa::best()), |name| Isa::named(&name))?;
    let pool = Pool::new(threads, isa)?;
    println!("{} threads, {}", pool.threads(), pool.isa().name());
    println!("{:8} {:>12} {:>12} {:>14}", "type", "decode GB/s", "m=4 GB/s", "prefill GFLOP/s");
    for quant in QuantType::ALL.iter().copied().filter(|quant| cpu::supports(*quant)) {
        let decode_rows = 128 << 20 >> 12;
        let row_bytes = K / quant.block_elements() * quant.block_bytes();
        let rows = decode_rows.min((128 << 20) / row_bytes);
        let weights = ordinary(rows * row_bytes);
        let x = vec![0.5; COLUMNS * K];
        let mut out = vec![0.0; COLUMNS * rows];
        let mut seconds =
            |rows: usize, m: usize| best(|| cpu::matmul(&pool, quant, &weights, rows, K, &x, m, &mut out, rows, 0));
        let bytes = (rows * row_bytes) as f64 / 1e9;
        let (one, four) = (bytes / seconds(rows, 1), bytes / seconds(rows, 4));
        let prefill_rows = 512;
        let operations = (2 * prefill_rows * K * COLUMNS) as f64 / 1e9;
        println!("{:8} {one:12.2} {four:12.2} {:14.1}", quant.name(), operations / seconds(prefill_rows, COLUMNS));
    }
    mixture_rates(&pool);
    latent_rates(&pool);
    Ok(())
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
        let first =
            best(|| cpu::matmul_jobs(pool, &jobs, outer, Input { numbers: &x, quantized: Some(&wide) }, &mut out));
        let column = |place: &usize| WeightedColumn { from: place * inner, to: place / used * outer, weight: 0.125 };
        let columns: Vec<Vec<WeightedColumn>> = lists.iter().map(|list| list.iter().map(column).collect()).collect();
        let job = |columns| WeightedJob { quant, weights: &weights, rows: outer, columns };
        let jobs: Vec<WeightedJob> = columns.iter().filter(|list| !list.is_empty()).map(|list| job(list)).collect();
        let second = best(|| {
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
        let absorb = best(|| cpu::matmul_transposed(pool, &heads, 512, &x, &mut out, false));
        let whole = quant.block_elements() <= 128;
        let expand = best(|| {
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

fn best(mut run: impl FnMut()) -> f64 {
    let mut times = [0.0; RUNS];
    for time in &mut times {
        let start = Instant::now();
        run();
        *time = start.elapsed().as_secs_f64();
    }
    times.into_iter().fold(f64::INFINITY, f64::min)
}
