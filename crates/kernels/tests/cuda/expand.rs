//! Keys and values made from latents, against products in `f64` of what the cache keeps, and attention over them.

use kernels::cpu::AttentionShape;
use kernels::cuda::{AttentionForm, Expansion, Gpu, HeadRooms, KvPart, Rows, Sight, attention_apart, expand};
use kernels::reference;
use plan::KvType;

use crate::attention::filled;
use crate::card::{download, gpu, poisoned, upload};
use crate::common::{Draw, assert_close};

/// A weight's rounding to a half, relative to its product, and the result's, relative to itself: 2^-11 each, with sums of f32.
const TOLERANCE: f32 = 1.1 / 1024.0;

struct Case {
    shape: Expansion,
    kind: KvType,
    positions: usize,
    transposed: bool,
    /// Numbers between heads' weights.
    apart: usize,
}

fn halves(numbers: &[f32]) -> Vec<f32> {
    let half = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
    numbers.iter().flat_map(|two| [half(two.to_bits()), half(two.to_bits() >> 16)]).collect()
}

impl Case {
    /// Products and the sums of their parts' magnitudes: rows of `outputs` for each head and position, with what follows a key's.
    fn expected(&self, weights: &[f32], step: usize, latents: &[f32], is_key: bool) -> [Vec<f32>; 2] {
        let Expansion { heads, rank, rotated, key, value } = self.shape;
        let (wide, outputs, transposed) =
            if is_key { (rank + rotated, key, self.transposed) } else { (rank + rotated, value, false) };
        let mut found = [Vec::new(), Vec::new()];
        for head in 0..heads {
            let own = &weights[head * step..];
            for latent in latents.chunks(wide) {
                for o in 0..outputs {
                    let weight = |i: usize| if transposed { own[i * outputs + o] } else { own[o * rank + i] };
                    let product = |i: usize| f64::from(latent[i]) * f64::from(weight(i));
                    found[0].push((0..rank).map(product).sum::<f64>() as f32);
                    found[1].push((0..rank).map(|i| product(i).abs()).sum::<f64>() as f32);
                }
                if is_key {
                    found[0].extend(&latent[rank..]);
                    found[1].extend(&latent[rank..]);
                }
            }
        }
        found
    }

    fn check(&self, gpu: &Gpu) {
        let Expansion { heads, rank, rotated, key, value } = self.shape;
        let mut draw = Draw((heads * 1000 + self.positions + rank) as u64);
        let (store, kept) = filled(gpu, self.kind, 1, rank + rotated, self.positions, &mut draw);
        let (key_step, value_step) = (key * rank + self.apart, value * rank + self.apart);
        let (keys_from, values_from) = (draw.numbers(heads * key_step), draw.numbers(heads * value_step));
        let (of_keys, of_values) = (upload(gpu, &keys_from), upload(gpu, &values_from));
        let rooms = HeadRooms {
            keys: (of_keys.slice(), key_step),
            values: (of_values.slice(), value_step),
            transposed: self.transposed,
        };
        let [of_key, of_value] = self.shape.numbers(self.positions);
        let (mut keys, mut values) = (poisoned(gpu, of_key), poisoned(gpu, of_value));
        let (to, and) = (&mut keys.slice_mut(), &mut values.slice_mut());
        expand(gpu.compute(), &store, &self.shape, &rooms, self.positions, to, and).unwrap();
        let what = format!("{:?}, {:?}, {} positions", self.shape, self.kind, self.positions);
        let (keys, values) = (download(gpu, keys.slice()), download(gpu, values.slice()));
        for (found, weights, step, is_key) in
            [(&keys, &keys_from, key_step, true), (&values, &values_from, value_step, false)]
        {
            let [expected, sizes] = self.expected(weights, step, &kept, is_key);
            assert_close(&what, &halves(found), &expected, |i| sizes[i].abs() + 1e-6, TOLERANCE);
        }
    }
}

#[test]
fn keys_and_values_of_every_head_at_every_position() {
    let Some(gpu) = gpu() else { return };
    for kind in [KvType::F16, KvType::Q8_0] {
        for (heads, rank, rotated, key, value, positions, apart) in [
            (1, 8, 0, 8, 8, 1, 0),
            (3, 32, 16, 32, 32, 130, 0),
            (2, 72, 24, 40, 136, 127, 4),
            (2, 512, 64, 128, 128, 300, 1024),
            (5, 256, 32, 200, 64, 129, 8),
        ] {
            for transposed in [false, true] {
                let shape = Expansion { heads, rank, rotated, key, value };
                Case { shape, kind, positions, transposed, apart }.check(gpu);
            }
        }
    }
}

