//! Attention against its reference on what the cache kept, with all the rules of what a query sees.

mod common;

use common::{Draw, assert_close, bits, on_every_pool, pools};
use kernels::cpu::{AttentionShape, KvStore, Sight};
use kernels::{cpu, reference};
use plan::KvType;
use proptest::prelude::*;

/// Sums, powers of e and what follows them, relative to values near 1.
const ATTENTION: f32 = 4e-6;

/// One attention over a history: all queries at once, one token at a time, and the reference on what the cache kept.
struct Attention {
    shape: AttentionShape,
    kinds: (KvType, KvType),
    first: usize,
    m: usize,
    sinks: bool,
    chunk: Option<u32>,
    /// Of how many positions one is selected.
    one_of: Option<u64>,
    /// V is the first numbers of K's rows.
    shared: bool,
}

impl Attention {
    fn check(&self) {
        let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = self.shape;
        let (first, m, positions) = (self.first, self.m, self.first + self.m);
        let mut draw = Draw((positions * heads + dim_k) as u64);
        let q: Vec<f32> = draw.numbers(m * heads * dim_k).iter().map(|x| x * 3.0).collect();
        let (k, k_kept) = filled(self.kinds.0, kv_heads, dim_k, positions, &mut draw);
        let (own_v, v_kept) = if self.shared {
            (None, k_kept.chunks(dim_k).flat_map(|row| &row[..dim_v]).copied().collect())
        } else {
            let (v, kept) = filled(self.kinds.1, kv_heads, dim_v, positions, &mut draw);
            (Some(v), kept)
        };
        let v = own_v.as_ref().unwrap_or(&k);
        let sinks = self.sinks.then(|| draw.numbers(heads));
        // A word more than positions need.
        let words = positions.div_ceil(64) + 1;
        let selected = self.one_of.map(|n| (0..m * words).map(|_| selection(n, &mut draw)).collect::<Vec<u64>>());
        let sight = Sight { sinks: sinks.as_deref(), chunk: self.chunk, selected: selected.as_deref() };
        let mut expected = vec![f32::NAN; m * heads * dim_v];
        reference::attention(&self.shape, &q, &k_kept, &v_kept, first, &sight, &mut expected);
        let what = format!("{:?} {:?}, {first} and {m}", self.shape, self.kinds);
        on_every_pool(
            &what,
            &expected,
            |_| 1.0,
            ATTENTION,
            |pool, out| {
                cpu::attention_with(pool, &self.shape, &q, &k, v, first, &sight, out);
            },
        );
        on_every_pool(
            &what,
            &expected,
            |_| 1.0,
            ATTENTION,
            |pool, out| {
                let mut whole = out.to_vec();
                cpu::attention_with(pool, &self.shape, &q, &k, v, first, &sight, &mut whole);
                for (t, (q, out)) in q.chunks(heads * dim_k).zip(out.chunks_mut(heads * dim_v)).enumerate() {
                    let selected = selected.as_ref().map(|selected| &selected[t * words..][..words]);
                    cpu::attention_with(pool, &self.shape, q, &k, v, first + t, &Sight { selected, ..sight }, out);
                }
                assert_eq!(bits(out), bits(&whole), "{what}: one token at a time");
            },
        );
    }
}

/// 64 positions of which about one of `n` is selected; often none, where few are.
fn selection(n: u64, draw: &mut Draw) -> u64 {
    (0..64).filter(|_| draw.bits().is_multiple_of(n)).fold(0, |word, bit| word | 1 << bit)
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
    let plain = |shape, kinds, first, m| Attention {
        shape,
        kinds,
        first,
        m,
        sinks: false,
        chunk: None,
        one_of: None,
        shared: false,
    };
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
        Attention { chunk: Some(48), ..plain(shape(4, 2, 16, 16), (F32, F32), 90, 70) },
        Attention {
            chunk: Some(8),
            ..plain(AttentionShape { window: Some(5), ..shape(2, 2, 16, 16) }, (F16, F16), 60, 20)
        },
        Attention { one_of: Some(2), ..plain(shape(6, 2, 24, 24), (F16, F16), 130, 9) },
        Attention { one_of: Some(300), ..plain(shape(8, 1, 32, 32), (F32, Q8_0), 600, 7) },
        Attention { one_of: Some(20), sinks: true, chunk: Some(100), ..plain(shape(4, 4, 20, 9), (F32, F32), 150, 60) },
        // Latent attention: 128 heads look at one, whose values are the first part of its keys.
        Attention { shared: true, ..plain(shape(128, 1, 576, 512), (F16, F16), 70, 2) },
        Attention { shared: true, ..plain(shape(128, 1, 576, 512), (Q8_0, Q8_0), 5, 1) },
        Attention { shared: true, ..plain(shape(7, 1, 48, 32), (F16, F16), 65, 9) },
        Attention { shared: true, one_of: Some(30), ..plain(shape(16, 1, 48, 32), (Q8_0, Q8_0), 190, 5) },
        // Several runs of positions, which are shared out to the threads; the second needs more than one wave of them.
        plain(shape(9, 3, 64, 64), (F16, F16), 1500, 1),
        Attention { shared: true, ..plain(shape(128, 1, 576, 512), (F16, F16), 1100, 2) },
        Attention { sinks: true, one_of: Some(90), ..plain(shape(4, 1, 64, 64), (Q8_0, Q8_0), 2100, 3) },
        plain(AttentionShape { window: Some(600), ..shape(4, 2, 24, 24) }, (F16, F16), 1700, 3),
        Attention { chunk: Some(700), ..plain(shape(2, 1, 16, 16), (F32, F32), 1395, 9) },
        // Values that are wider than what a task gathers.
        plain(shape(1, 1, 8, 16_500), (F32, F32), 4, 2),
    ] {
        case.check();
    }
}

