//! Rotary position embedding.

use crate::cpu::{RopeShape, RopeStyle};

/// Rotates pairs of each head by `position · frequency`: `x` is tokens × heads × dim.
///
/// Source: Su et al., "`RoFormer`", 2021; `attention_factor` multiplies cosine and sine as `YaRN` has it.
pub fn rope(x: &mut [f32], shape: RopeShape, positions: &[u32], frequencies: &[f32], attention_factor: f32) {
    let pairs = frequencies.len();
    for (token, position) in x.chunks_exact_mut(shape.heads * shape.dim).zip(positions) {
        for head in token.chunks_exact_mut(shape.dim) {
            let part = &mut head[shape.offset..shape.offset + 2 * pairs];
            for (i, frequency) in frequencies.iter().enumerate() {
                let (a, b) = match shape.style {
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                    RopeStyle::Half => (i, i + pairs),
                };
                let (sin, cos) = (f64::from(*position) * f64::from(*frequency)).sin_cos();
                let (sin, cos) = (sin * f64::from(attention_factor), cos * f64::from(attention_factor));
                let (x, y) = (f64::from(part[a]), f64::from(part[b]));
                part[a] = (x * cos - y * sin) as f32;
                part[b] = (x * sin + y * cos) as f32;
            }
        }
    }
}
