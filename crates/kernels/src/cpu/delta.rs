//! Gated delta nets: a short convolution, decays, and the recurrence over a matrix for each head.
//!
//! Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024, <https://arxiv.org/abs/2412.06464>; a decay for each
//! number of a key: Kimi Team, "Kimi Linear", 2025, <https://arxiv.org/abs/2510.26692>. Tokens are taken one after another,
//! so results do not depend on how a sequence was cut.

use super::Pool;
use super::activation::{load, sigmoid_lanes, store};
use super::isa::Kernel;
use super::outputs::Scattered;
use super::simd::{LANES, Lanes, Simd};

/// The longest convolution of [`short_conv`].
pub const TAPS_MAX: usize = 8;
/// Channels of one task of a convolution.
const TASK_CHANNELS: usize = 4 * LANES;
/// Numbers of one task of [`decays`]: each takes a power and a logarithm.
const TASK_NUMBERS: usize = 1024;
/// Vectors of a state's columns that are taken together.
const COLUMNS: usize = 4;

/// A causal convolution of each channel over time, with `SiLU`, in place:
/// `x[t][c] = silu(Σ_j weight[c][j] · x[t − taps + 1 + j][c])`.
///
/// `x` is tokens × channels, `weight` channels × taps. What came before the first token stands in `tail`, (taps − 1) ×
/// channels, the oldest first; afterwards it holds the last inputs.
///
/// # Panics
/// Where lengths do not fit, or there are more taps than [`TAPS_MAX`] or none.
pub fn short_conv(pool: &Pool, x: &mut [f32], weight: &[f32], taps: usize, tail: &mut [f32]) {
    assert!(0 < taps && taps <= TAPS_MAX && weight.len().is_multiple_of(taps), "{} weights, {taps} taps", weight.len());
    let channels = weight.len() / taps;
    assert!(channels > 0 && x.len().is_multiple_of(channels), "{} numbers in {channels} channels", x.len());
    assert_eq!(tail.len(), (taps - 1) * channels, "the tail of {taps} taps in {channels} channels");
    let (x, tail) = (&Scattered::new(x), &Scattered::new(tail));
    pool.run(channels.div_ceil(TASK_CHANNELS), &|i| {
        let start = i * TASK_CHANNELS;
        for first in (start..channels.min(start + TASK_CHANNELS)).step_by(LANES) {
            let count = LANES.min(channels - first);
            pool.isa().run(Conv { x, tail, weight, taps, channels, first, count });
        }
    });
}

/// The convolution of `count` channels from `first` on, at most a vector of them.
struct Conv<'a> {
    x: &'a Scattered<'a>,
    tail: &'a Scattered<'a>,
    weight: &'a [f32],
    taps: usize,
    channels: usize,
    first: usize,
    count: usize,
}

impl Kernel for Conv<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { taps, channels, first, count, .. } = self;
        let mut weights = [s.splat(0.0); TAPS_MAX];
        let mut window = [s.splat(0.0); TAPS_MAX];
        for (j, weights) in weights.iter_mut().enumerate().take(taps) {
            let mut lanes: Lanes = [0.0; LANES];
            for (lane, channel) in lanes.iter_mut().zip(self.weight[first * taps..].chunks_exact(taps)).take(count) {
                *lane = channel[j];
            }
            *weights = s.load(&lanes);
        }
        for (j, window) in window.iter_mut().enumerate().take(taps - 1) {
            // SAFETY: each task has channels of its own.
            *window = load(s, unsafe { self.tail.slice(j * channels + first, count) });
        }
        for token in 0..self.x.len() / channels {
            // SAFETY: as above.
            let x = unsafe { self.x.slice(token * channels + first, count) };
            window[taps - 1] = load(s, x);
            let mut sum = s.mul(weights[0], window[0]);
            for j in 1..taps {
                sum = s.mul_add(weights[j], window[j], sum);
                window[j - 1] = window[j];
            }
            store(s, s.mul(sum, sigmoid_lanes(s, sum)), x);
        }
        for (j, window) in window.into_iter().enumerate().take(taps - 1) {
            // SAFETY: as above.
            store(s, window, unsafe { self.tail.slice(j * channels + first, count) });
        }
    }
}

