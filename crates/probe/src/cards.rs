//! Measures a card with the kernels that will run: its memory, the link both ways, a crossing, a launch, and products of prompts.
//!
//! A sketch of what should come out on an RTX 3060: 300 to 340 of its 360 GB/s, 12 or 24 GB/s each way by the lanes it has (a half or a third from memory that
//! is not pinned), 4 to 12 µs a crossing, 2 to 5 µs a launch, 40 to 60 tera-operations a second.

mod chains;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::cuda::{
    Arena, Crossing, CudaError, DeviceBuffer, Download, Event, Gpu, GpuInfo, HalvesRoom, Matrix, Pinned, Quantized,
    Registered, matmul, matvec,
};
use kernels::memory::{AllocError, Buffer};
use plan::card::{MANY_COLUMNS, USUAL_COLUMNS};
use plan::cost::gpu::halves;
use plan::{Bytes, GPU_CAPABILITY_MIN};

use crate::measure::{QUANT, ROWS, RUNS_SHOWN, WIDTH, matrix_bytes, spread, steady};
use crate::{CardRates, Spread};

/// More than any second-level cache holds several times; less where the card has little.
const READ_BYTES: usize = 512 << 20;
/// Bytes of one matrix.
const MATRIX: usize = matrix_bytes(QUANT, ROWS, WIDTH);
/// Rows of a matrix that meets very many columns, and what a card has free where that is measured.
const MANY_ROWS: usize = 2 * ROWS;
const MANY_FREE: Bytes = Bytes(1 << 30);
/// Bytes of one copy over the link.
const COPY: usize = 64 << 20;
/// How long copies go on before they are measured.
const AWAKE: Duration = Duration::from_millis(100);
/// Numbers of a crossing: the residual stream of a model of 7 to 8 billion weights.
const NUMBERS: usize = 4096;
/// Crossings and launches, of which the median counts.
const ROUNDS: usize = 1000;

/// Every card that kernels are built for, by its number, with what was measured or why nothing was.
pub(crate) fn measure(now: &mut dyn FnMut(&str)) -> Vec<(String, Result<CardRates, String>)> {
    let infos = (0..kernels::cuda::count().unwrap_or(0)).filter_map(|number| GpuInfo::of(number).ok());
    let new = infos.filter(|info| info.capability >= GPU_CAPABILITY_MIN);
    new.map(|info| {
        let name = format!("gpu:{}", info.ordinal);
        // Apart: where there is no machine code for this card the driver compiles all kernels, half a minute of them, and keeps them.
        now(&format!("{name}'s start"));
        let gpu = Gpu::open(info.ordinal, info.memory);
        now(&name);
        let rates = gpu.and_then(|gpu| card(&info, &gpu));
        (info.uuid.clone(), rates.map_err(|error| format!("{name}: {error}")))
    })
    .collect()
}

fn card(info: &GpuInfo, gpu: &Gpu) -> Result<CardRates, CudaError> {
    let context = gpu.used();
    let bytes = READ_BYTES.min(gpu.free()?.0 as usize / 4);
    let mut weights = DeviceBuffer::<u8>::new(gpu, "weights", bytes.max(MATRIX))?;
    fill(gpu, &mut weights)?;
    let read = decode(gpu, &weights)?;
    let operations = prompt(gpu, &weights, ROWS, USUAL_COLUMNS)?;
    let mut kernels = chains::measure(gpu, &weights)?;
    if weights.len() >= MANY_ROWS / ROWS * MATRIX && gpu.free()? >= MANY_FREE {
        kernels.many_per_s = prompt(gpu, &weights, MANY_ROWS, MANY_COLUMNS)?.median;
    }
    let [link, link_back, link_pageable] = link(gpu, &mut weights)?;
    Ok(CardRates {
        name: info.name.clone(),
        read,
        link,
        link_back,
        link_pageable,
        operations,
        crossing_s: crossing(gpu)?,
        launch_s: launch(gpu)?,
        kernels,
        context,
    })
}

