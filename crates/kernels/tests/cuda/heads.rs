//! Heads on their way to attention and into the cache.

use kernels::cpu::{RopeShape, RopeStyle};
use kernels::cuda::{
    Arena, DeviceBuffer, Growth, HeadNorm, HeadPart, HeadTurn, HeadsTo, KvStore, Pinned, RopeTable, Rows, advance,
    heads,
};
use kernels::{cpu, reference};
use plan::{Bytes, KvType};

use crate::card::{download, gpu, poisoned, upload};
use crate::common::{Draw, assert_close, bits};

/// A norm and a rotation, relative to numbers up to 3.
const TOLERANCE: f32 = 3e-6;

struct Case {
    heads: usize,
    dim: usize,
    offset: usize,
    pairs: usize,
    style: RopeStyle,
    norm: Option<bool>,
    /// Numbers of a head that are normed, from the first on.
    normed: usize,
    growth: Option<Growth>,
}

impl Case {
    fn expected(&self, x: &[f32], weight: &[f32], first: usize, frequencies: &[f32], factor: f32) -> Vec<f32> {
        let norm = |x: &[f32]| {
            let mut out = x.to_vec();
            for (x, out) in x.chunks(self.dim).zip(out.chunks_mut(self.dim)) {
                let (x, out) = (&x[..self.normed], &mut out[..self.normed]);
                reference::rms_norm(x, Some(&weight[..self.normed]), self.normed, 1e-6, out);
            }
            out
        };
        let tokens = x.len() / (self.heads * self.dim);
        let mut out = if self.norm == Some(false) { norm(x) } else { x.to_vec() };
        let shape = RopeShape { heads: self.heads, dim: self.dim, offset: self.offset, style: self.style };
        let positions: Vec<u32> = (first..first + tokens).map(|position| position as u32).collect();
        reference::rope(&mut out, shape, &positions, frequencies, factor);
        if self.norm == Some(true) {
            out = norm(&out);
        }
        if let Some(Growth { floor, growth }) = self.growth {
            for (row, position) in out.chunks_mut(self.heads * self.dim).zip(positions) {
                let factor = 1.0 + growth * ((position + 1) as f32 / floor).floor().ln_1p();
                for x in row {
                    *x *= factor;
                }
            }
        }
        out
    }
}

#[test]
fn heads_are_normed_turned_and_grown() {
    let Some(gpu) = gpu() else { return };
    let plain = |heads, dim, pairs, style| {
        let (norm, growth) = (None, None);
        Case { heads, dim, offset: 0, pairs, style, norm, normed: dim, growth }
    };
    let growth = Some(Growth { floor: 100.0, growth: 0.1 });
    for case in [
        plain(1, 2, 1, RopeStyle::Half),
        plain(5, 64, 32, RopeStyle::Interleaved),
        plain(8, 128, 64, RopeStyle::Half),
        Case { norm: Some(false), ..plain(3, 80, 20, RopeStyle::Half) },
        Case { norm: Some(true), growth, ..plain(7, 128, 64, RopeStyle::Interleaved) },
        Case { offset: 128, ..plain(4, 192, 32, RopeStyle::Interleaved) },
        // A latent and its rotated key.
        Case { offset: 512, norm: Some(false), normed: 512, ..plain(1, 576, 32, RopeStyle::Interleaved) },
        Case { offset: 3, norm: Some(false), growth, ..plain(2, 75, 36, RopeStyle::Half) },
    ] {
        let (tokens, first, factor) = (5, 8190, 1.17);
        let Case { heads: count, dim, .. } = case;
        let mut draw = Draw((count * dim) as u64);
        let (x, weight) = (draw.numbers(tokens * count * dim), draw.numbers(dim));
        let frequencies: Vec<f32> = (0..case.pairs).map(|i| 10_000_f32.powf(-(i as f32) / case.pairs as f32)).collect();
        let mut arena = Arena::new(gpu, "a test", RopeTable::bytes(case.pairs, tokens)).unwrap();
        let mut table = RopeTable::new(gpu, &mut arena, &frequencies, factor, tokens).unwrap();
        let mut position = upload(gpu, &[first as u32 - 2]);
        advance(gpu.compute(), &mut position.slice_mut(), 2).unwrap();
        table.fill(gpu.compute(), position.slice(), tokens).unwrap();
        // Each head is followed by as much again that belongs to something else.
        let spaced: Vec<f32> = x.chunks(dim).flat_map(|head| [head, &vec![f32::NAN; dim]].concat()).collect();
        let (from, weight_there) = (upload(gpu, &spaced), upload(gpu, &weight));
        let mut out = poisoned(gpu, x.len());
        let part = HeadPart {
            from: Rows { numbers: from.slice(), step: count * 2 * dim },
            head_step: 2 * dim,
            heads: count,
            dim,
            norm: case.norm.map(|last| HeadNorm {
                weight: Some(weight_there.slice().range(..case.normed)),
                eps: 1e-6,
                last,
            }),
            turn: Some(HeadTurn { offset: case.offset, style: case.style }),
            growth: case.growth,
            to: HeadsTo::Numbers(&mut out.slice_mut()),
        };
        heads(gpu.compute(), &mut [part], tokens, Some(&table), position.slice()).unwrap();
        let wanted = case.expected(&x, &weight, first, &frequencies, factor);
        assert_close(&format!("{count} heads of {dim}"), &download(gpu, out.slice()), &wanted, |_| 3.0, TOLERANCE);
    }
}