/// `x = exp(rate · softplus(x))`: by how much states fade. Each rate, negative, is that of a head of `numbers` numbers; `x`
/// is tokens × heads × numbers.
///
/// # Panics
/// Where `x` is not whole tokens.
pub fn decays(pool: &Pool, x: &mut [f32], rates: &[f32], numbers: usize) {
    let width = rates.len() * numbers;
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers are not tokens of {width}", x.len());
    pool.run_pieces(x, TASK_NUMBERS, &|piece, x| {
        for (i, x) in (piece * TASK_NUMBERS..).zip(x) {
            // ln(1 + e^x), without a power that overflows.
            let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
            *x = (rates[i / numbers % rates.len()] * softplus).exp();
        }
    });
}

/// Which head of keys a head of values goes with, where there are more of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadOrder {
    /// Neighbours share one: head h goes with h / (heads / key heads).
    Grouped,
    /// They take turns: head h goes with h mod key heads.
    Tiled,
}

/// The sizes of a gated delta net.
#[derive(Clone, Copy, Debug)]
pub struct DeltaShape {
    /// Heads of values, each with a state of its own.
    pub heads: usize,
    /// Heads of queries and keys; a divisor of `heads`.
    pub key_heads: usize,
    /// Numbers of a head's query and key.
    pub key: usize,
    /// Numbers of a head's value.
    pub value: usize,
    /// Which of them go together.
    pub order: HeadOrder,
}

/// What each token brings to a state.
#[derive(Clone, Copy, Debug)]
pub struct DeltaInputs<'a> {
    /// Queries, tokens × key heads × key.
    pub q: &'a [f32],
    /// Keys, as long as queries.
    pub k: &'a [f32],
    /// Values, tokens × heads × value.
    pub v: &'a [f32],
    /// What states are multiplied with: tokens × heads, or tokens × heads × key, a factor for each of a state's rows.
    pub decay: &'a [f32],
    /// How much of a correction is written, tokens × heads.
    pub beta: &'a [f32],
}

/// The gated delta rule. For every token and head, with the state S (key × value), it fades, is corrected so that it
/// answers `k` by `v`, and answers `q`:
///
/// ```text
/// S = decay · S      S += k (beta · (v − Sᵀk))ᵀ      out = Sᵀq / √key
/// ```
///
/// `state` holds heads × key × value numbers. They start as what `before` holds, where that is given, and else as they are.
/// `out` is tokens × heads × value.
///
/// # Panics
/// Where lengths and sizes do not fit each other.
pub fn gated_delta(
    pool: &Pool,
    shape: &DeltaShape,
    inputs: &DeltaInputs,
    before: Option<&[f32]>,
    state: &mut [f32],
    out: &mut [f32],
) {
    let DeltaShape { heads, key_heads, key, value, .. } = *shape;
    assert!(key_heads > 0 && heads > 0 && heads.is_multiple_of(key_heads), "{heads} heads over {key_heads}");
    assert!(key > 0 && value > 0, "heads of {key} and {value}");
    let DeltaInputs { q, k, v, decay, beta } = *inputs;
    let tokens = beta.len() / heads;
    assert_eq!(beta.len(), tokens * heads, "beta");
    assert!(
        q.len() == tokens * key_heads * key && k.len() == q.len(),
        "{} and {} of queries and keys",
        q.len(),
        k.len()
    );
    assert!(v.len() == beta.len() * value && out.len() == v.len(), "{} of values, {} of outputs", v.len(), out.len());
    assert!(decay.len() == beta.len() || decay.len() == beta.len() * key, "{} decays", decay.len());
    assert!(state.len() == heads * key * value && before.is_none_or(|b| b.len() == state.len()), "the state's length");
    let decays = decay.len() / beta.len().max(1);
    let (state, out) = (&Scattered::new(state), &Scattered::new(out));
    pool.run(heads, &|head| {
        let matrix = head * key * value;
        // SAFETY: each head has a state of its own, and a task of its own.
        let state = unsafe { state.slice(matrix, key * value) };
        if let Some(before) = before {
            state.copy_from_slice(&before[matrix..matrix + key * value]);
        }
        pool.isa().run(Sequence { shape, inputs, decays, head, state, out });
    });
}

