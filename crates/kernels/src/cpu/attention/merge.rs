//! What several runs gave becomes one result.

use crate::cpu::simd::{LANES, Simd};

/// How much the values that a query gathered count: they are summed with powers of their scores relative to `max`, and
/// these powers' sum is `sum`.
#[derive(Clone, Copy)]
pub(super) struct Weight {
    pub(super) max: f32,
    pub(super) sum: f32,
}

impl Weight {
    /// Of a query that has seen no position yet, with its head's sink: a score that carries no value.
    #[inline(always)]
    pub(super) fn start(sink: Option<f32>) -> Self {
        match sink {
            None => Self { max: f32::NEG_INFINITY, sum: 0.0 },
            // One that is no number makes the output none.
            Some(sink) => Self { max: sink, sum: if sink.is_nan() { sink } else { 1.0 } },
        }
    }

    /// Adds what another run gave to what `out` holds with this weight.
    #[inline(always)]
    pub(super) fn merge<S: Simd>(&mut self, s: S, out: &mut [f32], other: Self, values: &[f32]) {
        if other.sum == 0.0 {
            return;
        }
        let max = self.max.max(other.max);
        let power = |x: f32| if x == max { 1.0 } else { (x - max).exp() };
        let (mine, theirs) = (power(self.max), power(other.max));
        *self = Self { max, sum: self.sum * mine + other.sum * theirs };
        let (whole, rest) = out.as_chunks_mut::<LANES>();
        let (values, more) = values.as_chunks::<LANES>();
        for (out, values) in whole.iter_mut().zip(values) {
            let theirs = s.mul(s.load(values), s.splat(theirs));
            s.store(s.mul_add(s.load(out), s.splat(mine), theirs), out);
        }
        let more = values.get(whole.len()).map_or(more, <[f32; LANES]>::as_slice);
        for (out, value) in rest.iter_mut().zip(more) {
            *out = *out * mine + value * theirs;
        }
    }

    /// Values of this weight become their mean.
    #[inline(always)]
    pub(super) fn finish(self, out: &mut [f32]) {
        if self.sum != 0.0 {
            let factor = 1.0 / self.sum;
            for x in out {
                *x *= factor;
            }
        }
    }
}
