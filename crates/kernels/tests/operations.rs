//! Every other operation against its reference on shapes of any kind, on each instruction set, with one thread and with three.

mod common;

use common::{Draw, on_every_pool};
use kernels::cpu::{RopeShape, RopeStyle, RopeTable};
use kernels::{cpu, reference};
use proptest::prelude::*;

/// Sums and one or two roundings in `f32`, relative to the magnitude of the result.
const FEW_ROUNDINGS: f32 = 1e-6;
/// A power of e and what follows it.
const WITH_EXP: f32 = 2e-6;

/// Rows, and numbers of a row: short ones, long ones, and so many that several tasks share them.
fn rows() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![(1..9_usize, 1..70_usize), (1..60_usize, 1..1100_usize), (1..9_usize, 1000..5000_usize)]
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn rms_norm((rows, n) in rows(), seed: u64, weighted: bool) {
        let mut draw = Draw(seed);
        let (x, weight) = (draw.numbers(rows * n), draw.numbers(n));
        let weight = weighted.then_some(&weight[..]);
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

    #[test]
    fn l2_norm((rows, n) in rows(), seed: u64) {
        let x = Draw(seed).numbers(rows * n);
        let mut expected = x.clone();
        reference::l2_norm(&mut expected, n, 1e-6);
        let size = |i: usize| expected[i].abs();
        on_every_pool(&format!("{rows}×{n}"), &expected, size, FEW_ROUNDINGS, |pool, out| {
            out.copy_from_slice(&x);
            cpu::l2_norm_in_place(pool, out, n, 1e-6);
        });
    }

    #[test]
    fn layer_norm((rows, n) in rows(), seed: u64, weighted: bool) {
        let mut draw = Draw(seed);
        // Far from zero, where a mean matters.
        let x: Vec<f32> = draw.numbers(rows * n).iter().map(|x| x + 5.0).collect();
        let weight = draw.numbers(n);
        let weight = weighted.then_some(&weight[..]);
        let mut expected = vec![f32::NAN; rows * n];
        reference::layer_norm(&x, weight, n, 1e-6, &mut expected);
        let size = |i: usize| expected[i].abs();
        on_every_pool(&format!("{rows}×{n}"), &expected, size, FEW_ROUNDINGS, |pool, out| {
            out.copy_from_slice(&x);
            cpu::layer_norm_in_place(pool, out, weight, n, 1e-6);
        });
    }

    #[test]
    fn gates((gate, up) in gate_and_up()) {
        let mut expected = vec![f32::NAN; gate.len()];
        reference::silu_mul(&gate, &up, &mut expected);
        let size = |i: usize| expected[i].abs() + 1e-30;
        on_every_pool("silu", &expected, size, WITH_EXP, |pool, out| cpu::silu_mul(pool, &gate, &up, out));
        let mut expected = vec![f32::NAN; gate.len()];
        reference::gelu_tanh_mul(&gate, &up, &mut expected);
        // Far out on the negative side GELU is x·e^(2y): the error of y grows with it.
        let size = |i: usize| expected[i].abs() + (gate[i] * up[i]).abs() * 0.05 + 1e-30;
        on_every_pool("gelu", &expected, size, WITH_EXP, |pool, out| cpu::gelu_tanh_mul(pool, &gate, &up, out));
        let mut expected = gate.clone();
        reference::sigmoid(&mut expected);
        on_every_pool("sigmoid", &expected, |_| 1.0, WITH_EXP, |pool, out| {
            out.copy_from_slice(&gate);
            cpu::sigmoid(pool, out);
        });
    }

    #[test]
    fn clamped_gates((gate, up) in gate_and_up(), limit in 0.1_f32..10.0, alpha in 0.5_f32..2.0) {
        let up: Vec<f32> = up.iter().map(|x| x * 12.0).collect();
        let mut expected = vec![f32::NAN; gate.len()];
        reference::swiglu_clamped_mul(&gate, &up, limit, alpha, &mut expected);
        // The argument of the power of e is rounded first; powers end at e^-87.
        let size = |i: usize| expected[i].abs() * (1.0 + gate[i].abs()) + 1e-27;
        on_every_pool("clamped swiglu", &expected, size, WITH_EXP, |pool, out| {
            cpu::swiglu_clamped_mul(pool, &gate, &up, limit, alpha, out);
        });
    }

    #[test]
    fn softmax((rows, n) in rows(), seed: u64) {
        let x: Vec<f32> = Draw(seed).numbers(rows * n).iter().map(|x| x * 20.0).collect();
        let mut expected = x.clone();
        reference::softmax(&mut expected, n);
        let size = |i: usize| expected[i] + 1e-30;
        on_every_pool(&format!("{rows}×{n}"), &expected, size, 4.0 * WITH_EXP, |pool, out| {
            out.copy_from_slice(&x);
            cpu::softmax(pool, out, n);
        });
    }

    #[test]
    fn rope(
        (tokens, heads, pairs) in (1..80_usize, 1..6_usize, 1..70_usize),
        (offset, rest) in (0..9_usize, 0..9_usize),
        style in prop::sample::select(vec![RopeStyle::Interleaved, RopeStyle::Half]),
        (first, step) in (0..200_000_u32, 0..2000_u32),
        seed: u64,
    ) {
        let shape = RopeShape { heads, dim: offset + 2 * pairs + rest, offset, style };
        let x = Draw(seed).numbers(tokens * heads * shape.dim);
        let frequencies: Vec<f32> = (0..pairs).map(|i| 10_000_f32.powf(-(i as f32) / pairs as f32)).collect();
        let positions: Vec<u32> = (0..tokens as u32).map(|t| first + t * step).collect();
        let mut expected = x.clone();
        reference::rope(&mut expected, shape, &positions, &frequencies, 1.25);
        let mut table = RopeTable::with_capacity(pairs, tokens);
        table.fill(positions.iter().copied(), &frequencies, 1.25);
        prop_assert_eq!(table.tokens(), tokens);
        on_every_pool(&format!("{shape:?}"), &expected, |_| 1.0, FEW_ROUNDINGS, |pool, out| {
            out.copy_from_slice(&x);
            cpu::rope(pool, out, shape, &table);
        });
    }
}

