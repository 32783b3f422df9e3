//! scratch
use kernels::cpu::{self, Activations, Columns, Input, Isa, Job, Pool};
use plan::QuantType;
use std::time::Instant;
fn main() {
    let mut a = std::env::args().skip(1);
    let threads: usize = a.next().map_or(1, |t| t.parse().unwrap());
    let isa = a.next().map_or(Isa::best(), |n| Isa::named(&n).unwrap());
    let only = a.next();
    let pool = Pool::new(threads, isa).unwrap();
    let k: usize = 2048;
    if std::env::var("ONE").is_ok() {
        one(&pool, k);
        return;
    }
    for q in QuantType::ALL.iter().copied().filter(|q| cpu::in_integers(*q)) {
        if let Some(o) = &only {
            if o != q.name() {
                continue;
            }
        }
        let row = k / q.block_elements() * q.block_bytes();
        print!("{:8}", q.name());
        // From RAM and from L2
        for (bytes, ms) in
            [(256usize << 20, &[1usize, 2, 4, 8][..]), (700 << 10, &[1, 4, 8, 16][..]), (700 << 10, &[128, 512][..])]
        {
            let rows = (bytes / row).next_multiple_of(32);
            let mut w = kernels::memory::Buffer::try_new(rows * row).unwrap();
            for (i, b) in w.iter_mut().enumerate() {
                *b = [0x9a, 0x3e, 0xc5, 0x3f, 0x33, 0x3e, 0x51, 0x3f][i % 8];
            }
            for &m in ms {
                let x: Vec<f32> = (0..m * k).map(|i| (i % 37) as f32 - 18.0).collect();
                let mut act = Activations::default();
                act.quantize(&pool, &x, k);
                let mut out = vec![0.0; m * rows];
                let mut best = f64::INFINITY;
                let reps = if bytes > 1 << 20 { 8 } else { (200 / m).max(5) };
                for _ in 0..reps {
                    let t = Instant::now();
                    cpu::matmul_jobs(
                        &pool,
                        &[Job {
                            quant: q,
                            weights: &w,
                            rows,
                            columns: Columns::Strided { from: 0, from_step: k, to: 0, to_step: rows, count: m },
                        }],
                        k,
                        Input { numbers: &x, quantized: Some(&act) },
                        &mut out,
                    );
                    best = best.min(t.elapsed().as_secs_f64());
                }
                if m >= 128 {
                    print!(" | m{m} {:.0} GOPS", (2 * m * rows * k) as f64 / best / 1e9);
                } else {
                    print!(
                        " {} m{m} {:.1}",
                        if bytes > 1 << 20 { "ram" } else { "L2" },
                        (rows * row) as f64 / best / 1e9
                    );
                }
            }
        }
        println!();
    }
}
fn one(pool: &Pool, k: usize) {
    let q = QuantType::ALL.iter().copied().find(|q| q.name() == std::env::var("ONE").unwrap()).unwrap();
    let m: usize = std::env::var("M").map_or(1, |m| m.parse().unwrap());
    let row = k / q.block_elements() * q.block_bytes();
    let rows = ((700usize << 10) / row).next_multiple_of(32);
    let mut w = kernels::memory::Buffer::try_new(rows * row).unwrap();
    for (i, b) in w.iter_mut().enumerate() {
        *b = [0x9a, 0x3e, 0xc5, 0x3f, 0x33, 0x3e, 0x51, 0x3f][i % 8];
    }
    let x: Vec<f32> = (0..m * k).map(|i| (i % 37) as f32 - 18.0).collect();
    let mut act = Activations::default();
    act.quantize(pool, &x, k);
    let mut out = vec![0.0; m * rows];
    let t = Instant::now();
    let mut n = 0;
    while t.elapsed().as_secs_f64() < 3.0 {
        cpu::matmul_jobs(
            pool,
            &[Job {
                quant: q,
                weights: &w,
                rows,
                columns: Columns::Strided { from: 0, from_step: k, to: 0, to_step: rows, count: m },
            }],
            k,
            Input { numbers: &x, quantized: Some(&act) },
            &mut out,
        );
        n += 1;
    }
    println!(
        "{} {:.1} GB/s {:.0} GOPS",
        q.name(),
        (n * rows * row) as f64 / t.elapsed().as_secs_f64() / 1e9,
        (2 * n * m * rows * k) as f64 / t.elapsed().as_secs_f64() / 1e9
    );
}
