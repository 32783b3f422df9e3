//! How fast a drive gives a file: `cargo bench -p kernels --bench disk -- FILE [ROUNDS]`.
//!
//! A plain loop of direct reads into huge pages, by threads, for block sizes and numbers of threads: the best that the drive does.
//! Beside it the queue that the tiers read through, by who reads, how many reads are under way, and the slots that
//! they go to. Drives of shared machines swing, so all take turns of 256 MiB, in ROUNDS (7) rounds; the table has the median, the best,
//! and the share of a core that the median turn took.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use kernels::memory::{Buffer, ByteSource, Depth, FileSource, Method, Queue, Reading};
use rustix::time::{ClockId, clock_gettime};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const KIB: usize = 1 << 10;
/// Bytes of one turn.
const TURN: u64 = 256 << 20;

/// One way to read.
#[derive(Clone, Copy)]
enum Way {
    Plain { block: usize, threads: usize },
    Queue { method: Method, depth: Depth, slot: usize, slots: usize },
}

fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for block in [256, 512, 1024, 4096].map(|kib| kib * KIB) {
        ways.extend([1, 2, 4, 8].map(|threads| Way::Plain { block, threads }));
    }
    for (slot, slots) in [(4096 * KIB, 3), (2048 * KIB, 3), (1024 * KIB, 3), (1024 * KIB, 6), (1024 * KIB, 15)] {
        let depth = |reads, kib| Depth { reads, bytes: kib * KIB };
        let depths = [depth(8, 256), depth(4, 512), depth(8, 512), depth(4, 1024)];
        ways.extend(depths.map(|depth| Way::Queue { method: Method::Uring, depth, slot, slots }));
        ways.push(Way::Queue { method: Method::Threads, depth: depth(8, 1024), slot, slots });
    }
    ways
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(path) = arguments.next() else {
        println!("no FILE given: nothing to measure");
        return Ok(());
    };
    let rounds: usize = arguments.next().map_or(Ok(7), |text| text.parse())?;
    let file = Arc::new(FileSource::open(Path::new(&path))?);
    let ways = ways();
    let mut rates = vec![Vec::new(); ways.len()];
    let mut start = 0;
    for _ in 0..rounds {
        for (way, rates) in ways.iter().zip(&mut rates) {
            start = if start + 2 * TURN > file.len() { 0 } else { start + TURN };
            let before = cpu_seconds();
            let seconds = match *way {
                Way::Plain { block, threads } => plain(&file, start, block, threads)?,
                Way::Queue { method, depth, slot, slots } => queued(&file, start, depth, method, (slot, slots))?,
            };
            rates.push((TURN as f64 / seconds / 1e9, (cpu_seconds() - before) / seconds * 100.0));
        }
    }
    println!("median and best of {rounds}, GB/s, share of a core");
    for (way, rates) in ways.iter().zip(&mut rates) {
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let name = match way {
            Way::Plain { block, threads } => format!("plain loop, {threads} × {} KiB", block / KIB),
            Way::Queue { method, depth, slot, slots } => {
                let (reads, bytes) = (depth.reads, depth.bytes / KIB);
                format!("{method}, {reads} × {bytes} KiB into {slots} slots of {} KiB", slot / KIB)
            }
        };
        let ((median, share), (best, _)) = (rates[rates.len() / 2], rates[rates.len() - 1]);
        println!("{name:<50}{median:6.2}{best:6.2}{share:6.0} %");
    }
    Ok(())
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds for a turn by threads that take the next block each.
fn plain(source: &FileSource, start: u64, block: usize, threads: usize) -> Result<f64> {
    let file = source.direct().ok_or("no direct reads here")?;
    let mut buffers = Buffer::try_parts(block, threads)?;
    for buffer in &mut buffers {
        buffer.fill(1);
    }
    let (next, end) = (AtomicU64::new(start), start + TURN);
    let read = |mut buffer: Buffer| -> std::io::Result<()> {
        loop {
            let offset = next.fetch_add(block as u64, Ordering::Relaxed);
            if offset >= end {
                return Ok(());
            }
            std::os::unix::fs::FileExt::read_exact_at(file, &mut buffer, offset)?;
        }
    };
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = buffers.into_iter().map(|buffer| scope.spawn(|| read(buffer))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<std::io::Result<()>>()
    })?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds for a turn through a queue, into slots that are free again at once.
fn queued(
    file: &Arc<FileSource>,
    start: u64,
    depth: Depth,
    method: Method,
    (slot, slots): (usize, usize),
) -> Result<f64> {
    let source = Arc::clone(file) as Arc<dyn ByteSource>;
    let mut queue = Queue::open(vec![source], depth, method);
    let mut slots = Buffer::try_parts(Queue::room(slot), slots)?;
    for slot in &mut slots {
        slot.fill(1);
    }
    let started = Instant::now();
    // Units lie anywhere: a range begins and ends inside of pages.
    let (mut offset, end, mut landed) = (start + 32, start + TURN, Vec::new());
    loop {
        while let Some(buffer) = slots.pop_if(|_| offset < end) {
            queue.add(Reading { tag: offset, source: 0, offset, length: slot, buffer });
            offset += slot as u64;
        }
        if queue.under_way() == 0 {
            return Ok(started.elapsed().as_secs_f64());
        }
        queue.step(&mut landed)?;
        for landed in landed.drain(..) {
            landed.outcome?;
            slots.push(landed.buffer);
        }
    }
}
