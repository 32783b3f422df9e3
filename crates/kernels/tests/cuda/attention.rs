//! Attention in all its forms against the reference on what the cache keeps.

use kernels::cpu::AttentionShape;
use kernels::cuda::{
    Arena, AttentionForm, Gpu, HeadPart, HeadsTo, KvStore, Rows, Sight, attention as attend, heads as take_heads,
};
use kernels::{cpu, reference};
use plan::KvType;

use crate::card::{download, gpu, poisoned, upload};
use crate::common::{Draw, assert_close};

/// What a form's rounding of queries, powers and codes of `q8_0` gives, relative to values near 1.
fn tolerance(form: &AttentionForm, kind: KvType) -> f32 {
    let name = form.name();
    match kind {
        _ if name.starts_with("exact") => 4e-6,
        KvType::Q8_0 => 2e-3,
        _ if name.starts_with("decode") => 4e-6,
        _ => 1e-3,
    }
}

#[derive(Clone, Copy)]
struct Case {
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

/// A store with rows at every position, two more to spare that hold NaN, and what it keeps.
pub(crate) fn filled(
    gpu: &Gpu,
    kind: KvType,
    heads: usize,
    dim: usize,
    positions: usize,
    draw: &mut Draw,
) -> (KvStore, Vec<f32>) {
    let rows = draw.numbers(positions * heads * dim);
    let mut arena = Arena::new(gpu, "a test", KvStore::bytes(kind, heads, dim, positions + 2)).unwrap();
    let mut store = KvStore::new(&mut arena, kind, heads, dim, positions + 2).unwrap();
    gpu.compute().fill(&mut store.slice_mut(), 0xff).unwrap();
    let from = upload(gpu, &rows);
    let part = HeadPart {
        from: Rows { numbers: from.slice(), step: heads * dim },
        head_step: dim,
        heads,
        dim,
        norm: None,
        turn: None,
        growth: None,
        to: HeadsTo::Store(&mut store, 0),
    };
    take_heads(gpu.compute(), &mut [part], positions, None, upload(gpu, &[0_u32]).slice()).unwrap();
    let copy = download(gpu, store.slice());
    let kept = (0..positions).flat_map(|p| (0..heads).map(move |head| (head, p)));
    let kept = kept.flat_map(|(head, p)| store.row_of(&copy, head, p)).collect();
    (store, kept)
}

impl Case {
    fn check(&self, gpu: &Gpu) {
        let AttentionShape { heads, kv_heads, dim_k, dim_v, .. } = self.shape;
        let (first, m, positions) = (self.first, self.m, self.first + self.m);
        let mut draw = Draw((positions * heads + dim_k) as u64);
        let q: Vec<f32> = draw.numbers(m * heads * dim_k).iter().map(|x| x * 3.0).collect();
        let (k, k_kept) = filled(gpu, self.kinds.0, kv_heads, dim_k, positions, &mut draw);
        let (own_v, v_kept) = if self.shared {
            (None, k_kept.chunks(dim_k).flat_map(|row| &row[..dim_v]).copied().collect())
        } else {
            let (v, kept) = filled(gpu, self.kinds.1, kv_heads, dim_v, positions, &mut draw);
            (Some(v), kept)
        };
        let v = own_v.as_ref().unwrap_or(&k);
        let sinks = self.sinks.then(|| draw.numbers(heads));
        let words = positions.div_ceil(64) + 1;
        let selected = self.one_of.map(|n| (0..m * words).map(|_| selection(n, &mut draw)).collect::<Vec<u64>>());
        let sight = cpu::Sight { sinks: sinks.as_deref(), chunk: self.chunk, selected: selected.as_deref() };
        let mut expected = vec![f32::NAN; m * heads * dim_v];
        reference::attention(&self.shape, &q, &k_kept, &v_kept, first, &sight, &mut expected);

        let (q, position) = (upload(gpu, &q), upload(gpu, &[first as u32]));
        let sinks = sinks.map(|sinks| upload(gpu, &sinks));
        let selected = selected.map(|selected| upload(gpu, &selected));
        let sight = Sight {
            sinks: sinks.as_ref().map(|sinks| sinks.slice()),
            chunk: self.chunk,
            selected: selected.as_ref().map(|selected| selected.slice()),
        };
        let chosen = AttentionForm::choose(gpu.info(), &self.shape, self.kinds, m, k.capacity());
        let exact = chosen.clone().exact(self.kinds);
        for form in [chosen.clone(), chosen.clone().with_splits(1), chosen.with_splits(7), exact.with_splits(3)] {
            let mut room = poisoned(gpu, form.room(&self.shape).max(1));
            let mut out = poisoned(gpu, m * heads * dim_v);
            let (room, to) = (&mut room.slice_mut(), &mut out.slice_mut());
            attend(gpu.compute(), &form, &self.shape, q.slice(), &k, v, position.slice(), &sight, room, to).unwrap();
            let what = format!("{form:?} {:?}, {first} and {m}", self.shape);
            let tolerance = tolerance(&form, self.kinds.0);
            assert_close(&what, &download(gpu, out.slice()), &expected, |_| 1.0, tolerance);
        }
    }
}

/// 64 positions of which about one of `n` is selected; often none, where few are.
fn selection(n: u64, draw: &mut Draw) -> u64 {
    (0..64).filter(|_| draw.bits().is_multiple_of(n)).fold(0, |word, bit| word | 1 << bit)
}

fn shape(heads: usize, kv_heads: usize, dim_k: usize, dim_v: usize) -> AttentionShape {
    let scale = 1.0 / (dim_k as f32).sqrt();
    AttentionShape { heads, kv_heads, dim_k, dim_v, scale, window: None, softcap: None }
}

fn plain(shape: AttentionShape, kind: KvType, first: usize, m: usize) -> Case {
    Case { shape, kinds: (kind, kind), first, m, sinks: false, chunk: None, one_of: None, shared: false }
}

#[test]
fn attention_for_widths_without_a_form_of_their_own() {
    use KvType::{F16, F32, Q8_0};
    let Some(gpu) = gpu() else { return };
    for case in [
        plain(shape(1, 1, 1, 1), F32, 0, 1),
        plain(shape(4, 2, 16, 16), F32, 0, 70),
        Case { kinds: (F16, F32), ..plain(shape(6, 2, 24, 40), F16, 130, 5) },
        Case { kinds: (Q8_0, F16), ..plain(shape(9, 3, 40, 70), Q8_0, 200, 2) },
        Case { kinds: (F32, F16), ..plain(shape(4, 1, 600, 530), F32, 3, 2) },
        plain(AttentionShape { softcap: Some(2.0), window: Some(100), ..shape(4, 2, 16, 16) }, F32, 90, 30),
        Case { sinks: true, chunk: Some(48), ..plain(shape(4, 2, 16, 16), F32, 90, 20) },
        Case { one_of: Some(300), kinds: (F32, Q8_0), ..plain(shape(8, 1, 32, 32), F32, 600, 7) },
        Case { shared: true, ..plain(shape(7, 1, 48, 32), F16, 65, 9) },
    ] {
        case.check(gpu);
    }
}

#[test]
fn attention_of_a_few_tokens_and_of_many() {
    use KvType::{F16, Q8_0};
    let Some(gpu) = gpu() else { return };
    let rules = |shape| AttentionShape { softcap: Some(20.0), window: Some(77), ..shape };
    for (dim_k, dim_v) in [(64, 64), (96, 96), (128, 128), (192, 128), (256, 256)] {
        for kind in [F16, Q8_0] {
            for (heads, kv_heads, first, m) in
                [(1, 1, 0, 1), (8, 1, 1, 1), (24, 2, 700, 1), (6, 2, 63, 4), (8, 2, 0, 65), (9, 3, 130, 100)]
            {
                let case = plain(shape(heads, kv_heads, dim_k, dim_v), kind, first, m);
                case.check(gpu);
                Case { shape: rules(case.shape), sinks: true, ..case }.check(gpu);
                Case { chunk: Some(48), one_of: Some(3), ..case }.check(gpu);
            }
        }
    }
}

#[test]
fn attention_over_latents() {
    use KvType::{F16, Q8_0};
    let Some(gpu) = gpu() else { return };
    for kind in [F16, Q8_0] {
        for (heads, first, m) in [(128, 70, 1), (128, 900, 2), (16, 5, 5), (20, 0, 40)] {
            let case = Case { shared: true, ..plain(shape(heads, 1, 576, 512), kind, first, m) };
            case.check(gpu);
            Case { one_of: Some(4), ..case }.check(gpu);
        }
    }
}