#[test]
fn caches_keep_what_the_processors_keep() {
    let Some(gpu) = gpu() else { return };
    for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
        for (count, dim) in [(1, 1), (2, 33), (3, 64), (8, 128), (1, 576)] {
            let (tokens, first, capacity) = (4, 3, 9);
            let mut draw = Draw((count * dim) as u64);
            let x: Vec<f32> = draw.numbers(tokens * count * dim).iter().map(|x| 50.0 * x).collect();
            let mut arena = Arena::new(gpu, "a test", KvStore::bytes(kind, count, dim, capacity)).unwrap();
            let mut store = KvStore::new(&mut arena, kind, count, dim, capacity).unwrap();
            gpu.compute().fill(&mut store.slice_mut(), 0xff).unwrap();
            // Rows come in two parts where they are wide enough, as latents do.
            let split = if dim == 576 { 512 } else { dim };
            let from = upload(gpu, &x);
            let position = upload(gpu, &[first as u32]);
            for part in [0..split, split..dim].into_iter().filter(|part| !part.is_empty()) {
                keep(gpu, &from, &mut store, part, tokens, &position);
            }
            let copy = download(gpu, store.slice());
            let mut wanted = cpu::KvStore::try_new(kind, count, dim, capacity).unwrap();
            for (t, rows) in x.chunks(count * dim).enumerate() {
                wanted.write(first + t, rows);
                let mut kept = vec![f32::NAN; count * dim];
                wanted.read(first + t, &mut kept);
                for (head, kept) in kept.chunks(dim).enumerate() {
                    let found = store.row_of(&copy, head, first + t);
                    assert_eq!(bits(&found), bits(kept), "{kind:?} {count} × {dim}, token {t}");
                }
            }
        }
    }
}

#[test]
fn heads_may_go_where_something_else_lies_between() {
    let Some(gpu) = gpu() else { return };
    let (tokens, count, dim, step) = (3, 5, 6, 16);
    let x = Draw(7).numbers(tokens * count * dim);
    let from = upload(gpu, &x);
    let mut out = poisoned(gpu, tokens * count * step);
    let mut behind = out.slice_mut().split_at(step - dim).1;
    let part = HeadPart {
        from: Rows { numbers: from.slice(), step: count * dim },
        head_step: dim,
        heads: count,
        dim,
        norm: None,
        turn: None,
        growth: None,
        to: HeadsTo::Apart(&mut behind, step),
    };
    heads(gpu.compute(), &mut [part], tokens, None, upload(gpu, &[0_u32]).slice()).unwrap();
    let found = download(gpu, out.slice());
    for (found, head) in found.chunks(step).zip(x.chunks(dim)) {
        assert!(found[..step - dim].iter().all(|x| x.is_nan()), "nothing before a head");
        assert_eq!(bits(&found[step - dim..]), bits(head));
    }
}

#[test]
fn heads_may_turn_where_they_are() {
    let Some(gpu) = gpu() else { return };
    // The last numbers of each head turn, as they do on their way to somewhere else.
    let (tokens, count, dim, plain, first) = (5, 7, 24, 10, 3);
    let mut draw = Draw(11);
    let (x, frequencies) = (draw.numbers(tokens * count * dim), [1.0, 0.3, 0.01]);
    let position = upload(gpu, &[first]);
    let mut arena = Arena::new(gpu, "a test", RopeTable::bytes(frequencies.len(), tokens)).unwrap();
    let mut table = RopeTable::new(gpu, &mut arena, &frequencies, 1.0, tokens).unwrap();
    table.fill(gpu.compute(), position.slice(), tokens).unwrap();
    let (from, mut back, mut there) = (upload(gpu, &x), upload(gpu, &x), poisoned(gpu, x.len()));
    let mut whole = back.slice_mut();
    let mut places = [whole.range(plain..), there.slice_mut().split_at(plain).1];
    for (which, place) in places.iter_mut().enumerate() {
        let part = HeadPart {
            from: Rows { numbers: from.slice().range(plain..), step: count * dim },
            head_step: dim,
            heads: count,
            dim: dim - plain,
            norm: None,
            turn: Some(HeadTurn { offset: 0, style: RopeStyle::Half }),
            growth: None,
            to: if which == 0 { HeadsTo::Back(place) } else { HeadsTo::Apart(place, dim) },
        };
        heads(gpu.compute(), &mut [part], tokens, Some(&table), position.slice()).unwrap();
    }
    let (back, there) = (download(gpu, back.slice()), download(gpu, there.slice()));
    for ((back, there), x) in back.chunks(dim).zip(there.chunks(dim)).zip(x.chunks(dim)) {
        assert_eq!((bits(&back[..plain]), bits(&back[plain..])), (bits(&x[..plain]), bits(&there[plain..])));
    }
}

