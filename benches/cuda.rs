//! How fast a card is: `cargo bench -p kernels --features cuda --bench cuda -- [TYPE]`.
//!
//! What its memory gives to a loop that only reads and to a copy, each type's product with 1, 4 and 8 columns beside it, a mixture's layer in two
//! launches, the microseconds of a launch and of a crossing to the processor and back, and the link's rates by kind of memory and size.
//! Times of the card are the card's own (events); medians, with the lowest and the highest.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::cuda::{
    Arena, Chosen, Crossing, DeviceBuffer, Event, ExpertTable, Gpu, GpuInfo, Joining, Matrix, Pinned, Quantized,
    SliceMut, experts_down, experts_up, in_integers, matvec, matvec_floats, read_through, supports,
};
use kernels::memory::Buffer;
use plan::{Bytes, QuantType};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Several times any second-level cache.
const MATRIX: usize = 512 << 20;
/// Numbers of a row: a 70B model's.
const WIDTH: usize = 8192;
const RUNS: usize = 11;
const COLUMNS: [usize; 3] = [1, 4, 8];

fn main() -> Outcome<()> {
    // Cargo adds a flag of its own.
    let only = std::env::args().skip(1).find(|argument| argument != "--bench");
    let info = GpuInfo::of(0)?;
    let started = Instant::now();
    let gpu = Gpu::open(0, info.memory)?;
    println!("{info:#?}");
    println!("opened in {:.0} ms; the driver's own part: {}", started.elapsed().as_secs_f64() * 1e3, gpu.used());

    let mut weights = DeviceBuffer::<u8>::new(&gpu, "weights", MATRIX)?;
    fill(&gpu, &mut weights)?;
    let read = plain_rates(&gpu, &weights)?;
    products(&gpu, &weights, only.as_deref(), read)?;
    if only.is_none() {
        mixtures(&gpu, &weights, read)?;
        drop(weights);
        granules(&gpu)?;
        latencies(&gpu)?;
        links(&gpu)?;
    }
    Ok(())
}

/// Bytes that are ordinary numbers in every format.
fn fill(gpu: &Gpu, to: &mut DeviceBuffer<u8>) -> Outcome<()> {
    let mut state = 1_u64;
    let some: Vec<u8> = (0..(8 << 20) + 6)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8 & 0b1011_1111
        })
        .collect();
    let mut done = 0;
    while done < to.len() {
        let part = some.len().min(to.len() - done);
        gpu.compute().upload_now(&some[..part], &mut to.slice_mut().range(done..done + part))?;
        done += part;
    }
    Ok(())
}

/// Seconds on the card: median, lowest, highest of [`RUNS`] after one that does not count.
fn timed(gpu: &Gpu, mut work: impl FnMut(usize) -> Outcome<()>) -> Outcome<[f64; 3]> {
    let (from, to) = (Event::timed(gpu)?, Event::timed(gpu)?);
    let mut seconds = Vec::new();
    for run in 0..=RUNS {
        from.record(gpu.compute())?;
        work(run)?;
        to.record(gpu.compute())?;
        to.synchronize()?;
        seconds.push(to.since(&from)?.as_secs_f64());
    }
    Ok(spread(&mut seconds[1..]))
}

fn spread(seconds: &mut [f64]) -> [f64; 3] {
    seconds.sort_by(f64::total_cmp);
    [seconds[seconds.len() / 2], seconds[0], seconds[seconds.len() - 1]]
}

/// Bytes a second of a loop that only reads; prints a copy's too.
fn plain_rates(gpu: &Gpu, weights: &DeviceBuffer<u8>) -> Outcome<f64> {
    let mut sink = DeviceBuffer::new(gpu, "a sink", 1)?;
    let seconds = timed(gpu, |_| Ok(read_through(gpu.compute(), weights.slice(), &mut sink.slice_mut())?))?;
    let read = weights.len() as f64 / seconds[0];
    let mut copy = DeviceBuffer::new(gpu, "a copy", weights.len())?;
    let seconds = timed(gpu, |_| Ok(gpu.compute().copy(weights.slice(), &mut copy.slice_mut())?))?;
    let copied = 2.0 * weights.len() as f64 / seconds[0];
    let nominal = gpu.info().bandwidth;
    println!(
        "\n## Memory\n\nreads: {:.0} GB/s; copies (both ways counted): {:.0} GB/s; nominal: {:.0} GB/s",
        read / 1e9,
        copied / 1e9,
        nominal / 1e9
    );
    Ok(read)
}