/// Gates from near zero to where powers of e end, and what they open.
fn gate_and_up() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (prop_oneof![1..70_usize, 70..25_000_usize], any::<u64>()).prop_map(|(n, seed)| {
        let mut draw = Draw(seed);
        let mut gate = draw.numbers(n);
        gate.iter_mut().enumerate().for_each(|(i, x)| *x *= [0.01, 1.0, 10.0, 120.0][i % 4]);
        (gate, draw.numbers(n))
    })
}

#[test]
fn sums_and_products_of_vectors() {
    let mut x = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    cpu::add_bias(&mut x, &[10.0, 20.0]);
    cpu::add(&mut x, &[1.0; 6]);
    cpu::scale(&mut x, 0.5);
    assert_eq!(x, [6.0, 11.5, 7.0, 12.5, 8.0, 13.5]);
    cpu::scale_rows(&mut x, &[2.0, 0.0, -1.0], 2);
    assert_eq!(x, [12.0, 23.0, 0.0, 0.0, -8.0, -13.5]);
    cpu::scale_rows(&mut [], &[], 0);
    cpu::scale_rows(&mut [], &[1.0], 0);
}

#[test]
fn a_clamped_gate_does_not_hide_what_is_no_number() {
    let (bad, good) = ([f32::NAN; 17], [1.0; 17]);
    for (_, pools) in common::pools() {
        for (gate, up) in [(&bad, &good), (&good, &bad)] {
            let mut out = [0.0; 17];
            cpu::swiglu_clamped_mul(&pools[0], gate, up, 7.0, 1.702, &mut out);
            assert!(out.iter().all(|x| x.is_nan()));
        }
    }
}
