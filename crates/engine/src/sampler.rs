//! Chooses a token from logits.
//!
//! The chain is the one that llama.cpp's users know: repeat penalty, top-k, top-p, min-p, temperature, a draw. Owns its
//! random numbers, so that a seed repeats a text. Must never know a vocabulary's words.

/// How tokens are chosen. The default is greedy with everything off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; larger values flatten the distribution.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by this where positive and multiplied where negative; 1 is off
    /// (<https://arxiv.org/abs/1909.05858>, section 4.1).
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last_n: usize,
    /// The seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, repeat_last_n: 64, seed: 0 }
    }
}

/// A chooser of tokens, with the state of its draws.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    /// Logits with the penalty worked in.
    penalized: Vec<f32>,
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler at the start of its seed's sequence.
    #[must_use]
    pub const fn new(sampling: Sampling) -> Self {
        Self { sampling, state: sampling.seed, penalized: Vec::new(), candidates: Vec::new() }
    }

    /// The next token after `history`. Ties go to the lower id. `logits` must be finite and not empty.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n, .. } = self.sampling;
        let mut penalized = std::mem::take(&mut self.penalized);
        let mut logits = logits;
        if repeat_penalty.to_bits() != 1f32.to_bits() {
            penalized.clear();
            penalized.extend_from_slice(logits);
            penalize(&mut penalized, &history[history.len().saturating_sub(repeat_last_n)..], repeat_penalty);
            logits = &penalized;
        }
        let token = if temperature <= 0.0 {
            likeliest(logits)
        } else {
            let mut candidates = std::mem::take(&mut self.candidates);
            take_top_k(logits, top_k, &mut candidates);
            softmax(&mut candidates, 1.0);
            keep_top_p(&mut candidates, top_p);
            keep_min_p(&mut candidates, min_p);
            // Probabilities to the power 1/T are the softmax of logits divided by T, up to their sum.
            for (_, p) in &mut candidates {
                *p = p.max(f32::MIN_POSITIVE).ln();
            }
            softmax(&mut candidates, temperature);
            let token = draw(&candidates, self.uniform());
            self.candidates = candidates;
            token
        };
        self.penalized = penalized;
        token
    }

    /// A number in [0, 1) by `SplitMix64` (<https://doi.org/10.1145/2714064.2660195>).
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

fn penalize(logits: &mut [f32], recent: &[u32], penalty: f32) {
    for (i, &token) in recent.iter().enumerate() {
        if recent[..i].contains(&token) {
            continue;
        }
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// The first of the highest. A quarter of a million logits are looked through for each token, so it goes by lanes.
fn likeliest(logits: &[f32]) -> u32 {
    const LANES: usize = 16;
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in whole {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, *logit);
        }
    }
    let highest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, higher);
    logits.iter().position(|logit| *logit >= highest).unwrap_or(0) as u32
}

/// The `k` likeliest tokens, all of them where `k` is 0, from likeliest down.
fn take_top_k(logits: &[f32], k: usize, candidates: &mut Vec<(u32, f32)>) {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let all = (0u32..).zip(logits.iter().copied());
    candidates.clear();
    if k == 0 || k >= logits.len() {
        candidates.extend(all);
    } else {
        // Few logits are as high as the k-th best so far: whatever is gets in, and once that are many the best are kept.
        let (most, mut least) = (4 * k.max(64), f32::NEG_INFINITY);
        for candidate in all {
            if candidate.1 < least {
                continue;
            }
            candidates.push(candidate);
            if candidates.len() == most {
                candidates.select_nth_unstable_by(k - 1, order);
                candidates.truncate(k);
                least = candidates[k - 1].1;
            }
        }
        if candidates.len() > k {
            candidates.select_nth_unstable_by(k - 1, order);
            candidates.truncate(k);
        }
    }
    candidates.sort_unstable_by(order);
}

