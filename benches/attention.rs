//! How fast attention is on this machine: `cargo bench -p kernels --bench attention -- [THREADS [ISA]]`.
//!
//! Decode: GB/s of keys and values for one token after 16,384, over caches of several layers that together are larger
//! than any cache of the processor; its floor is what memory gives. Prefill: GFLOP/s of the scores and sums that 512
//! tokens at the start of a context need; its floor is what multiplications take. Best of several runs, since other
//! programs share the machine.

mod timing;

use kernels::cpu::{self, AttentionShape, Isa, KvStore, Pool};
use plan::KvType;

use crate::timing::best_of;

const POSITIONS: usize = 16_384;
const PROMPT: usize = 512;
const RUNS: usize = 5;

/// Bytes of caches that decode goes through in turn.
const CACHES: usize = 320 << 20;

/// How keys and values are kept.
const KINDS: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

/// Heads of queries, of keys and values, numbers of a key and of a value, and whose they are.
const SHAPES: [(&str, usize, usize, usize, usize); 6] = [
    ("llama 8B", 32, 8, 128, 128),
    ("llama 1B", 32, 8, 64, 64),
    ("SmolLM2 135M", 9, 3, 64, 64),
    ("Gemma 3 270M", 4, 1, 256, 256),
    ("llama 2 7B", 32, 32, 128, 128),
    ("V3, absorbed", 128, 1, 576, 512),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let isa = arguments.next().map_or(Ok(Isa::best()), |name| Isa::named(&name))?;
    let pool = Pool::new(threads, isa)?;
    println!("attention, {} threads, {}", pool.threads(), pool.isa().name());
    println!("{:14} {:>28} {:>28}", "", "decode GB/s", "prefill GFLOP/s");
    let [a, b, c] = KINDS.map(KvType::name);
    println!("{:14} {a:>10}{b:>9}{c:>9} {a:>10}{b:>9}{c:>9}", "");
    for (name, heads, kv_heads, dim_k, dim_v) in SHAPES {
        let scale = 1.0 / (dim_k as f32).sqrt();
        let shape = AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window: None, softcap: None };
        let mut rates = [(0.0, 0.0); KINDS.len()];
        for (rates, kind) in rates.iter_mut().zip(KINDS) {
            *rates = rates_of(&pool, &shape, kind)?;
        }
        let [(a, x), (b, y), (c, z)] = rates;
        println!("{name:14} {a:10.2}{b:9.2}{c:9.2} {x:10.1}{y:9.1}{z:9.1}");
    }
    Ok(())
}

/// GB/s of decode and GFLOP/s of prefill.
fn rates_of(pool: &Pool, shape: &AttentionShape, kind: KvType) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = *shape;
    let shared = kv_heads == 1 && dim_v < dim_k;
    let mut caches = Vec::new();
    let mut bytes = 0;
    while bytes < CACHES {
        let k = filled(kind, kv_heads, dim_k)?;
        let v = if shared { None } else { Some(filled(kind, kv_heads, dim_v)?) };
        bytes += k.bytes() + v.as_ref().map_or(0, KvStore::bytes);
        caches.push((k, v));
    }
    let m = if shared { 16 } else { PROMPT };
    let q: Vec<f32> = (0..m * heads * dim_k).map(|i| (i % 29) as f32 / 29.0 - 0.5).collect();
    let mut out = vec![0.0; m * heads * dim_v];
    let mut run = |(k, v): &(KvStore, Option<KvStore>), first: usize, m: usize| {
        let (q, out) = (&q[..m * heads * dim_k], &mut out[..m * heads * dim_v]);
        cpu::attention(pool, shape, q, k, v.as_ref().unwrap_or(k), first, None, out);
    };
    let decode = best_of(RUNS, || caches.iter().for_each(|cache| run(cache, POSITIONS - 1, 1)));
    let first = if shared { PROMPT } else { 0 };
    let prefill = best_of(RUNS, || run(&caches[0], first, m));
    let pairs = m * first + m * (m + 1) / 2;
    Ok((bytes as f64 / decode / 1e9, (2 * pairs * heads * (dim_k + dim_v)) as f64 / prefill / 1e9))
}

fn filled(kind: KvType, heads: usize, dim: usize) -> Result<KvStore, Box<dyn std::error::Error>> {
    let mut store = KvStore::try_new(kind, heads, dim, POSITIONS)?;
    let row: Vec<f32> = (0..heads * dim + 17).map(|i| (i % 17) as f32 / 17.0 - 0.4).collect();
    for position in 0..POSITIONS {
        store.write(position, &row[position % 17..][..heads * dim]);
    }
    Ok(store)
}