fn products(gpu: &Gpu, weights: &DeviceBuffer<u8>, only: Option<&str>, read: f64) -> Outcome<()> {
    println!(
        "\n## Products: rows of {WIDTH}, {} MiB of weights; GB/s (lowest to highest), % of plain reads\n",
        MATRIX >> 20
    );
    println!("| type | 1 column | | 4 columns | | 8 columns | |\n|---|---|---|---|---|---|---|");
    let mut arena = Arena::new(gpu, "columns", Bytes(64 << 20))?;
    let x = Pinned::<f32>::new(gpu, 8 * WIDTH)?;
    let mut x_on_card = arena.take::<f32>(x.len())?;
    let numbers: Vec<f32> = (0..x.len()).map(|i| (i as f32 * 0.37).sin()).collect();
    gpu.compute().upload_now(&numbers, &mut x_on_card.slice_mut())?;
    let mut quantized = Quantized::new(&mut arena, WIDTH, 8)?;
    let mut out = DeviceBuffer::<f32>::new(gpu, "outputs", 8 * (MATRIX / (WIDTH / 256 * 50) + 1))?;
    for quant in QuantType::ALL.iter().copied().filter(|quant| supports(*quant)) {
        if only.is_some_and(|only| only != quant.name()) {
            continue;
        }
        let row_bytes = WIDTH / quant.block_elements() * quant.block_bytes();
        let rows = MATRIX / row_bytes;
        let bytes = rows * row_bytes;
        let matrix = Matrix { quant, weights: weights.slice().range(..bytes), rows, width: WIDTH };
        let mut line = format!("| {} |", quant.name());
        for m in COLUMNS {
            let some = x_on_card.slice().range(..m * WIDTH);
            quantized.quantize(gpu.compute(), some, WIDTH)?;
            let seconds = timed(gpu, |_| {
                let to: &mut SliceMut<'_, f32> = &mut out.slice_mut();
                if in_integers(quant) {
                    matvec(gpu.compute(), &matrix, &quantized, to, rows, false)?;
                } else {
                    matvec_floats(gpu.compute(), &matrix, some, to, rows, false)?;
                }
                Ok(())
            })?;
            let [median, lowest, highest] = seconds.map(|s| bytes as f64 / s / 1e9);
            write!(line, " {median:.0} ({highest:.0}–{lowest:.0}) | {:.0} % |", median * 1e11 / read)?;
        }
        println!("{line}");
    }
    Ok(())
}

/// A layer of a mixture of R1's shape for one token: eight experts of 7168 × 2048.
fn mixtures(gpu: &Gpu, weights: &DeviceBuffer<u8>, read: f64) -> Outcome<()> {
    const MODEL: usize = 7168;
    const INNER: usize = 2048;
    const USED: usize = 8;
    println!("\n## A layer of R1's experts for one token, 8 experts in two launches\n");
    println!("| type | µs (lowest–highest) | GB/s | % of plain reads |\n|---|---|---|---|");
    for quant in [QuantType::Iq1S, QuantType::Iq2Xxs, QuantType::Q2K, QuantType::Q4K, QuantType::Q6K, QuantType::Mxfp4]
    {
        let mut arena = Arena::new(gpu, "a layer", Bytes(16 << 20))?;
        let each = MODEL * INNER / quant.block_elements() * quant.block_bytes();
        // As many experts as there is memory for, so that none is still in a cache when its turn comes again.
        let experts = (MATRIX / each / 3).min(256);
        let mut tables = Vec::new();
        for (kind, (rows, width)) in [(INNER, MODEL), (INNER, MODEL), (MODEL, INNER)].into_iter().enumerate() {
            let mut table = ExpertTable::new(&mut arena, quant, experts, rows, width)?;
            (0..experts).for_each(|e| table.set(e, Some((weights, (kind * experts + e) * each))));
            table.upload(gpu.compute())?;
            tables.push(table);
        }
        let mut x = arena.take::<f32>(MODEL)?;
        gpu.compute().upload_now(&vec![0.01; MODEL], &mut x.slice_mut())?;
        let (mut columns, mut joined) =
            (Quantized::new(&mut arena, MODEL, 1)?, Quantized::new(&mut arena, INNER, USED)?);
        columns.quantize(gpu.compute(), x.slice(), MODEL)?;
        let choices: Vec<u32> = (0..(RUNS + 1) * USED).map(|i| (i % experts) as u32).collect();
        let mut chosen = arena.take::<u32>(choices.len())?;
        gpu.compute().upload_now(&choices, &mut chosen.slice_mut())?;
        let mut shares = arena.take::<f32>(USED)?;
        gpu.compute().upload_now(&[0.125; USED], &mut shares.slice_mut())?;
        let mut out = arena.take::<f32>(MODEL)?;
        let seconds = timed(gpu, |run| {
            let chosen = Chosen {
                experts: chosen.slice().range(run * USED..(run + 1) * USED),
                weights: shares.slice(),
                per_token: USED,
            };
            experts_up(gpu.compute(), &tables[0], &tables[1], None, Joining::Silu, &columns, &chosen, &mut joined)?;
            experts_down(gpu.compute(), &tables[2], None, &joined, &chosen, &mut out.slice_mut(), MODEL, false)?;
            Ok(())
        })?;
        let rate = (3 * USED * each) as f64 / seconds[0];
        let [median, lowest, highest] = seconds.map(|s| s * 1e6);
        println!(
            "| {} | {median:.1} ({lowest:.1}–{highest:.1}) | {:.0} | {:.0} % |",
            quant.name(),
            rate / 1e9,
            rate * 100.0 / read
        );
    }
    Ok(())
}

