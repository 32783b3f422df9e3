//! How fast the steps of a layer are on a card: `cargo bench -p kernels --features cuda --bench cuda_ops`.
//!
//! Products with many columns in tera-operations a second, alone and by lists of experts; attention of one token by the bytes of its cache, of a
//! prompt by its operations; the microseconds of the small steps. Times are the card's own (events), of runs that follow each other; medians.

use std::fmt::Write;

use kernels::cpu::{AttentionShape, RopeStyle, Routing};
use kernels::cuda::{
    Arena, AttentionForm, DeviceBuffer, Event, Gpu, GpuInfo, HeadMatrix, HeadNorm, HeadPart, HeadSteps, HeadTurn,
    HeadsTo, JOB_COLUMNS, JobList, JobRoom, Joining, KvStore, Matrix, Norm, NormKind, Output, Quantized, RopeTable,
    Rows, Sight, add_norm, attention, gated, head_product, head_product_transposed, heads, in_integers, matmul,
    matmul_floats, route,
};
use plan::{Bytes, KvType, QuantType};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Launches between two events, and such pairs.
const TOGETHER: usize = 8;
const RUNS: usize = 7;
/// A 70B model's attention.
const HEADS: usize = 64;
const KV_HEADS: usize = 8;
const DIM: usize = 128;

fn main() -> Outcome<()> {
    let info = GpuInfo::of(0)?;
    let gpu = Gpu::open(0, info.memory)?;
    println!("{}, sm_{}{}", info.name, info.capability.0, info.capability.1);
    let only = std::env::args().skip(1).find(|argument| argument != "--bench");
    let runs = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if runs("matmul") {
        products(&gpu)?;
        experts(&gpu)?;
        floats(&gpu)?;
    }
    if runs("attention") {
        decode(&gpu)?;
        prefill(&gpu)?;
    }
    if runs("steps") {
        steps(&gpu)?;
    }
    if runs("latent") {
        latent(&gpu)?;
    }
    Ok(())
}

/// Seconds of one launch, the median of [`RUNS`] after one that does not count.
fn timed(gpu: &Gpu, mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let (from, to) = (Event::timed(gpu)?, Event::timed(gpu)?);
    let mut seconds = Vec::new();
    for _ in 0..=RUNS {
        from.record(gpu.compute())?;
        for _ in 0..TOGETHER {
            work()?;
        }
        to.record(gpu.compute())?;
        to.synchronize()?;
        seconds.push(to.since(&from)?.as_secs_f64() / TOGETHER as f64);
    }
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[RUNS / 2])
}

/// Bytes that are ordinary numbers in every format.
fn filled(gpu: &Gpu, bytes: usize) -> Outcome<DeviceBuffer<u8>> {
    let mut buffer = DeviceBuffer::new(gpu, "weights", bytes)?;
    let mut state = 1_u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8 & 0b1011_1111
    };
    let some: Vec<u8> = (0..(8 << 20) + 6).map(|_| byte()).collect();
    for start in (0..bytes).step_by(some.len()) {
        let part = some.len().min(bytes - start);
        gpu.compute().upload_now(&some[..part], &mut buffer.slice_mut().range(start..start + part))?;
    }
    Ok(buffer)
}

fn numbers(gpu: &Gpu, count: usize) -> Outcome<DeviceBuffer<f32>> {
    let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut buffer = DeviceBuffer::new(gpu, "numbers", count)?;
    gpu.compute().upload_now(&numbers, &mut buffer.slice_mut())?;
    Ok(buffer)
}

fn columns(gpu: &Gpu, width: usize, count: usize) -> Outcome<Quantized> {
    let mut arena = Arena::new(gpu, "columns", Quantized::bytes(width, count))?;
    let mut columns = Quantized::new(&mut arena, width, count)?;
    columns.quantize(gpu.compute(), numbers(gpu, width * count)?.slice(), width)?;
    Ok(columns)
}