fn softmax(candidates: &mut [(u32, f32)], temperature: f32) {
    let highest = candidates.first().map_or(0.0, |c| c.1);
    let mut sum = 0.0;
    for (_, x) in candidates.iter_mut() {
        *x = ((*x - highest) / temperature).exp();
        sum += *x;
    }
    for (_, x) in candidates {
        *x /= sum;
    }
}

fn keep_top_p(candidates: &mut Vec<(u32, f32)>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let mut sum = 0.0;
    let reached = candidates.iter().position(|(_, p)| {
        sum += p;
        sum >= top_p
    });
    candidates.truncate(reached.map_or(candidates.len(), |last| last + 1));
}

fn keep_min_p(candidates: &mut Vec<(u32, f32)>, min_p: f32) {
    let floor = candidates.first().map_or(0.0, |c| c.1 * min_p);
    let kept = candidates.partition_point(|(_, p)| *p >= floor);
    candidates.truncate(kept.max(1));
}

fn draw(candidates: &[(u32, f32)], uniform: f32) -> u32 {
    let mut left = uniform;
    for (token, p) in candidates {
        left -= p;
        if left < 0.0 {
            return *token;
        }
    }
    candidates.last().map_or(0, |(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 1.0, 3.0, -1.0];

    fn many(sampling: Sampling, draws: usize) -> [usize; 5] {
        let mut sampler = Sampler::new(sampling);
        let mut counts = [0; 5];
        for _ in 0..draws {
            counts[sampler.sample(&LOGITS, &[]) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(Sampler::new(Sampling::default()).sample(&LOGITS, &[]), 1);
    }

    #[test]
    fn a_penalty_moves_greedy_off_what_was_said() {
        let sampling = Sampling { repeat_penalty: 1.5, ..Sampling::default() };
        assert_eq!(Sampler::new(sampling).sample(&LOGITS, &[1, 1]), 3);
        let short = Sampling { repeat_last_n: 1, ..sampling };
        assert_eq!(Sampler::new(short).sample(&LOGITS, &[1, 2]), 1, "only the last token is looked at");
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
        assert_eq!(many(sampling, 200), many(sampling, 200));
        assert_ne!(many(sampling, 200), many(Sampling { seed: 8, ..sampling }, 200));
    }

    #[test]
    fn draws_follow_the_softmax() {
        let counts = many(Sampling { temperature: 1.0, ..Sampling::default() }, 20_000);
        // e^3 / (2 e^3 + e + 1 + 1/e) = 0.453
        assert!((8_600..9_500).contains(&counts[1]), "{counts:?}");
        assert!((20..260).contains(&counts[4]), "{counts:?}");
    }

    #[test]
    fn each_cut_keeps_what_it_says() {
        let hot = Sampling { temperature: 5.0, ..Sampling::default() };
        let kept = |s| many(s, 2_000).map(|n| n > 0);
        assert_eq!(kept(Sampling { top_k: 2, ..hot }), [false, true, false, true, false]);
        assert_eq!(kept(Sampling { top_k: 1, ..hot }), [false, true, false, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.4, ..hot }), [false, true, false, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.9, ..hot }), [false, true, false, true, false]);
        assert_eq!(kept(Sampling { min_p: 0.1, ..hot }), [false, true, true, true, false]);
        assert_eq!(kept(hot), [true; 5]);
    }

    #[test]
    fn the_best_of_many_are_those_of_a_sort() {
        // Few different logits, so that many are equal; rising ones, so that all get in.
        let noisy: Vec<f32> = (0..5_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as f32).collect();
        let rising: Vec<f32> = (0..5_000u16).map(f32::from).collect();
        for logits in [noisy, rising] {
            let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            assert_eq!(likeliest(&logits), sorted[0].0);
            for k in [0, 1, 40, 300, 4_999, 5_000, 6_000] {
                let mut best = Vec::new();
                take_top_k(&logits, k, &mut best);
                assert_eq!(best, sorted[..if k == 0 { 5_000 } else { k.min(5_000) }], "{k}");
            }
        }
    }
}