/// What the driver takes for allocations.
fn granules(gpu: &Gpu) -> Outcome<()> {
    println!("\n## Allocations\n");
    for bytes in [1, 1 << 20, (2 << 20) + 1, 65 << 20] {
        let before = gpu.free()?;
        let counted = gpu.used();
        let buffers: Vec<_> =
            (0..8).map(|_| DeviceBuffer::<u8>::new(gpu, "a trial", bytes)).collect::<Result<_, _>>()?;
        let taken = before.saturating_sub(gpu.free()?);
        println!("8 × {bytes} bytes: the driver took {taken}, counted {}", gpu.used().saturating_sub(counted));
        drop(buffers);
    }
    Ok(())
}

/// Launches, and crossings whose next round is asked for before the numbers of this one are there.
fn latencies(gpu: &Gpu) -> Outcome<()> {
    const ROUNDS: u32 = 2000;
    println!("\n## Latencies\n");
    let mut arena = Arena::new(gpu, "a trial", Bytes(2 << 20))?;
    let x = arena.take::<f32>(32)?;
    let mut columns = Quantized::new(&mut arena, 32, 1)?;
    gpu.synchronize()?;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        columns.quantize(gpu.compute(), x.slice(), 32)?;
    }
    let asked = started.elapsed();
    gpu.synchronize()?;
    println!("a launch: {:.2} µs to ask, {:.2} µs to do", micros(asked / ROUNDS), micros(started.elapsed() / ROUNDS));

    println!("\n| numbers each way | waits | µs a crossing, median (lowest–99 %) |\n|---|---|---|");
    for count in [16, 2048, 7168, 16_384] {
        for kernel_waits in [false, true] {
            let mut crossing = Crossing::new(gpu, count)?;
            if kernel_waits {
                crossing = crossing.with_waiting_kernel();
            }
            let mut on_card = DeviceBuffer::<f32>::new(gpu, "a trial", count)?;
            gpu.compute().fill(&mut on_card.slice_mut(), 0)?;
            crossing.leave(on_card.slice())?;
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                crossing.receive()?;
                crossing.arrive(&mut on_card.slice_mut())?;
                crossing.leave(on_card.slice())?;
                crossing.room()[..count].fill(1.0);
                // The launches are done; from here to the next numbers is one crossing there and one back.
                let started = Instant::now();
                crossing.send();
                std::hint::black_box(crossing.receive()?);
                rounds.push(started.elapsed().as_secs_f64() / 2.0);
                crossing.leave(on_card.slice())?;
            }
            rounds.sort_by(f64::total_cmp);
            let at = |share: f64| rounds[(rounds.len() as f64 * share) as usize] * 1e6;
            let who = if kernel_waits { "a kernel" } else { "the driver" };
            println!("| {count} | {who} | {:.1} ({:.1}–{:.1}) |", at(0.5), at(0.0), at(0.99));
        }
    }
    Ok(())
}

/// The link's rates by kind of memory and size of a copy.
fn links(gpu: &Gpu) -> Outcome<()> {
    const LARGEST: usize = 256 << 20;
    println!("\n## The link, GB/s by size of a copy\n");
    let sizes = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, LARGEST];
    println!(
        "| memory | {} |\n|---{}|",
        sizes.map(|s| format!("{} KiB", s >> 10)).join(" | "),
        "|---".repeat(sizes.len())
    );
    let started = Instant::now();
    let pinned = Pinned::<u8>::new(gpu, LARGEST)?;
    let took_pinned = started.elapsed();
    let mut buffer = Buffer::try_new(LARGEST)?;
    buffer.fill(1);
    let pageable = vec![1_u8; LARGEST];
    let started = Instant::now();
    let registered = kernels::cuda::Registered::new(gpu, Arc::new(buffer))?;
    let took_registered = started.elapsed();
    let mut to = DeviceBuffer::<u8>::new(gpu, "a trial", LARGEST)?;
    for name in ["pinned", "registered", "pageable"] {
        let mut line = format!("| {name} |");
        for size in sizes {
            let copies = (LARGEST / size).min(256);
            let mut rates = Vec::new();
            for _ in 0..5 {
                gpu.synchronize()?;
                let started = Instant::now();
                for i in 0..copies {
                    let range = i * size..(i + 1) * size;
                    let mut to = to.slice_mut();
                    match name {
                        "pinned" => gpu.copies().upload(pinned.part(range.clone()), &mut to.range(range))?,
                        "registered" => gpu.copies().upload(registered.part(range.clone()), &mut to.range(range))?,
                        _ => gpu.copies().upload_now(&pageable[range.clone()], &mut to.range(range))?,
                    }
                }
                gpu.copies().synchronize()?;
                rates.push((copies * size) as f64 / started.elapsed().as_secs_f64() / 1e9);
            }
            write!(line, " {:.1} |", spread(&mut rates)[0])?;
        }
        println!("{line}");
    }
    println!(
        "\n256 MiB: {:.0} ms to allocate pinned, {:.0} ms to register",
        micros(took_pinned) / 1e3,
        micros(took_registered) / 1e3
    );
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