fn products(gpu: &Gpu) -> Outcome<()> {
    const ROWS: usize = 28_672;
    const WIDTH: usize = 8192;
    const COLUMNS: [usize; 5] = [16, 32, 128, 512, 2048];
    println!(
        "\n## Products: {ROWS} rows of {WIDTH}, tera-operations a second\n\n| type | 16 columns | 32 | 128 | 512 | 2048 |"
    );
    println!("|---|---|---|---|---|---|");
    let weights = filled(gpu, ROWS * WIDTH / 32 * 36)?;
    let mut out = DeviceBuffer::<f32>::new(gpu, "outputs", ROWS * 2048)?;
    for quant in QuantType::ALL.iter().copied().filter(|quant| in_integers(*quant)) {
        let bytes = quant.bytes((ROWS * WIDTH) as u64).map_or(0, |bytes| bytes.0 as usize);
        let matrix = Matrix { quant, weights: weights.slice().range(..bytes), rows: ROWS, width: WIDTH };
        let mut line = format!("| {quant} ");
        for m in COLUMNS {
            let x = columns(gpu, WIDTH, m)?;
            let seconds = timed(gpu, || Ok(matmul(gpu.compute(), &matrix, &x, &mut out.slice_mut(), ROWS)?))?;
            write!(line, "| {:.0} ", 2.0 * (ROWS * WIDTH * m) as f64 / seconds / 1e12)?;
        }
        println!("{line}|");
    }
    Ok(())
}

/// A mixture's gates: 256 experts of R1's shape, each with as many tokens.
fn experts(gpu: &Gpu) -> Outcome<()> {
    const EXPERTS: usize = 256;
    const ROWS: usize = 2048;
    const WIDTH: usize = 7168;
    println!(
        "\n## {EXPERTS} experts of {ROWS} rows of {WIDTH}, one launch\n\n| type | tokens of an expert | ms | TOP/s | weights GB/s |"
    );
    println!("|---|---|---|---|---|");
    for quant in [QuantType::Iq1S, QuantType::Iq2Xxs, QuantType::Q4K] {
        let bytes = quant.bytes((ROWS * WIDTH) as u64).map_or(0, |bytes| bytes.0 as usize);
        let weights = filled(gpu, bytes * EXPERTS)?;
        for tokens in [16, 32, 128] {
            let x = columns(gpu, WIDTH, 512)?;
            let mut list = if tokens > JOB_COLUMNS { JobList::wide() } else { JobList::default() };
            for expert in 0..EXPERTS {
                let weights = weights.slice().range(expert * bytes..(expert + 1) * bytes);
                let places = (0..tokens as u32).map(|i| (i * 31 + expert as u32) % 512);
                list.push(&Matrix { quant, weights, rows: ROWS, width: WIDTH }, places);
            }
            let times = TOGETHER * (RUNS + 1);
            let (jobs, sources) = (times * list.jobs().len(), times * list.outputs());
            let mut arena = Arena::new(gpu, "lists", JobRoom::bytes(jobs, sources))?;
            let mut room = JobRoom::new(gpu, &mut arena, jobs, sources)?;
            let mut out = DeviceBuffer::<f32>::new(gpu, "outputs", list.outputs() * ROWS)?;
            // The list's way to the card is in the time, as it is in a prompt.
            let seconds = timed(gpu, || Ok(room.multiply(&list, &x, &mut out.slice_mut(), ROWS)?))?;
            let operations = 2.0 * (EXPERTS * tokens * ROWS * WIDTH) as f64;
            let read = (bytes * EXPERTS) as f64 / seconds / 1e9;
            println!("| {quant} | {tokens} | {:.2} | {:.0} | {read:.0} |", seconds * 1e3, operations / seconds / 1e12);
        }
    }
    Ok(())
}

fn floats(gpu: &Gpu) -> Outcome<()> {
    const ROWS: usize = 256;
    const WIDTH: usize = 7168;
    let weights = filled(gpu, ROWS * WIDTH * 4)?;
    let matrix = Matrix { quant: QuantType::F32, weights: weights.slice(), rows: ROWS, width: WIDTH };
    let (x, mut out) = (numbers(gpu, 2048 * WIDTH)?, DeviceBuffer::<f32>::new(gpu, "outputs", 2048 * ROWS)?);
    let seconds = timed(gpu, || Ok(matmul_floats(gpu.compute(), &matrix, x.slice(), &mut out.slice_mut(), ROWS)?))?;
    let operations = 2.0 * (2048 * ROWS * WIDTH) as f64;
    println!("\nA router of F32, 2048 columns: {:.2} ms, {:.1} TFLOP/s", seconds * 1e3, operations / seconds / 1e12);
    Ok(())
}