fn keep(
    gpu: &kernels::cuda::Gpu,
    from: &DeviceBuffer<f32>,
    store: &mut KvStore,
    part: std::ops::Range<usize>,
    tokens: usize,
    position: &DeviceBuffer<u32>,
) {
    let (count, dim) = (store.heads(), store.dim());
    let start = part.start;
    let part = HeadPart {
        from: Rows { numbers: from.slice().range(start..), step: count * dim },
        head_step: dim,
        heads: count,
        dim: part.len(),
        norm: None,
        turn: None,
        growth: None,
        to: HeadsTo::Store(store, start),
    };
    heads(gpu.compute(), &mut [part], tokens, None, position.slice()).unwrap();
}

#[test]
fn rows_go_to_a_card_and_come_back() {
    let Some(gpu) = gpu() else { return };
    for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
        for (count, dim) in [(1, 1), (2, 33), (8, 128), (1, 576)] {
            let (capacity, positions) = (9, 2..7);
            let mut draw = Draw((count + dim) as u64);
            let mut ours = cpu::KvStore::try_new(kind, count, dim, 12).unwrap();
            for position in 0..12 {
                ours.write(position, &draw.numbers(count * dim));
            }
            let mut arena = Arena::new(gpu, "a test", KvStore::bytes(kind, count, dim, capacity)).unwrap();
            let mut store = KvStore::new(&mut arena, kind, count, dim, capacity).unwrap();
            gpu.compute().fill(&mut store.slice_mut(), 0xff).unwrap();
            let mut pinned = Pinned::<u8>::new(gpu, store.packed(capacity)).unwrap();
            let bytes = store.packed(positions.len());
            assert_eq!(bytes, ours.packed(positions.len()));
            ours.pack(positions.clone(), &mut pinned[..bytes]);
            store.bring(gpu.compute(), positions.clone(), pinned.part(..bytes)).unwrap();
            let copy = download(gpu, store.slice());
            for position in positions.clone() {
                let mut wanted = vec![f32::NAN; count * dim];
                ours.read(position, &mut wanted);
                for (head, wanted) in wanted.chunks(dim).enumerate() {
                    assert_eq!(bits(&store.row_of(&copy, head, position)), bits(wanted), "{kind:?} {count} × {dim}");
                }
            }
            pinned.fill(0);
            let down = store.take_down(gpu.compute(), 3..6, pinned).unwrap();
            let pinned = down.wait().unwrap();
            let mut theirs = cpu::KvStore::try_new(kind, count, dim, 6).unwrap();
            theirs.unpack(3..6, &pinned[..theirs.packed(3)]);
            for position in 3..6 {
                let (mut found, mut wanted) = (vec![0.0; count * dim], vec![1.0; count * dim]);
                theirs.read(position, &mut found);
                ours.read(position, &mut wanted);
                assert_eq!(bits(&found), bits(&wanted), "{kind:?} {count} × {dim}, position {position}");
            }
        }
    }
}

#[test]
fn nothing_is_kept_beyond_a_caches_end() {
    let Some(gpu) = gpu() else { return };
    let mut arena = Arena::new(gpu, "a test", Bytes(1 << 20)).unwrap();
    let mut store = KvStore::new(&mut arena, KvType::F32, 1, 4, 2).unwrap();
    let mut behind = arena.take::<f32>(64).unwrap();
    gpu.compute().fill(&mut behind.slice_mut(), 0).unwrap();
    let from = upload(gpu, &[1.0_f32; 12]);
    keep(gpu, &from, &mut store, 0..4, 3, &upload(gpu, &[1_u32]));
    keep(gpu, &from, &mut store, 0..4, 3, &upload(gpu, &[u32::MAX - 1]));
    assert_eq!(store.row_of(&download(gpu, store.slice()), 0, 1), [1.0; 4]);
    assert_eq!(download(gpu, behind.slice()), [0.0; 64]);
}