/// Blocks of arbitrary weights with small scales.
fn fill(gpu: &Gpu, weights: &mut DeviceBuffer<u8>) -> Result<(), CudaError> {
    let pattern = block_pattern();
    let (mut done, length) = (0, weights.len());
    while done < length {
        let part = pattern.len().min(length - done);
        gpu.compute().upload_now(&pattern[..part], &mut weights.slice_mut().range(done..done + part))?;
        done += part;
    }
    Ok(())
}

/// Seconds on the card of [`RUNS_SHOWN`] runs, after one to warm up, as work per second.
fn timed(gpu: &Gpu, work: f64, mut run: impl FnMut() -> Result<(), CudaError>) -> Result<Spread, CudaError> {
    let (from, to) = (Event::timed(gpu)?, Event::timed(gpu)?);
    let mut rates = Vec::with_capacity(RUNS_SHOWN);
    for count in 0..=RUNS_SHOWN {
        from.record(gpu.compute())?;
        run()?;
        to.record(gpu.compute())?;
        to.synchronize()?;
        if count > 0 {
            rates.push(work / to.since(&from)?.as_secs_f64().max(1e-9));
        }
    }
    Ok(spread(rates))
}

/// Columns of ones in 8 bits.
fn columns(gpu: &Gpu, arena: &mut Arena, count: usize) -> Result<Quantized, CudaError> {
    let mut x = arena.take::<f32>(count * WIDTH)?;
    gpu.compute().upload_now(&vec![1.0; count * WIDTH], &mut x.slice_mut())?;
    let mut columns = Quantized::new(arena, WIDTH, count)?;
    columns.quantize(gpu.compute(), x.slice(), WIDTH)?;
    gpu.synchronize()?;
    Ok(columns)
}

fn arena_for(gpu: &Gpu, count: usize, outputs: usize) -> Result<Arena, CudaError> {
    let bytes = Arena::bytes_of::<f32>(count * WIDTH) + Quantized::bytes(WIDTH, count);
    Arena::new(gpu, "columns", bytes + Arena::bytes_of::<f32>(outputs))
}

/// One column by all weights.
fn decode(gpu: &Gpu, weights: &DeviceBuffer<u8>) -> Result<Spread, CudaError> {
    let row = matrix_bytes(QUANT, 1, WIDTH);
    let rows = weights.len() / row;
    let bytes = rows * row;
    let mut arena = arena_for(gpu, 1, rows)?;
    let x = columns(gpu, &mut arena, 1)?;
    let mut out = arena.take::<f32>(rows)?;
    let matrix = Matrix { quant: QUANT, weights: weights.slice().range(..bytes), rows, width: WIDTH };
    timed(gpu, bytes as f64, || matvec(gpu.compute(), &matrix, &x, &mut out.slice_mut(), rows, false))
}

/// One matrix by a micro-batch, in the way that is the faster one for so many columns.
fn prompt(gpu: &Gpu, weights: &DeviceBuffer<u8>, rows: usize, count: u32) -> Result<Spread, CudaError> {
    let (room, count) = (halves(gpu.info().capability, count), count as usize);
    let mut arena = arena_for(gpu, count, count * rows)?;
    let x = columns(gpu, &mut arena, count)?;
    let mut out = arena.take::<f32>(count * rows)?;
    let weights = weights.slice().range(..rows / ROWS * MATRIX);
    let matrix = Matrix { quant: QUANT, weights, rows, width: WIDTH };
    let operations = 2.0 * (count * rows * WIDTH) as f64;
    if room > Bytes::ZERO && HalvesRoom::serves(QUANT, count) {
        let mut rooms = Arena::new(gpu, "halves", room)?;
        let mut room = HalvesRoom::new(&mut rooms)?;
        return timed(gpu, operations, || room.multiply(gpu.compute(), &matrix, &x, &mut out.slice_mut(), rows));
    }
    timed(gpu, operations, || matmul(gpu.compute(), &matrix, &x, &mut out.slice_mut(), rows))
}