/// A store whose bytes are small numbers in every form.
fn store(gpu: &Gpu, kind: KvType, heads: usize, dim: usize, capacity: usize) -> Outcome<KvStore> {
    let mut arena = Arena::new(gpu, "a cache", KvStore::bytes(kind, heads, dim, capacity))?;
    let mut store = KvStore::new(&mut arena, kind, heads, dim, capacity)?;
    gpu.compute().fill(&mut store.slice_mut(), 0x2c)?;
    Ok(store)
}

fn shape(heads: usize, kv_heads: usize, dim_k: usize, dim_v: usize) -> AttentionShape {
    let scale = 1.0 / (dim_k as f32).sqrt();
    AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window: None, softcap: None }
}

/// Seconds of attention for `tokens` tokens after `before`.
fn attend(gpu: &Gpu, shape: &AttentionShape, kind: KvType, before: usize, tokens: usize) -> Outcome<(f64, String)> {
    let k = store(gpu, kind, shape.kv_heads, shape.dim_k, before + tokens)?;
    let own =
        (shape.dim_k != 576).then(|| store(gpu, kind, shape.kv_heads, shape.dim_v, before + tokens)).transpose()?;
    let v = own.as_ref().unwrap_or(&k);
    let form = AttentionForm::choose(gpu.info(), shape, (kind, kind), tokens, before + tokens);
    let q = numbers(gpu, tokens * shape.heads * shape.dim_k)?;
    let mut room = DeviceBuffer::<f32>::new(gpu, "room", form.room(shape).max(1))?;
    let mut out = DeviceBuffer::<f32>::new(gpu, "outputs", tokens * shape.heads * shape.dim_v)?;
    let mut position = DeviceBuffer::<u32>::new(gpu, "a position", 1)?;
    gpu.compute().upload_now(&[before as u32], &mut position.slice_mut())?;
    let seconds = timed(gpu, || {
        let (room, out) = (&mut room.slice_mut(), &mut out.slice_mut());
        Ok(attention(gpu.compute(), &form, shape, q.slice(), &k, v, position.slice(), &Sight::default(), room, out)?)
    })?;
    Ok((seconds, format!("{form:?}")))
}

fn decode(gpu: &Gpu) -> Outcome<()> {
    println!(
        "\n## Attention of one token\n\n| heads | cache | positions | µs | GB/s | TFLOP/s |\n|---|---|---|---|---|---|"
    );
    for (shape, what) in
        [(shape(HEADS, KV_HEADS, DIM, DIM), "64 over 8, 128 wide"), (shape(128, 1, 576, 512), "128 over latents")]
    {
        for kind in [KvType::F16, KvType::Q8_0, KvType::F32] {
            for positions in [512, 4096, 32_768] {
                let (seconds, _) = attend(gpu, &shape, kind, positions - 1, 1)?;
                let numbers = if shape.dim_k == 576 { 576 } else { 2 * DIM * KV_HEADS };
                let bytes = kind.bytes(numbers as u64).0 as usize * positions;
                let operations = 2 * shape.heads * (shape.dim_k + shape.dim_v) * positions;
                println!(
                    "| {what} | {} | {positions} | {:.1} | {:.0} | {:.1} |",
                    kind.name(),
                    seconds * 1e6,
                    bytes as f64 / seconds / 1e9,
                    operations as f64 / seconds / 1e12
                );
            }
        }
    }
    Ok(())
}