/// All tokens of one head.
struct Sequence<'a> {
    shape: &'a DeltaShape,
    inputs: &'a DeltaInputs<'a>,
    /// Decays of a token.
    decays: usize,
    head: usize,
    state: &'a mut [f32],
    out: &'a Scattered<'a>,
}

impl Kernel for Sequence<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut column = 0;
        while column < self.shape.value {
            let left = self.shape.value - column;
            if left >= COLUMNS * LANES {
                self.columns::<S, COLUMNS>(s, column, COLUMNS * LANES);
                column += COLUMNS * LANES;
            } else {
                self.columns::<S, 1>(s, column, left.min(LANES));
                column += LANES;
            }
        }
    }
}

impl Sequence<'_> {
    /// All tokens over `width` columns from `first` on, which are N vectors or a part of one. A column of the state needs no
    /// other.
    #[inline(always)]
    fn columns<S: Simd, const N: usize>(&mut self, s: S, first: usize, width: usize) {
        let DeltaShape { heads, key_heads, key, value, order } = *self.shape;
        let key_head = match order {
            HeadOrder::Grouped => self.head / (heads / key_heads),
            HeadOrder::Tiled => self.head % key_heads,
        };
        let scale = 1.0 / (key as f32).sqrt();
        for token in 0..self.inputs.beta.len() / heads {
            let place = token * heads + self.head;
            let at = (token * key_heads + key_head) * key;
            let (q, k) = (&self.inputs.q[at..at + key], &self.inputs.k[at..at + key]);
            // One decay holds for all rows, or each row has its own.
            let (decay, last) = (&self.inputs.decay[place * self.decays..][..self.decays], self.decays - 1);
            let mut known = [s.splat(0.0); N];
            for (row, k) in k.iter().enumerate() {
                let factor = s.splat(k * decay[row.min(last)]);
                let state = &self.state[row * value + first..][..width];
                for (known, state) in known.iter_mut().zip(state.chunks(LANES)) {
                    *known = s.mul_add(factor, load(s, state), *known);
                }
            }
            let (beta, v) = (s.splat(self.inputs.beta[place]), &self.inputs.v[place * value + first..][..width]);
            let mut corrections = known;
            for (correction, v) in corrections.iter_mut().zip(v.chunks(LANES)) {
                *correction = s.mul(s.sub(load(s, v), *correction), beta);
            }
            let mut answers = [s.splat(0.0); N];
            for (row, (k, q)) in k.iter().zip(q).enumerate() {
                let (decay, k, q) = (s.splat(decay[row.min(last)]), s.splat(*k), s.splat(q * scale));
                let state = &mut self.state[row * value + first..][..width];
                let sums = answers.iter_mut().zip(&corrections);
                for ((answer, correction), state) in sums.zip(state.chunks_mut(LANES)) {
                    let new = s.mul_add(k, *correction, s.mul(decay, load(s, state)));
                    *answer = s.mul_add(q, new, *answer);
                    store(s, new, state);
                }
            }
            // SAFETY: each task has a head of its own.
            let out = unsafe { self.out.slice(place * value + first, width) };
            for (answer, out) in answers.into_iter().zip(out.chunks_mut(LANES)) {
                store(s, answer, out);
            }
        }
    }
}
