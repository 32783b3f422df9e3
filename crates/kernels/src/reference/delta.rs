//! Gated delta nets: a short convolution, decays, and the delta rule.

use crate::cpu::{DeltaInputs, DeltaShape, HeadOrder};

/// As [`cpu::short_conv`](crate::cpu::short_conv).
pub fn short_conv(x: &mut [f32], weight: &[f32], taps: usize, tail: &mut [f32]) {
    let channels = weight.len() / taps;
    let inputs: Vec<f32> = tail.iter().chain(x.iter()).copied().collect();
    for (i, out) in x.iter_mut().enumerate() {
        let (token, channel) = (i / channels, i % channels);
        let tap =
            |j: usize| f64::from(weight[channel * taps + j]) * f64::from(inputs[(token + j) * channels + channel]);
        let sum: f64 = (0..taps).map(tap).sum();
        *out = (sum / (1.0 + (-sum).exp())) as f32;
    }
    tail.copy_from_slice(&inputs[x.len()..]);
}

/// As [`cpu::decays`](crate::cpu::decays).
pub fn decays(x: &mut [f32], rates: &[f32], numbers: usize) {
    for (i, x) in x.iter_mut().enumerate() {
        let rate = f64::from(rates[i / numbers % rates.len()]);
        *x = (rate * f64::from(*x).exp().ln_1p()).exp() as f32;
    }
}

/// As [`cpu::gated_delta`](crate::cpu::gated_delta), the state in place.
pub fn gated_delta(shape: &DeltaShape, inputs: &DeltaInputs, state: &mut [f32], out: &mut [f32]) {
    let DeltaShape { heads, key_heads, key, value, order } = *shape;
    let decays = inputs.decay.len() / inputs.beta.len();
    let mut kept: Vec<f64> = state.iter().map(|x| f64::from(*x)).collect();
    for (i, beta) in inputs.beta.iter().enumerate() {
        let (token, head) = (i / heads, i % heads);
        let key_head = match order {
            HeadOrder::Grouped => head / (heads / key_heads),
            HeadOrder::Tiled => head % key_heads,
        };
        let at = (token * key_heads + key_head) * key;
        let (q, k) = (&inputs.q[at..at + key], &inputs.k[at..at + key]);
        let matrix = &mut kept[head * key * value..(head + 1) * key * value];
        for (row, x) in matrix.iter_mut().enumerate() {
            *x *= f64::from(inputs.decay[i * decays + row / value % decays]);
        }
        for column in 0..value {
            let product = |matrix: &[f64], by: &[f32]| -> f64 {
                (0..key).map(|row| matrix[row * value + column] * f64::from(by[row])).sum()
            };
            let wrong = f64::from(inputs.v[i * value + column]) - product(matrix, k);
            for row in 0..key {
                matrix[row * value + column] += f64::from(k[row]) * wrong * f64::from(*beta);
            }
            out[i * value + column] = (product(matrix, q) / (key as f64).sqrt()) as f32;
        }
    }
    state.iter_mut().zip(kept).for_each(|(state, kept)| *state = kept as f32);
}