fn prefill(gpu: &Gpu) -> Outcome<()> {
    println!(
        "\n## Attention of prompts\n\n| heads | cache | before | tokens | ms | TFLOP/s |\n|---|---|---|---|---|---|"
    );
    for (shape, what) in [
        (shape(HEADS, KV_HEADS, DIM, DIM), "64 over 8, 128 wide"),
        (shape(128, 128, 192, 128), "128 expanded latents"),
        (shape(16, 8, 256, 256), "16 over 8, 256 wide"),
    ] {
        for kind in [KvType::F16, KvType::Q8_0] {
            for (before, tokens) in [(0, 512), (0, 2048), (6144, 2048), (2048, 8)] {
                let (seconds, _) = attend(gpu, &shape, kind, before, tokens)?;
                let pairs = tokens * before + tokens * (tokens + 1) / 2;
                let operations = 2 * shape.heads * (shape.dim_k + shape.dim_v) * pairs;
                let rate = operations as f64 / seconds / 1e12;
                println!("| {what} | {} | {before} | {tokens} | {:.3} | {rate:.0} |", kind.name(), seconds * 1e3);
            }
        }
    }
    Ok(())
}

/// The small steps of a 70B layer and an R1 router.
fn steps(gpu: &Gpu) -> Outcome<()> {
    const WIDTH: usize = 8192;
    const INNER: usize = 28_672;
    println!("\n## Steps, µs\n\n| step | 1 token | 8 | 512 |\n|---|---|---|---|");
    let mut lines = [const { String::new() }; 4];
    for tokens in [1, 8, 512] {
        let mut arena = Arena::new(gpu, "steps", Bytes(1 << 30))?;
        let (mut x, added) = (numbers(gpu, tokens * WIDTH)?, numbers(gpu, tokens * WIDTH)?);
        let weight = numbers(gpu, WIDTH)?;
        let rule = Norm { kind: NormKind::Rms, width: WIDTH, weight: Some(weight.slice()), eps: 1e-5 };
        let mut rounded = Quantized::new(&mut arena, INNER, tokens)?;
        let seconds = timed(gpu, || {
            let to = Output::rounded(&mut rounded);
            Ok(add_norm(gpu.compute(), &rule, &mut x.slice_mut(), added.slice(), to)?)
        })?;
        write!(lines[0], "| {:.1} ", seconds * 1e6)?;
        let both = numbers(gpu, tokens * 2 * INNER)?;
        let seconds = timed(gpu, || {
            let part = |first: usize| Rows { numbers: both.slice().range(first..), step: 2 * INNER };
            let to = Output::rounded(&mut rounded);
            Ok(gated(gpu.compute(), Joining::Silu, part(0), part(INNER), tokens, INNER, to)?)
        })?;
        write!(lines[1], "| {:.1} ", seconds * 1e6)?;
        write!(lines[2], "| {:.1} ", head_steps(gpu, tokens)? * 1e6)?;
        write!(lines[3], "| {:.1} ", router(gpu, tokens)? * 1e6)?;
    }
    for (name, line) in
        ["sum, norm, rounding", "silu · up, rounding", "norm, rope and cache of 80 heads", "8 of 256 experts"]
            .iter()
            .zip(lines)
    {
        println!("| {name} {line}|");
    }
    Ok(())
}

fn head_steps(gpu: &Gpu, tokens: usize) -> Outcome<f64> {
    let width = (HEADS + 2 * KV_HEADS) * DIM;
    let mut arena = Arena::new(gpu, "a table", RopeTable::bytes(DIM / 2, tokens))?;
    let frequencies: Vec<f32> = (0..DIM / 2).map(|i| 1e4_f32.powf(-(i as f32) / (DIM / 2) as f32)).collect();
    let mut table = RopeTable::new(gpu, &mut arena, &frequencies, 1.0, tokens)?;
    let mut position = DeviceBuffer::<u32>::new(gpu, "a position", 1)?;
    gpu.compute().upload_now(&[100], &mut position.slice_mut())?;
    table.fill(gpu.compute(), position.slice(), tokens)?;
    let (mut k, mut v) = (store(gpu, KvType::F16, KV_HEADS, DIM, 1024)?, store(gpu, KvType::F16, KV_HEADS, DIM, 1024)?);
    let (x, weight, mut q) =
        (numbers(gpu, tokens * width)?, numbers(gpu, DIM)?, DeviceBuffer::<f32>::new(gpu, "q", tokens * HEADS * DIM)?);
    timed(gpu, || {
        let (x, mut q) = (x.slice(), q.slice_mut());
        let norm = Some(HeadNorm { weight: Some(weight.slice()), eps: 1e-6, last: false });
        let turn = Some(HeadTurn { offset: 0, style: RopeStyle::Half });
        let from = |first: usize| Rows { numbers: x.range(first * DIM..), step: width };
        let part = |first, heads, to| HeadPart {
            from: from(first),
            head_step: DIM,
            heads,
            dim: DIM,
            norm,
            turn,
            growth: None,
            to,
        };
        let mut parts = [
            part(0, HEADS, HeadsTo::Numbers(&mut q)),
            part(HEADS, KV_HEADS, HeadsTo::Store(&mut k, 0)),
            HeadPart { norm: None, turn: None, ..part(HEADS + KV_HEADS, KV_HEADS, HeadsTo::Store(&mut v, 0)) },
        ];
        Ok(heads(gpu.compute(), &mut parts, tokens, Some(&table), position.slice())?)
    })
}