fn kinds() -> impl Strategy<Value = KvType> {
    prop_oneof![Just(KvType::F32), Just(KvType::F16), Just(KvType::Q8_0)]
}

/// A rule that half of the cases have.
fn maybe<T: std::fmt::Debug>(rule: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop_oneof![rule.prop_map(Some), Just(()).prop_map(|()| None)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_is_near_the_reference_and_the_same_however_cut(
        (kv_heads, group) in (1_usize..4, 1_usize..8),
        (dim_k, dim_v) in (1_usize..258, 1_usize..258),
        kinds in (kinds(), kinds()),
        // Each number of positions before as often as each other one of its size.
        first in (0_u32..11).prop_flat_map(|size| 0_usize..1 << size),
        m in 1_usize..41,
        (window, chunk) in (maybe(1_u32..200), maybe(1_u32..200)),
        softcap in maybe(1.0_f32..50.0),
        sinks in any::<bool>(),
        one_of in maybe(1_u64..100),
        shared in any::<bool>(),
    ) {
        let (kv_heads, dim_v) = if shared { (1, dim_v.min(dim_k)) } else { (kv_heads, dim_v) };
        let scale = 1.0 / (dim_k as f32).sqrt();
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, dim_k, dim_v, scale, window, softcap };
        Attention { shape, kinds, first, m, sinks, chunk, one_of, shared }.check();
    }
}

#[test]
fn values_that_a_query_does_not_see_do_not_touch_it() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, dim_k: 16, dim_v: 16, scale: 1.0, window: None, softcap: None };
    let (k, _) = filled(KvType::F32, 1, 16, 70, &mut Draw(1));
    let (mut v, kept) = filled(KvType::F16, 1, 16, 70, &mut Draw(2));
    v.write(68, &[1e9; 16]);
    let run = |v: &KvStore, first: usize, out: &mut [f32]| {
        let q = &[0.5; 10 * 32][..out.len()];
        cpu::attention_with(&pools()[0].1[0], &shape, q, &k, v, first, &Sight::default(), out);
    };
    let mut out = vec![f32::NAN; 10 * 32];
    run(&v, 60, &mut out);
    assert_eq!(out[8 * 32..], [f32::INFINITY; 2 * 32]);
    let mut expected = vec![f32::NAN; 8 * 32];
    v.write(68, &kept[68 * 16..69 * 16]);
    run(&v, 60, &mut expected);
    assert_eq!(bits(&out[..8 * 32]), bits(&expected));
}

#[test]
fn a_query_that_sees_nothing_gives_zeros() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, dim_k: 16, dim_v: 16, scale: 1.0, window: None, softcap: None };
    let (k, _) = filled(KvType::F32, 1, 16, 70, &mut Draw(1));
    let sight = Sight { selected: Some(&[0, 0]), ..Sight::default() };
    let mut out = vec![f32::NAN; 32];
    cpu::attention_with(&pools()[0].1[0], &shape, &[1.0; 32], &k, &k, 69, &sight, &mut out);
    assert_eq!(out, [0.0; 32]);
}

#[test]
fn sights_that_do_not_fit_are_refused() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, dim_k: 16, dim_v: 16, scale: 1.0, window: None, softcap: None };
    let (k, _) = filled(KvType::F32, 1, 16, 70, &mut Draw(1));
    let pool = &pools()[0].1[0];
    let refused = |sight: Sight| {
        let run = || cpu::attention_with(pool, &shape, &[1.0; 32], &k, &k, 65, &sight, &mut [0.0; 32]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    };
    assert!(!refused(Sight::default()));
    assert!(refused(Sight { chunk: Some(0), ..Sight::default() }));
    assert!(refused(Sight { sinks: Some(&[0.0; 2]), ..Sight::default() }));
    for (words, refuses) in [(4, false), (2, true), (5, true)] {
        assert_eq!(refused(Sight { selected: Some(&vec![u64::MAX; words]), ..Sight::default() }), refuses, "{words}");
    }
}

#[test]
fn a_sink_that_is_no_number_makes_the_output_none() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, dim_k: 16, dim_v: 16, scale: 1.0, window: None, softcap: None };
    let (k, _) = filled(KvType::F32, 1, 16, 70, &mut Draw(1));
    let mut out = [0.0; 16];
    let sight = Sight { sinks: Some(&[f32::NAN]), ..Sight::default() };
    cpu::attention_with(&pools()[0].1[0], &shape, &[1.0; 16], &k, &k, 69, &sight, &mut out);
    assert!(out.iter().all(|x| x.is_nan()), "{out:?}");
}

#[test]
fn many_rows_come_back_as_one_by_one() {
    for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
        // The wide ones are more than one task.
        for (heads, dim, positions) in [(1, 576, 130), (3, 40, 9), (2, 33, 5)] {
            let (store, kept) = filled(kind, heads, dim, positions, &mut Draw(dim as u64));
            for (head, range, numbers) in [
                (0, 0..positions, 0..dim),
                (heads - 1, 2..positions - 1, 32..dim),
                (0, 1..4, 0..7),
                (0, 3..3, 0..dim),
                (0, 0..2, 32..32),
            ] {
                let row = |p: usize| &kept[(p * heads + head) * dim..][numbers.clone()];
                let expected: Vec<f32> = range.clone().flat_map(row).copied().collect();
                on_every_pool(
                    kind.name(),
                    &expected,
                    |_| 0.0,
                    0.0,
                    |pool, out| {
                        store.read_rows(pool, head, range.clone(), numbers.clone(), out);
                    },
                );
            }
        }
    }
}
