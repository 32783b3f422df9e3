//! Measures what a card's kernels take one by one: for one token as they follow each other in decode, and the two kinds of operations in prompts that are
//! slower than products of quantized matrices.
//!
//! Each kernel is recorded as a chain, as the engine replays it, so that what it takes to be asked for does not count. What should come out on an H100:
//! 3 to 5 µs for the small steps, 12 and 21 for attention, 19 for a router's choice, and a start of 4 to 10 µs for a product.

use std::collections::BTreeMap;

use kernels::cpu::{AttentionShape, RopeStyle, Routing};
use kernels::cuda::{
    Arena, AttentionForm, Chosen, CudaError, DeviceBuffer, Event, ExpertTable, Gpu, HeadPart, HeadTurn, HeadsTo,
    Joining, KvStore, Matrix, Norm, NormKind, Output, Quantized, Recording, RopeTable, Rows, Sight, add_norm,
    attention, experts_down, experts_up, gated, heads, in_floats, in_integers, matmul_floats, matvec, matvec_floats,
    route,
};
use plan::card::{CardKernels, CardProduct};
use plan::{Bytes, KvType, QuantType};

use crate::measure::{RUNS, WIDTH, matrix_bytes};

/// Kernels of a chain.
const CHAIN: usize = 32;
/// Rows of a matrix whose start shows, and inner numbers of an expert: some megabytes.
const ROWS: usize = 2048;
/// Experts, of which a token uses some: three tokens' fill more than a second-level cache.
const EXPERTS: usize = 24;
const USED: usize = 8;
/// Inner numbers of a dense layer.
const INNER: usize = 14_336;
/// Heads of a model of 70 billion weights.
const HEADS: usize = 64;
const KV_HEADS: usize = 8;
const DIM: usize = 128;
/// Positions that are attended to: so few that their bytes hardly count.
const POSITIONS: usize = 256;
/// A prompt's tokens.
const TOKENS: usize = 1024;

/// What is measured of this card, with weights that are larger than its second-level cache.
pub(super) fn measure(gpu: &Gpu, weights: &DeviceBuffer<u8>) -> Result<CardKernels, CudaError> {
    let chains = Chains { gpu, weights };
    let mut products = BTreeMap::new();
    for quant in QuantType::ALL.iter().copied().filter(|quant| in_integers(*quant) || in_floats(*quant)) {
        products.insert(quant, chains.product(quant)?);
    }
    let [norm_s, gate_s, round_s] = chains.rows()?;
    let latents = shape(128, 1, 576, 512);
    let (one, many) = (chains.attention(&shape(HEADS, KV_HEADS, DIM, DIM), 1)?, TOKENS * (TOKENS + 1) / 2);
    let expanded = shape(HEADS, KV_HEADS, DIM, DIM);
    let prompt_s = chains.attention(&expanded, TOKENS)?;
    let operations = 2 * expanded.heads * (expanded.dim_k + expanded.dim_v) * many;
    Ok(CardKernels {
        products,
        norm_s,
        gate_s,
        round_s,
        heads_s: chains.heads()?,
        attention_s: one,
        latents_s: chains.attention(&latents, 1)?,
        route_s: chains.route()?,
        floats_per_s: chains.floats()?,
        attention_per_s: operations as f64 / prompt_s,
        many_per_s: 0.0,
    })
}

fn shape(heads: usize, kv_heads: usize, dim_k: usize, dim_v: usize) -> AttentionShape {
    let scale = 1.0 / (dim_k as f32).sqrt();
    AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window: None, softcap: None }
}

struct Chains<'a> {
    gpu: &'a Gpu,
    weights: &'a DeviceBuffer<u8>,
}

