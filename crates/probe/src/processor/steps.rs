//! What a layer does on the processor beside products: jobs that do nothing, vectors, choices of experts, and attention.

use std::time::Instant;

use kernels::cpu::{
    Activations, AttentionShape, Gate, KvStore, Pool, RopeShape, RopeStyle, RopeTable, Routing, add, attention,
    rms_norm, rope, route, silu_mul,
};
use plan::KvType;
use plan::processor::{ATTENTION_WASTE, AttentionRates, Vectors};

use super::{median, usual};
use crate::ProbeError;
use crate::measure::RUNS;

/// Tokens of a prompt, and the numbers of each whose vectors are measured: as a pass has them, more than a core's own cache holds.
const TOKENS: usize = 256;
const NUMBERS: usize = 8192;

/// Seconds of `run`, again and again for a while.
fn timed(mut run: impl FnMut()) -> f64 {
    const TIMES: u32 = 4;
    usual(RUNS, || {
        let started = Instant::now();
        (0..TIMES).for_each(|_| run());
        started.elapsed().as_secs_f64() / f64::from(TIMES)
    })
}

/// Seconds of a job for all threads that does nothing.
pub(super) fn step(pool: &Pool) -> f64 {
    const JOBS: u32 = 200;
    let tasks = 2 * pool.threads();
    timed(|| (0..JOBS).for_each(|_| pool.run(tasks, &|_| ()))) / f64::from(JOBS)
}

/// Numbers between −1.8 and 1.8.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i % 37) as f32 - 18.0) * 0.1).collect()
}

pub(super) fn vectors(pool: &Pool) -> Result<Vectors, ProbeError> {
    let x = numbers(TOKENS * NUMBERS);
    let (y, mut out) = (x.clone(), x.clone());
    let each = |seconds: f64| seconds / x.len() as f64;
    let weight = vec![1.0; NUMBERS];
    let norm_s = each(timed(|| rms_norm(pool, &x, Some(&weight), NUMBERS, 1e-5, &mut out)));
    let add_s = each(timed(|| add(&mut out, &x)));
    let activate_s = each(timed(|| silu_mul(pool, &x, &y, &mut out)));
    let mut rounded = Activations::default();
    let round_s = each(timed(|| rounded.quantize(pool, &x, NUMBERS)));
    let dim = 64;
    let frequencies: Vec<f32> = (1..=dim / 2).map(|i| 1.0 / i as f32).collect();
    let mut turns = RopeTable::default();
    turns.fill(0..TOKENS as u32, &frequencies, 1.0);
    let shape = RopeShape { heads: NUMBERS / dim, dim, offset: 0, style: RopeStyle::Interleaved };
    let turn_s = each(timed(|| rope(pool, &mut out, shape, &turns)));
    let mut store = KvStore::try_new(KvType::F16, NUMBERS / dim, dim, TOKENS)?;
    let keep_s = each(timed(|| {
        for (position, row) in x.chunks_exact(NUMBERS).enumerate() {
            store.write(position, row);
        }
    }));
    Ok(Vectors { norm_s, add_s, round_s, activate_s, turn_s, keep_s, choose_s: choose_s() })
}

/// The middle of each figure of several.
pub(super) fn middle(all: &[Vectors]) -> Vectors {
    let of = |figure: fn(&Vectors) -> f64| median(all.iter().map(figure));
    Vectors {
        norm_s: of(|v| v.norm_s),
        add_s: of(|v| v.add_s),
        round_s: of(|v| v.round_s),
        activate_s: of(|v| v.activate_s),
        turn_s: of(|v| v.turn_s),
        keep_s: of(|v| v.keep_s),
        choose_s: of(|v| v.choose_s),
    }
}

/// The same of attention's.
pub(super) fn middle_attention(all: &[AttentionRates]) -> AttentionRates {
    let of = |figure: fn(&AttentionRates) -> f64| median(all.iter().map(figure));
    AttentionRates {
        operations_per_s: of(|a| a.operations_per_s),
        score_s: of(|a| a.score_s),
        unpack_s: of(|a| a.unpack_s),
        use_s: of(|a| a.use_s),
        start_s: of(|a| a.start_s),
    }
}

/// Eight of 128 experts for each token, as mixtures choose today.
fn choose_s() -> f64 {
    let (experts, used) = (128, 8);
    let routing = Routing {
        experts,
        used,
        gate: Gate::Softmax,
        groups: 1,
        groups_used: 1,
        group_best: 1,
        normalize: true,
        scale: 1.0,
    };
    let logits = numbers(experts * TOKENS);
    let (mut chosen, mut weights) = (vec![0; used * TOKENS], vec![0.0; used * TOKENS]);
    timed(|| route(&routing, &logits, None, &mut chosen, &mut weights)) / logits.len() as f64
}

/// Attention: a prompt of 256 tokens with heads of 64 and 128 numbers, and a token after 2000 others with 128 by two numbers of heads that share
/// keys.
pub(super) fn attention_rates(pool: &Pool) -> Result<AttentionRates, ProbeError> {
    let (heads, dim, positions) = (32, 128, 2048);
    let queries = numbers(TOKENS * heads * dim);
    let mut out = vec![0.0; queries.len()];
    let mut once = |dim: usize, kv_heads: usize, first: usize, tokens: usize| {
        let mut store = KvStore::try_new(KvType::F16, kv_heads, dim, positions)?;
        for position in 0..first + tokens {
            store.write(position, &queries[..kv_heads * dim]);
        }
        let shape = AttentionShape { heads, kv_heads, dim_k: dim, dim_v: dim, scale: 0.1, window: None, softcap: None };
        let (queries, out) = (&queries[..tokens * heads * dim], &mut out[..tokens * heads * dim]);
        Ok::<_, ProbeError>(timed(|| attention(pool, &shape, queries, &store, &store, first, None, out)))
    };
    let scores = (heads * TOKENS) as f64 * (TOKENS as f64 / 2.0 + ATTENTION_WASTE);
    let [narrow, wide] = [once(dim / 2, heads / 4, 0, TOKENS)? / scores, once(dim, heads / 4, 0, TOKENS)? / scores];
    // Half as many numbers take half as long, but for what a score takes by itself: less than the whole of the narrower ones.
    let score_s = (2.0 * narrow - wide).clamp(0.0, narrow);
    let operations_per_s = (4 * dim) as f64 / (wide - score_s).max(wide / 2.0);
    let first = positions - 48;
    let numbers = |kv_heads: usize| (2 * kv_heads * dim) as f64 * (first as f64 + ATTENTION_WASTE);
    let [alone, shared] =
        [once(dim, heads, first, 1)? / numbers(heads), once(dim, heads / 8, first, 1)? / numbers(heads / 8)];
    let use_s = ((shared - alone) / 7.0).max(0.0);
    let unpack_s = (alone - use_s).max(0.0);
    // What a few positions do not explain.
    let few = 16;
    let of_few = (2 * heads * dim) as f64 * (few as f64 + ATTENTION_WASTE) * (unpack_s + use_s);
    let start_s = ((once(dim, heads, few, 1)? - of_few) / heads as f64).max(0.0);
    Ok(AttentionRates { operations_per_s, score_s, unpack_s, use_s, start_s })
}
