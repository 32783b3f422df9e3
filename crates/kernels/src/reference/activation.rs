//! Functions of one number, and softmax.

use crate::cpu::OutputGate;

/// `out = gate · sigmoid(gate) · up`: `SwiGLU`'s inner part.
pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        let gate = f64::from(*gate);
        *out = (gate / (1.0 + (-gate).exp()) * f64::from(*up)) as f32;
    }
}

/// `out = gelu(gate) · up` with the tanh form of GELU:
/// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))` (Hendrycks and Gimpel, 2016).
pub fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        let x = f64::from(*gate);
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        *out = (0.5 * x * (1.0 + inner.tanh()) * f64::from(*up)) as f32;
    }
}

/// `out = g·sigmoid(alpha·g)·(u + 1)` with g = min(gate, limit) and u = up clamped to ±limit (gpt-oss).
pub fn swiglu_clamped_mul(gate: &[f32], up: &[f32], limit: f32, alpha: f32, out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        let (gate, up) = (f64::from(gate.min(limit)), f64::from(up.clamp(-limit, limit)));
        *out = (gate / (1.0 + (-f64::from(alpha) * gate).exp()) * (up + 1.0)) as f32;
    }
}

/// Each number becomes `1 / (1 + exp(−x))`.
pub fn sigmoid(x: &mut [f32]) {
    for x in x {
        *x = (1.0 / (1.0 + (-f64::from(*x)).exp())) as f32;
    }
}

/// As [`cpu::gate_rows`](crate::cpu::gate_rows).
pub fn gate_rows(kind: OutputGate, x: &mut [f32], gates: &[f32], width: usize, step: usize, offset: usize) {
    for (i, x) in x.iter_mut().enumerate() {
        let gate = f64::from(gates[i / width * step + offset + i % width]);
        let sigmoid = 1.0 / (1.0 + (-gate).exp());
        let factor = if kind == OutputGate::Silu { gate * sigmoid } else { sigmoid };
        *x = (f64::from(*x) * factor) as f32;
    }
}

/// Each row of `n` numbers becomes `exp(x − max) / Σ exp(x − max)`.
pub fn softmax(x: &mut [f32], n: usize) {
    for row in x.chunks_exact_mut(n) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|v| (f64::from(*v) - f64::from(max)).exp()).collect();
        let sum: f64 = powers.iter().sum();
        for (x, power) in row.iter_mut().zip(powers) {
            *x = (power / sum) as f32;
        }
    }
}