impl Chains<'_> {
    /// Seconds of one of so many kernels in a row: the middle one of some runs, after one to warm up.
    fn each(&self, count: usize, mut kernel: impl FnMut(usize) -> Result<(), CudaError>) -> Result<f64, CudaError> {
        // Once before, so that its code is loaded.
        kernel(0)?;
        self.gpu.synchronize()?;
        let mut all = || (0..count).try_for_each(&mut kernel);
        let recording = match self.gpu.recorder() {
            Some(recorder) => Some(recorder.record(&mut all)?.0),
            None => None,
        };
        let (from, to) = (Event::timed(self.gpu)?, Event::timed(self.gpu)?);
        let mut seconds = Vec::with_capacity(RUNS);
        for run in 0..=RUNS {
            from.record(self.gpu.compute())?;
            let replayed = recording.as_ref().map_or(Ok(false), Recording::replay)?;
            if !replayed {
                all()?;
            }
            to.record(self.gpu.compute())?;
            to.synchronize()?;
            if run > 0 {
                seconds.push(to.since(&from)?.as_secs_f64() / count as f64);
            }
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[RUNS / 2])
    }

    fn numbers(&self, count: usize) -> Result<DeviceBuffer<f32>, CudaError> {
        let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut buffer = DeviceBuffer::new(self.gpu, "numbers", count)?;
        self.gpu.compute().upload_now(&numbers, &mut buffer.slice_mut())?;
        Ok(buffer)
    }

    fn position(&self, position: usize) -> Result<DeviceBuffer<u32>, CudaError> {
        let mut buffer = DeviceBuffer::new(self.gpu, "a position", 1)?;
        self.gpu.compute().upload_now(&[position as u32], &mut buffer.slice_mut())?;
        Ok(buffer)
    }

    fn store(&self, heads: usize, dim: usize, capacity: usize) -> Result<KvStore, CudaError> {
        let mut arena = Arena::new(self.gpu, "a cache", KvStore::bytes(KvType::F16, heads, dim, capacity))?;
        let mut store = KvStore::new(&mut arena, KvType::F16, heads, dim, capacity)?;
        self.gpu.compute().fill(&mut store.slice_mut(), 0x2c)?;
        Ok(store)
    }

    /// A column in 8 bits.
    fn column(&self, arena: &mut Arena, width: usize) -> Result<Quantized, CudaError> {
        let mut column = Quantized::new(arena, width, 1)?;
        column.quantize(self.gpu.compute(), self.numbers(width)?.slice(), width)?;
        self.gpu.synchronize()?;
        Ok(column)
    }

    /// One column by matrices of one type: all that there are of one after another, and small ones.
    fn product(&self, quant: QuantType) -> Result<CardProduct, CudaError> {
        let stream = self.gpu.compute();
        let row = matrix_bytes(quant, 1, WIDTH);
        let all = self.weights.len() / row;
        let mut arena = Arena::new(self.gpu, "a column", Quantized::bytes(WIDTH, 1) + Arena::bytes_of::<f32>(all))?;
        let (column, x) = (self.column(&mut arena, WIDTH)?, self.numbers(WIDTH)?);
        let mut out = arena.take::<f32>(all)?;
        let mut multiply = |first: usize, rows: usize| {
            let weights = self.weights.slice().range(first * row..(first + rows) * row);
            let (matrix, mut out) = (Matrix { quant, weights, rows, width: WIDTH }, out.slice_mut().split_at(rows).0);
            if in_integers(quant) {
                matvec(stream, &matrix, &column, &mut out, rows, false)
            } else {
                matvec_floats(stream, &matrix, x.slice(), &mut out, rows, false)
            }
        };
        let bytes_per_s = (all * row) as f64 / self.each(1, |_| multiply(0, all))?;
        let rows = ROWS.min(all);
        let places = all / rows;
        let seconds = self.each(CHAIN, |i| multiply(i % places * rows, rows))?;
        let start_s = (seconds - (rows * row) as f64 / bytes_per_s).max(0.0);
        let experts_s = if in_integers(quant) { self.experts(quant, bytes_per_s)? } else { start_s };
        Ok(CardProduct { bytes_per_s, start_s, experts_s })
    }

    /// What each of the two kernels for a token's experts takes beside bytes.
    fn experts(&self, quant: QuantType, bytes_per_s: f64) -> Result<f64, CudaError> {
        let stream = self.gpu.compute();
        let bytes = matrix_bytes(quant, ROWS, WIDTH).next_multiple_of(256);
        let room = Arena::bytes_of::<u64>(EXPERTS).times(3)
            + Quantized::bytes(WIDTH, 1)
            + Quantized::bytes(ROWS, USED)
            + Arena::bytes_of::<f32>(WIDTH + USED)
            + Arena::bytes_of::<u32>(EXPERTS);
        let mut arena = Arena::new(self.gpu, "experts", room + Bytes(4096))?;
        let places = self.weights.len() / bytes;
        let mut tables = Vec::with_capacity(3);
        for (part, (rows, width)) in [(ROWS, WIDTH), (ROWS, WIDTH), (WIDTH, ROWS)].into_iter().enumerate() {
            let mut table = ExpertTable::new(&mut arena, quant, EXPERTS, rows, width)?;
            for expert in 0..EXPERTS {
                table.set(expert, Some((self.weights, (3 * expert + part) % places.max(1) * bytes)));
            }
            table.upload(stream)?;
            tables.push(table);
        }
        let [gate, up, down] = &tables[..] else { unreachable!("there are three") };
        let column = self.column(&mut arena, WIDTH)?;
        let mut inner = Quantized::new(&mut arena, ROWS, USED)?;
        let (mut chosen, mut shares) = (arena.take::<u32>(EXPERTS)?, arena.take::<f32>(USED)?);
        let mut out = arena.take::<f32>(WIDTH)?;
        let every: Vec<u32> = (0..EXPERTS as u32).collect();
        stream.upload_now(&every, &mut chosen.slice_mut())?;
        stream.upload_now(&[0.125; USED], &mut shares.slice_mut())?;
        let seconds = self.each(CHAIN, |i| {
            let first = i % (EXPERTS / USED) * USED;
            let experts = chosen.slice().range(first..first + USED);
            let chosen = Chosen { experts, weights: shares.slice(), per_token: USED };
            experts_up(stream, gate, up, None, Joining::Silu, &column, &chosen, &mut inner)?;
            experts_down(stream, down, None, &inner, &chosen, &mut out.slice_mut(), WIDTH, false)
        })?;
        let read = (3 * USED * matrix_bytes(quant, ROWS, WIDTH)) as f64;
        Ok(((seconds - read / bytes_per_s) / 2.0).max(0.0))
    }

    /// Sum, norm and rounding; gates; rounding.
    fn rows(&self) -> Result<[f64; 3], CudaError> {
        let stream = self.gpu.compute();
        let mut arena = Arena::new(self.gpu, "rows", Quantized::bytes(INNER, 1))?;
        let (mut x, added, weight) = (self.numbers(WIDTH)?, self.numbers(WIDTH)?, self.numbers(WIDTH)?);
        let both = self.numbers(2 * INNER)?;
        let mut rounded = Quantized::new(&mut arena, INNER, 1)?;
        let norm = Norm { kind: NormKind::Rms, width: WIDTH, weight: Some(weight.slice()), eps: 1e-5 };
        let norm_s = self.each(CHAIN, |_| {
            add_norm(stream, &norm, &mut x.slice_mut(), added.slice(), Output::rounded(&mut rounded))
        })?;
        let half = |first: usize| Rows { numbers: both.slice().range(first..first + INNER), step: INNER };
        let gate_s = self.each(CHAIN, |_| {
            gated(stream, Joining::Silu, half(0), half(INNER), 1, INNER, Output::rounded(&mut rounded))
        })?;
        let round_s = self.each(CHAIN, |_| rounded.quantize(stream, x.slice(), WIDTH))?;
        Ok([norm_s, gate_s, round_s])
    }

    /// Queries and keys turned, keys and values kept.
    fn heads(&self) -> Result<f64, CudaError> {
        let stream = self.gpu.compute();
        let mut arena = Arena::new(self.gpu, "a table", RopeTable::bytes(DIM / 2, 1))?;
        let frequencies: Vec<f32> = (1..=DIM / 2).map(|i| 1.0 / i as f32).collect();
        let mut table = RopeTable::new(self.gpu, &mut arena, &frequencies, 1.0, 1)?;
        let position = self.position(POSITIONS / 2)?;
        table.fill(stream, position.slice(), 1)?;
        let (mut k, mut v) = (self.store(KV_HEADS, DIM, POSITIONS)?, self.store(KV_HEADS, DIM, POSITIONS)?);
        let width = (HEADS + 2 * KV_HEADS) * DIM;
        let (x, mut q) = (self.numbers(width)?, self.numbers(HEADS * DIM)?);
        self.each(CHAIN, |_| {
            let (x, mut q) = (x.slice(), q.slice_mut());
            let part = |first: usize, heads, turn, to| HeadPart {
                from: Rows { numbers: x.range(first * DIM..), step: width },
                head_step: DIM,
                heads,
                dim: DIM,
                norm: None,
                turn,
                growth: None,
                to,
            };
            let turn = Some(HeadTurn { offset: 0, style: RopeStyle::Half });
            let mut parts = [
                part(0, HEADS, turn, HeadsTo::Numbers(&mut q)),
                part(HEADS, KV_HEADS, turn, HeadsTo::Store(&mut k, 0)),
                part(HEADS + KV_HEADS, KV_HEADS, None, HeadsTo::Store(&mut v, 0)),
            ];
            heads(stream, &mut parts, 1, Some(&table), position.slice())
        })
    }

    /// Attention of the last of some positions, or of a prompt. Latents are keys and values in one.
    fn attention(&self, shape: &AttentionShape, tokens: usize) -> Result<f64, CudaError> {
        let before = if tokens == 1 { POSITIONS - 1 } else { 0 };
        let k = self.store(shape.kv_heads, shape.dim_k, before + tokens)?;
        let own = (shape.dim_k == shape.dim_v).then(|| self.store(shape.kv_heads, shape.dim_v, before + tokens));
        let own = own.transpose()?;
        let v = own.as_ref().unwrap_or(&k);
        let kinds = (KvType::F16, KvType::F16);
        let form = AttentionForm::choose(self.gpu.info(), shape, kinds, tokens, before + tokens);
        let q = self.numbers(tokens * shape.heads * shape.dim_k)?;
        let (mut room, mut out) =
            (self.numbers(form.room(shape).max(1))?, self.numbers(tokens * shape.heads * shape.dim_v)?);
        let position = self.position(before)?;
        self.each(if tokens == 1 { CHAIN } else { 1 }, |_| {
            let (room, out) = (&mut room.slice_mut(), &mut out.slice_mut());
            attention(
                self.gpu.compute(),
                &form,
                shape,
                q.slice(),
                &k,
                v,
                position.slice(),
                &Sight::default(),
                room,
                out,
            )
        })
    }

    /// A choice as models of R1's kind make it.
    fn route(&self) -> Result<f64, CudaError> {
        let routing = Routing::GROUPED;
        let Routing { experts, used, .. } = routing;
        let (logits, bias, mut weights) = (self.numbers(experts)?, self.numbers(experts)?, self.numbers(used)?);
        let mut chosen = DeviceBuffer::<u32>::new(self.gpu, "chosen", used)?;
        self.each(CHAIN, |_| {
            let (chosen, weights) = (&mut chosen.slice_mut(), &mut weights.slice_mut());
            route(self.gpu.compute(), &routing, logits.slice(), Some(bias.slice()), chosen, weights, None)
        })
    }

    /// Operations a second of a prompt with a router of floats.
    fn floats(&self) -> Result<f64, CudaError> {
        let (rows, columns) = (256, TOKENS);
        let weights = self.weights.slice().range(..matrix_bytes(QuantType::F32, rows, WIDTH));
        let matrix = Matrix { quant: QuantType::F32, weights, rows, width: WIDTH };
        let (x, mut out) = (self.numbers(columns * WIDTH)?, self.numbers(columns * rows)?);
        let seconds =
            self.each(1, |_| matmul_floats(self.gpu.compute(), &matrix, x.slice(), &mut out.slice_mut(), rows))?;
        Ok(2.0 * (rows * columns * WIDTH) as f64 / seconds)
    }
}
