//! Gated delta nets against their references on odd sizes, on each instruction set, with one thread and with three.

mod common;

use common::{Draw, bits, on_every_pool, pools};
use kernels::cpu::{DeltaInputs, DeltaShape, HeadOrder, OutputGate};
use kernels::{cpu, reference};

/// Sums of dozens of products in `f32` that feed each other over dozens of tokens.
const RECURRENT: f32 = 2e-5;
/// A power of e and what follows it.
const WITH_EXP: f32 = 4e-6;

#[test]
fn a_short_convolution_goes_on_where_it_stopped() {
    for (tokens, channels, taps) in [(1, 1, 1), (1, 5, 2), (3, 16, 4), (9, 33, 4), (40, 130, 3), (2, 64, 8)] {
        let mut draw = Draw(channels as u64);
        let (x, weight) = (draw.numbers(tokens * channels), draw.numbers(channels * taps));
        let tail = draw.numbers((taps - 1) * channels);
        let (mut outputs, mut inputs) = (x.clone(), tail.clone());
        reference::short_conv(&mut outputs, &weight, taps, &mut inputs);
        let expected = [outputs, inputs].concat();
        let what = format!("{tokens}×{channels}, {taps} taps");
        // A sum of products that cancel is off by what each of them rounds.
        on_every_pool(
            &what,
            &expected,
            |_| taps as f32,
            WITH_EXP,
            |pool, out| {
                let (found, kept) = out.split_at_mut(x.len());
                found.copy_from_slice(&x);
                kept.copy_from_slice(&tail);
                let (first, second) = found.split_at_mut(tokens / 2 * channels);
                cpu::short_conv(pool, first, &weight, taps, kept);
                cpu::short_conv(pool, second, &weight, taps, kept);
            },
        );
    }
}

#[test]
fn states_fade_by_their_rate() {
    for (tokens, heads, numbers) in [(1, 1, 1), (3, 2, 1), (5, 3, 7), (20, 32, 128)] {
        let mut draw = Draw(numbers as u64);
        let x: Vec<f32> = draw.numbers(tokens * heads * numbers).iter().map(|x| x * 100.0).collect();
        let rates: Vec<f32> = draw.numbers(heads).iter().map(|x| -x.abs() * 4.0).collect();
        let mut expected = x.clone();
        reference::decays(&mut expected, &rates, numbers);
        on_every_pool(
            "decays",
            &expected,
            |_| 1.0,
            WITH_EXP,
            |pool, out| {
                out.copy_from_slice(&x);
                cpu::decays(pool, out, &rates, numbers);
            },
        );
    }
}

#[test]
fn gates_stand_beside_what_they_open() {
    for (rows, width, step, offset) in
        [(1, 1, 1, 0), (3, 5, 5, 0), (7, 16, 32, 16), (40, 33, 70, 35), (3, 9_000, 9_000, 0)]
    {
        let mut draw = Draw(width as u64);
        let (x, gates) = (draw.numbers(rows * width), draw.numbers(rows * step));
        for kind in [OutputGate::Silu, OutputGate::Sigmoid] {
            let mut expected = x.clone();
            reference::gate_rows(kind, &mut expected, &gates, width, step, offset);
            on_every_pool(
                "gates",
                &expected,
                |i| expected[i].abs() + 1e-30,
                WITH_EXP,
                |pool, out| {
                    out.copy_from_slice(&x);
                    cpu::gate_rows(pool, kind, out, &gates, width, step, offset);
                },
            );
        }
    }
}

/// Numbers of a sequence as a model has them: keys and queries of length 1, decays and betas from 0 to 1.
struct Sequence {
    shape: DeltaShape,
    numbers: [Vec<f32>; 5],
}

