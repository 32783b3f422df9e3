//! Every other operation against its reference on odd shapes, on each instruction set, with one thread and with three.

mod common;

use common::{Draw, assert_close, bits, pools};
use kernels::cpu::{AttentionShape, KvStore, Pool, RopeShape, RopeStyle, RopeTable};
use kernels::{cpu, reference};
use plan::KvType;

/// Sums and one or two roundings in `f32`, relative to the magnitude of the result.
const FEW_ROUNDINGS: f32 = 1e-6;
/// A power of e and what follows it.
const WITH_EXP: f32 = 2e-6;
/// The same, where the cache rounds K and V first and the reference reads what it kept.
const ATTENTION: f32 = 4e-6;

/// Runs `f` on each instruction set: all thread counts give the same bits, and those are near the reference.
fn on_every_pool(
    what: &str,
    reference: &[f32],
    size: impl Fn(usize) -> f32,
    tolerance: f32,
    f: impl Fn(&Pool, &mut [f32]),
) {
    for (isa, pools) in pools() {
        let mut first = vec![f32::NAN; reference.len()];
        f(&pools[0], &mut first);
        assert_close(&format!("{isa} {what}"), &first, reference, &size, tolerance);
        for pool in &pools[1..] {
            let mut other = vec![f32::NAN; reference.len()];
            f(pool, &mut other);
            assert_eq!(bits(&other), bits(&first), "{isa} {what} on {} threads", pool.threads());
        }
    }
}

#[test]
fn rms_norm() {
    for (rows, n) in [(1, 1), (3, 15), (2, 16), (5, 64), (1, 576), (7, 4096), (40, 999)] {
        let mut draw = Draw(n as u64);
        let (x, weight) = (draw.numbers(rows * n), draw.numbers(n));
        for weight in [None, Some(&weight[..])] {
            let mut expected = vec![f32::NAN; rows * n];
            reference::rms_norm(&x, weight, n, 1e-5, &mut expected);
            let size = |i: usize| expected[i].abs();
            on_every_pool(&format!("{rows}×{n}"), &expected, size, FEW_ROUNDINGS, |pool, out| {
                cpu::rms_norm(pool, &x, weight, n, 1e-5, out);
            });
            on_every_pool(&format!("{rows}×{n} in place"), &expected, size, FEW_ROUNDINGS, |pool, out| {
                out.copy_from_slice(&x);
                cpu::rms_norm_in_place(pool, out, weight, n, 1e-5);
            });
        }
    }
}

#[test]
fn gates() {
    for n in [1, 15, 16, 17, 1000, 20_000] {
        let mut draw = Draw(n as u64);
        let mut gate = draw.numbers(n);
        gate.iter_mut().enumerate().for_each(|(i, x)| *x *= [0.01, 1.0, 10.0, 120.0][i % 4]);
        let up = draw.numbers(n);
        let mut expected = vec![f32::NAN; n];
        reference::silu_mul(&gate, &up, &mut expected);
        let size = |i: usize| expected[i].abs() + 1e-30;
        on_every_pool("silu", &expected, size, WITH_EXP, |pool, out| cpu::silu_mul(pool, &gate, &up, out));
        let mut expected = vec![f32::NAN; n];
        reference::gelu_tanh_mul(&gate, &up, &mut expected);
        // Far out on the negative side GELU is x·e^(2y): the error of y grows with it.
        let size = |i: usize| expected[i].abs() + (gate[i] * up[i]).abs() * 0.05 + 1e-30;
        on_every_pool("gelu", &expected, size, WITH_EXP, |pool, out| cpu::gelu_tanh_mul(pool, &gate, &up, out));
    }
}

#[test]
fn softmax() {
    for (rows, n) in [(1, 1), (3, 7), (2, 16), (5, 257), (100, 300)] {
        let x: Vec<f32> = Draw(n as u64).numbers(rows * n).iter().map(|x| x * 20.0).collect();
        let mut expected = x.clone();
        reference::softmax(&mut expected, n);
        on_every_pool(
            &format!("{rows}×{n}"),
            &expected,
            |i| expected[i] + 1e-30,
            4.0 * WITH_EXP,
            |pool, out| {
                out.copy_from_slice(&x);
                cpu::softmax(pool, out, n);
            },
        );
    }
}

#[test]
fn rope() {
    for (tokens, heads, dim, offset, pairs) in [(1, 1, 2, 0, 1), (3, 2, 16, 0, 8), (5, 3, 20, 4, 7), (70, 4, 64, 0, 16)]
    {
        for style in [RopeStyle::Interleaved, RopeStyle::Half] {
            let shape = RopeShape { heads, dim, offset, style };
            let x = Draw(dim as u64).numbers(tokens * heads * dim);
            let frequencies: Vec<f32> = (0..pairs).map(|i| 10_000_f32.powf(-(i as f32) / pairs as f32)).collect();
            let positions: Vec<u32> = (0..tokens as u32).map(|t| t * 1999).collect();
            let mut expected = x.clone();
            reference::rope(&mut expected, shape, &positions, &frequencies, 1.25);
            let mut table = RopeTable::with_capacity(pairs, tokens);
            table.fill(positions.iter().copied(), &frequencies, 1.25);
            assert_eq!(table.tokens(), tokens);
            on_every_pool(
                &format!("{style:?}"),
                &expected,
                |_| 1.0,
                FEW_ROUNDINGS,
                |pool, out| {
                    out.copy_from_slice(&x);
                    cpu::rope(pool, out, shape, &table);
                },
            );
        }
    }
}