/// The two matrices by head of an R1 layer; layers change from launch to launch, so that weights come from memory.
fn latent(gpu: &Gpu) -> Outcome<()> {
    const LAYERS: usize = 24;
    const HEADS: usize = 128;
    println!("\n## Products by head, 128 heads\n\n| product | type | tokens | µs | GB/s |\n|---|---|---|---|---|");
    for (what, quant, rows, width, transposed) in [
        ("queries", QuantType::Q8_0, 512, 128, false),
        ("queries", QuantType::Q5_0, 512, 128, false),
        ("queries", QuantType::Bf16, 512, 128, false),
        ("queries, transposed", QuantType::Q8_0, 128, 512, true),
        ("queries, transposed", QuantType::Q4K, 128, 512, true),
        ("values", QuantType::Q8_0, 128, 512, false),
        ("values", QuantType::Q4K, 128, 512, false),
        ("values", QuantType::Iq2Xxs, 128, 512, false),
        ("values", QuantType::Bf16, 128, 512, false),
    ] {
        let bytes = quant.bytes((HEADS * rows * width) as u64).map_or(0, |bytes| bytes.0 as usize);
        let weights = filled(gpu, LAYERS * bytes)?;
        for tokens in [1, 8, 512] {
            let (inputs, outputs) = if transposed { (rows, width) } else { (width, rows) };
            let x = numbers(gpu, tokens * HEADS * inputs)?;
            let mut out = DeviceBuffer::<f32>::new(gpu, "outputs", tokens * HEADS * outputs)?;
            let steps = |numbers| HeadSteps { head: numbers, token: HEADS * numbers };
            let run = if transposed { head_product_transposed } else { head_product };
            let mut layer = 0;
            let seconds = timed(gpu, || {
                layer = (layer + 1) % LAYERS;
                let weights = weights.slice().range(layer * bytes..(layer + 1) * bytes);
                let matrix = HeadMatrix { quant, weights, heads: HEADS, step: rows, rows, width };
                let (from, to) = (steps(inputs), steps(outputs));
                Ok(run(gpu.compute(), &matrix, x.slice(), from, &mut out.slice_mut(), to, tokens)?)
            })?;
            let rate = bytes as f64 / seconds / 1e9;
            println!("| {what} | {quant} | {tokens} | {:.1} | {rate:.0} |", seconds * 1e6);
        }
    }
    Ok(())
}

fn router(gpu: &Gpu, tokens: usize) -> Outcome<f64> {
    let (logits, bias) = (numbers(gpu, tokens * 256)?, numbers(gpu, 256)?);
    let mut chosen = DeviceBuffer::<u32>::new(gpu, "chosen", tokens * 8)?;
    let mut weights = DeviceBuffer::<f32>::new(gpu, "weights", tokens * 8)?;
    timed(gpu, || {
        let (chosen, weights) = (&mut chosen.slice_mut(), &mut weights.slice_mut());
        Ok(route(gpu.compute(), &Routing::GROUPED, logits.slice(), Some(bias.slice()), chosen, weights, None)?)
    })
}