/// Pinned memory to the card and back, and memory that is not pinned to the card, in bytes per second. What goes up lies as weights do: in huge pages that are
/// registered. One host gave 28 GB/s from pinned memory in small pages, and 50 to weights.
fn link(gpu: &Gpu, card: &mut DeviceBuffer<u8>) -> Result<[Spread; 3], CudaError> {
    let count = COPY.min(card.len());
    let asked = Bytes(count as u64);
    let memory =
        |error: AllocError| CudaError::NotPinned { ordinal: gpu.info().ordinal, asked, reason: error.to_string() };
    let weights = Registered::new(gpu, Arc::new(Buffer::try_new(count).map_err(memory)?))?;
    let pinned = Pinned::<u8>::new(gpu, count)?;
    // A link that rests sleeps: it takes some copies to wake.
    let started = Instant::now();
    while started.elapsed() < AWAKE {
        gpu.compute().upload(weights.part(..), &mut card.slice_mut().range(..count))?;
        gpu.synchronize()?;
    }
    let up = steady(|| {
        timed(gpu, count as f64, || gpu.compute().upload(weights.part(..), &mut card.slice_mut().range(..count)))
    })?;
    let mut room = Some(pinned);
    let down = steady(|| {
        timed(gpu, count as f64, || {
            let Some(pinned) = room.take() else { unreachable!("it comes back with each copy") };
            room = Some(Download::start(gpu.compute(), card.slice().range(..count), pinned)?.wait()?);
            Ok(())
        })
    })?;
    let pageable = vec![1; count];
    let slow = timed(gpu, count as f64, || gpu.compute().upload_now(&pageable, &mut card.slice_mut().range(..count)))?;
    Ok([up, down, slow])
}

/// Seconds until numbers are on the other side: half of a round whose launches are done beforehand.
fn crossing(gpu: &Gpu) -> Result<f64, CudaError> {
    let mut crossing = Crossing::new(gpu, NUMBERS)?;
    let mut numbers = DeviceBuffer::<f32>::new(gpu, "a trial", NUMBERS)?;
    gpu.compute().fill(&mut numbers.slice_mut(), 0)?;
    crossing.leave(numbers.slice())?;
    let mut seconds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        crossing.receive()?;
        crossing.arrive(&mut numbers.slice_mut())?;
        crossing.leave(numbers.slice())?;
        crossing.room()[..NUMBERS].fill(1.0);
        let started = Instant::now();
        crossing.send();
        std::hint::black_box(crossing.receive()?);
        seconds.push(started.elapsed().as_secs_f64() / 2.0);
        crossing.leave(numbers.slice())?;
    }
    crossing.receive()?;
    Ok(spread(seconds).median)
}

/// Seconds of a kernel that does next to nothing, among many in a row.
fn launch(gpu: &Gpu) -> Result<f64, CudaError> {
    let mut arena = arena_for(gpu, 1, 0)?;
    let x = arena.take::<f32>(WIDTH)?;
    let mut columns = Quantized::new(&mut arena, WIDTH, 1)?;
    let rate =
        timed(gpu, ROUNDS as f64, || (0..ROUNDS).try_for_each(|_| columns.quantize(gpu.compute(), x.slice(), WIDTH)))?;
    Ok(1.0 / rate.median.max(1.0))
}

/// A matrix of arbitrary weights with small scales, so that no product is infinite.
fn block_pattern() -> Vec<u8> {
    let mut state = 1u32;
    let mut matrix: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(MATRIX)
    .collect();
    for block in matrix.chunks_exact_mut(QUANT.block_bytes()) {
        // Scale and minimum come first, as two float16: 2^-10 each.
        block[..4].copy_from_slice(&[0, 0x14, 0, 0x14]);
    }
    matrix
}