#[test]
fn what_is_not_kept_by_eights_in_halves_is_not_expanded() {
    let shape = Expansion { heads: 2, rank: 512, rotated: 64, key: 128, value: 128 };
    for (shape, kind, serves) in [
        (shape, KvType::F16, true),
        (shape, KvType::Q8_0, true),
        (shape, KvType::F32, false),
        (Expansion { rank: 36, ..shape }, KvType::F16, false),
        (Expansion { rotated: 0, ..shape }, KvType::F16, true),
        (Expansion { key: 12, ..shape }, KvType::F16, false),
        (Expansion { value: 4, ..shape }, KvType::F16, false),
    ] {
        assert_eq!(shape.serves(kind), serves, "{shape:?} {kind:?}");
    }
}

#[test]
fn attention_of_some_of_a_tokens_heads_over_rows_in_any_memory() {
    let Some(gpu) = gpu() else { return };
    // The second and third of four heads, whose queries and outputs lie beside the others'.
    let (all, heads, before) = (4, 2, 1);
    for (dim_k, dim_v, first, tokens) in [(192, 128, 0, 70), (192, 128, 150, 40), (192, 128, 9, 3), (24, 40, 5, 30)] {
        let shape = AttentionShape { heads, kv_heads: heads, dim_k, dim_v, scale: 0.1, window: None, softcap: None };
        let positions = first + tokens;
        let mut draw = Draw((dim_k + positions) as u64);
        let q: Vec<f32> = draw.numbers(tokens * all * dim_k);
        let mut rows = |dim: usize| -> (Vec<f32>, Vec<f32>) {
            let rounded =
                draw.numbers(heads * positions * dim).iter().map(|x| half::f16::from_f32(*x)).collect::<Vec<_>>();
            let two =
                |two: &[half::f16]| f32::from_bits(u32::from(two[1].to_bits()) << 16 | u32::from(two[0].to_bits()));
            let at = |p: usize, h: usize| &rounded[(h * positions + p) * dim..][..dim];
            let by_position = (0..positions).flat_map(|p| (0..heads).flat_map(move |h| at(p, h)));
            (rounded.chunks(2).map(two).collect(), by_position.map(|x| x.to_f32()).collect())
        };
        let ((k, k_kept), (v, v_kept)) = (rows(dim_k), rows(dim_v));
        let own: Vec<f32> =
            q.chunks(all * dim_k).flat_map(|token| &token[before * dim_k..][..heads * dim_k]).copied().collect();
        let mut expected = vec![f32::NAN; tokens * heads * dim_v];
        reference::attention(&shape, &own, &k_kept, &v_kept, first, &kernels::cpu::Sight::default(), &mut expected);

        let (q, k, v, position) = (upload(gpu, &q), upload(gpu, &k), upload(gpu, &v), upload(gpu, &[first as u32]));
        let kept = [(&k, dim_k), (&v, dim_v)].map(|(rows, dim)| KvPart::halves(rows.slice(), heads, dim, positions));
        let chosen = AttentionForm::choose(gpu.info(), &shape, (KvType::F16, KvType::F16), tokens, positions);
        for form in [chosen.clone(), chosen.with_splits(3)] {
            let mut room = poisoned(gpu, form.room(&shape).max(1));
            let mut out = poisoned(gpu, tokens * all * dim_v);
            let queries = Rows { numbers: q.slice().range(before * dim_k..), step: all * dim_k };
            let mut whole = out.slice_mut();
            let to = (&mut whole.range(before * dim_v..), all * dim_v);
            let (at, sight) = (position.slice(), Sight::default());
            attention_apart(gpu.compute(), &form, &shape, queries, kept, at, &sight, &mut room.slice_mut(), to)
                .unwrap();
            let found = download(gpu, out.slice());
            let of_token = |token: &[f32]| token[before * dim_v..][..heads * dim_v].to_vec();
            let mine: Vec<f32> = found.chunks(all * dim_v).flat_map(of_token).collect();
            assert_close(&format!("{form:?} {shape:?}"), &mine, &expected, |_| 1.0, 1e-3);
            let others = found
                .chunks(all * dim_v)
                .flat_map(|token| token[..before * dim_v].iter().chain(&token[(before + heads) * dim_v..]));
            assert!(others.copied().all(f32::is_nan), "other heads' outputs are not written");
        }
    }
}