#[test]
fn sums_and_products_of_vectors() {
    let mut x = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    cpu::add_bias(&mut x, &[10.0, 20.0]);
    cpu::add(&mut x, &[1.0; 6]);
    cpu::scale(&mut x, 0.5);
    assert_eq!(x, [6.0, 11.5, 7.0, 12.5, 8.0, 13.5]);
}

/// One attention over a history: all queries at once, one token at a time, and the reference on what the cache kept.
struct Attention {
    shape: AttentionShape,
    kinds: (KvType, KvType),
    first: usize,
    m: usize,
    sinks: bool,
}

impl Attention {
    fn check(&self) {
        let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = self.shape;
        let (first, m, positions) = (self.first, self.m, self.first + self.m);
        let mut draw = Draw((positions * heads + dim_k) as u64);
        let q: Vec<f32> = draw.numbers(m * heads * dim_k).iter().map(|x| x * 3.0).collect();
        let (k, k_kept) = filled(self.kinds.0, kv_heads, dim_k, positions, &mut draw);
        let (v, v_kept) = filled(self.kinds.1, kv_heads, dim_v, positions, &mut draw);
        let sinks = self.sinks.then(|| draw.numbers(heads));
        let sinks = sinks.as_deref();
        let mut expected = vec![f32::NAN; m * heads * dim_v];
        reference::attention(&self.shape, &q, &k_kept, &v_kept, first, sinks, &mut expected);
        let what = format!("{:?} {:?}, {first} and {m}", self.shape, self.kinds);
        on_every_pool(
            &what,
            &expected,
            |_| 1.0,
            ATTENTION,
            |pool, out| {
                cpu::attention(pool, &self.shape, &q, &k, &v, first, sinks, out);
            },
        );
        on_every_pool(
            &what,
            &expected,
            |_| 1.0,
            ATTENTION,
            |pool, out| {
                let mut whole = out.to_vec();
                cpu::attention(pool, &self.shape, &q, &k, &v, first, sinks, &mut whole);
                for (t, (q, out)) in q.chunks(heads * dim_k).zip(out.chunks_mut(heads * dim_v)).enumerate() {
                    cpu::attention(pool, &self.shape, q, &k, &v, first + t, sinks, out);
                }
                assert_eq!(bits(out), bits(&whole), "{what}: one token at a time");
            },
        );
    }
}

/// A store with rows at every position (and two more to spare), and what it gives back.
fn filled(kind: KvType, heads: usize, dim: usize, positions: usize, draw: &mut Draw) -> (KvStore, Vec<f32>) {
    let mut store = KvStore::try_new(kind, heads, dim, positions + 2).unwrap();
    assert_eq!(store.bytes() as u64, kind.bytes(dim as u64).0 * (heads * (positions + 2)) as u64);
    let mut kept = vec![f32::NAN; positions * heads * dim];
    for (position, kept) in kept.chunks_mut(heads * dim).enumerate() {
        let rows = draw.numbers(heads * dim);
        store.write(position, &rows);
        store.read(position, kept);
        let tolerance = match kind {
            KvType::F32 => 0.0,
            KvType::F16 => 1.0 / 2048.0,
            KvType::Q8_0 => 1.0 / 200.0,
        };
        assert_close(kind.name(), kept, &rows, |_| 1.0, tolerance);
    }
    (store, kept)
}

#[test]
fn attention() {
    use KvType::{F16, F32, Q8_0};
    let shape = |heads, kv_heads, dim_k, dim_v| AttentionShape {
        heads,
        kv_heads,
        dim_k,
        dim_v,
        scale: 1.0 / (dim_k as f32).sqrt(),
        window: None,
        softcap: None,
    };
    let plain = |shape, kinds, first, m| Attention { shape, kinds, first, m, sinks: false };
    for case in [
        plain(shape(1, 1, 1, 1), (F32, F32), 0, 1),
        plain(shape(4, 2, 16, 16), (F32, F32), 0, 70),
        plain(shape(6, 2, 24, 40), (F16, F32), 130, 5),
        plain(shape(8, 1, 33, 17), (F16, F16), 62, 9),
        plain(shape(3, 3, 64, 64), (Q8_0, Q8_0), 63, 3),
        plain(shape(9, 3, 40, 70), (Q8_0, F16), 200, 2),
        plain(shape(20, 1, 1100, 1030), (F32, F16), 3, 2),
        plain(AttentionShape { window: Some(1), ..shape(2, 2, 16, 16) }, (F32, F32), 0, 5),
        plain(AttentionShape { window: Some(64), ..shape(4, 2, 16, 16) }, (F16, F16), 190, 70),
        plain(AttentionShape { softcap: Some(2.0), window: Some(100), ..shape(4, 2, 16, 16) }, (F32, F32), 90, 30),
        Attention { sinks: true, ..plain(shape(4, 2, 16, 16), (F32, F32), 0, 66) },
        Attention {
            sinks: true,
            ..plain(AttentionShape { window: Some(7), ..shape(8, 2, 64, 64) }, (Q8_0, Q8_0), 140, 20)
        },
    ] {
        case.check();
    }
}
