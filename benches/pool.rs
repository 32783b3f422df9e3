//! What sharing work out costs: `cargo bench -p kernels --bench pool -- [THREADS [SECONDS]]`.
//!
//! First the time of an empty run after the caller has worked alone for a while; then how much longer a run takes than
//! its share of the work, in sequences like those of a layer; last the tokens per second of something like decode. With
//! SECONDS only the last, for so long: two such programs at once show what they take from each other.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::cpu::{Isa, Pool, matmul};
use plan::QuantType;

/// Runs in one measurement, about as many as a token of a small model takes.
const RUNS: usize = 200;
/// Measurements: the best and the middle one are told.
const TIMES: usize = 21;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let threads = arguments.next().map_or(Ok(2), |text| text.parse())?;
    let seconds: Option<f64> = arguments.next().map(|text| text.parse()).transpose()?;
    let pool = Pool::new(threads, Isa::best())?;
    if seconds.is_none() {
        println!("{threads} threads: best and median µs of an empty run");
        let steps = steps_per_us();
        empty(&pool, steps);
        println!("µs that a run of so many µs for each thread takes longer");
        shared(&pool, steps);
    }
    decode(&pool, seconds.unwrap_or(1.0));
    Ok(())
}

fn empty(pool: &Pool, steps: f64) {
    for gap in [0.0, 5.0, 30.0, 100.0, 300.0, 1000.0] {
        let runs = if gap > 50.0 { 20 } else { RUNS };
        let one = || {
            let mut inside = Duration::ZERO;
            for _ in 0..runs {
                work(gap, steps);
                let start = Instant::now();
                pool.run(pool.threads(), &|i| {
                    black_box(i);
                });
                inside += start.elapsed();
            }
            inside.as_secs_f64() / runs as f64
        };
        let (best, median) = best_and_median(one);
        println!("  after {gap:4} µs                   {:8.2} {:8.2}", best * 1e6, median * 1e6);
    }
}

fn shared(pool: &Pool, steps: f64) {
    for (total, tasks, gap) in [
        (20.0, 8, 0.0),
        (20.0, 8, 5.0),
        (60.0, 1, 0.0),
        (60.0, 8, 0.0),
        (60.0, 8, 30.0),
        (60.0, 8, 100.0),
        (200.0, 8, 5.0),
    ] {
        let one = || {
            // The processor's pace changes from moment to moment: what the work costs is measured each time.
            let alone = Instant::now();
            (0..RUNS).for_each(|_| work(total + gap, steps));
            let alone = alone.elapsed().as_secs_f64();
            let start = Instant::now();
            for _ in 0..RUNS {
                work(gap, steps);
                pool.run(tasks * pool.threads(), &|_| work(total / tasks as f64, steps));
            }
            (start.elapsed().as_secs_f64() - alone) / RUNS as f64
        };
        let (best, median) = best_and_median(one);
        println!("  {total:4} in {tasks} tasks, after {gap:3} µs   {:8.2} {:8.2}", best * 1e6, median * 1e6);
    }
}

/// Two hundred matrices of about 1 MB, one column each.
fn decode(pool: &Pool, seconds: f64) {
    let (quant, k, rows, matrices) = (QuantType::Q8_0, 2048, 512, 200);
    let bytes = rows * k / quant.block_elements() * quant.block_bytes();
    let ordinary = [0x9a, 0x3e, 0xc5, 0x3f, 0x33, 0x3e, 0x51, 0x3f];
    let weights: Vec<u8> = ordinary.iter().copied().cycle().take(bytes * matrices).collect();
    let x = vec![0.5; k];
    let mut out = vec![0.0; rows];
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed().as_secs_f64() < seconds {
        let token = Instant::now();
        for matrix in weights.chunks_exact(bytes) {
            matmul(pool, quant, matrix, rows, k, &x, 1, &mut out, rows, 0);
        }
        times.push(token.elapsed().as_secs_f64());
    }
    let mean = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let (best, median) = (1.0 / times[0], 1.0 / times[times.len() / 2]);
    let rate = mean * (bytes * matrices) as f64 / 1e9;
    println!("decode: {mean:.1} tokens/s (best {best:.1}, median {median:.1}), {rate:.1} GB/s");
}

fn best_and_median(one: impl FnMut() -> f64) -> (f64, f64) {
    let mut times: Vec<f64> = std::iter::repeat_with(one).take(TIMES).collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[TIMES / 2])
}

/// Arithmetic that takes so many µs.
fn work(us: f64, steps_per_us: f64) {
    let mut x = 1u64;
    for _ in 0..(us * steps_per_us) as u64 {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

fn steps_per_us() -> f64 {
    let one = || {
        let start = Instant::now();
        work(100.0, 1000.0);
        start.elapsed().as_secs_f64() * 1e6
    };
    1e5 / best_and_median(one).0
}