impl Sequence {
    fn new(shape: DeltaShape, tokens: usize, decay_each: bool) -> Self {
        let mut draw = Draw((shape.key * 1000 + shape.value) as u64);
        let keys = tokens * shape.key_heads * shape.key;
        let mut unit = || {
            let mut numbers = draw.numbers(keys);
            reference::l2_norm(&mut numbers, shape.key, 1e-6);
            numbers
        };
        let (q, k) = (unit(), unit());
        let v = draw.numbers(tokens * shape.heads * shape.value);
        let mut share = |count: usize| draw.numbers(count).iter().map(|x| x.abs()).collect::<Vec<f32>>();
        let decay = share(tokens * shape.heads * if decay_each { shape.key } else { 1 });
        let beta = share(tokens * shape.heads);
        Self { shape, numbers: [q, k, v, decay, beta] }
    }

    /// What the tokens `range` bring.
    fn inputs(&self, range: std::ops::Range<usize>) -> DeltaInputs<'_> {
        let tokens = self.numbers[4].len() / self.shape.heads;
        let [q, k, v, decay, beta] = self.numbers.each_ref().map(|list| {
            let width = list.len() / tokens;
            &list[range.start * width..range.end * width]
        });
        DeltaInputs { q, k, v, decay, beta }
    }
}

const SHAPES: [(usize, DeltaShape, bool); 7] = [
    (1, DeltaShape { heads: 1, key_heads: 1, key: 1, value: 1, order: HeadOrder::Grouped }, false),
    (5, DeltaShape { heads: 4, key_heads: 2, key: 16, value: 16, order: HeadOrder::Grouped }, false),
    (5, DeltaShape { heads: 4, key_heads: 2, key: 16, value: 16, order: HeadOrder::Tiled }, false),
    (9, DeltaShape { heads: 3, key_heads: 3, key: 7, value: 21, order: HeadOrder::Tiled }, true),
    (4, DeltaShape { heads: 6, key_heads: 2, key: 33, value: 100, order: HeadOrder::Grouped }, true),
    (4, DeltaShape { heads: 6, key_heads: 2, key: 33, value: 100, order: HeadOrder::Tiled }, false),
    (20, DeltaShape { heads: 2, key_heads: 1, key: 128, value: 128, order: HeadOrder::Grouped }, true),
];

#[test]
fn the_delta_rule() {
    for (tokens, shape, decay_each) in SHAPES {
        let sequence = Sequence::new(shape, tokens, decay_each);
        let states = shape.heads * shape.key * shape.value;
        let before = Draw(7).numbers(states);
        let mut expected = vec![f32::NAN; tokens * shape.heads * shape.value];
        let mut state = before.clone();
        reference::gated_delta(&shape, &sequence.inputs(0..tokens), &mut state, &mut expected);
        expected.extend(&state);
        on_every_pool(
            &format!("{shape:?}"),
            &expected,
            |_| 1.0,
            RECURRENT,
            |pool, found| {
                let (out, state) = found.split_at_mut(expected.len() - states);
                cpu::gated_delta(pool, &shape, &sequence.inputs(0..tokens), Some(&before), state, out);
            },
        );
    }
}

#[test]
fn a_sequence_may_be_cut_anywhere() {
    for (tokens, shape, decay_each) in SHAPES {
        let sequence = Sequence::new(shape, tokens, decay_each);
        for (isa, pools) in pools() {
            let run = |cut: usize| {
                let mut state = Draw(7).numbers(shape.heads * shape.key * shape.value);
                let mut out = vec![f32::NAN; tokens * shape.heads * shape.value];
                let (first, second) = out.split_at_mut(cut * shape.heads * shape.value);
                cpu::gated_delta(&pools[0], &shape, &sequence.inputs(0..cut), None, &mut state, first);
                cpu::gated_delta(&pools[1], &shape, &sequence.inputs(cut..tokens), None, &mut state, second);
                (bits(&out), bits(&state))
            };
            let whole = run(tokens);
            for cut in 0..tokens {
                assert!(run(cut) == whole, "{isa} {shape:?} cut at {cut}");
            }
        }
    }
}
