//! What a policy would have done with a recorded trace: how many experts it would have found in RAM.
//!
//! Owns the count. Nothing is read and no time passes: a trace, the places of each layer and a rule give hits and bytes.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Policy, Uses};
use crate::Bytes;
use crate::expert_use::{ExpertTrace, TracedPass};

/// The experts of one layer, as a replay begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerStart {
    /// By expert, whether it is in RAM.
    pub resident: Vec<bool>,
    /// Bytes of one expert.
    pub expert: Bytes,
}

/// How a trace is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Replay {
    /// By a policy that knows the past only.
    Policy(Policy),
    /// With the places held by those that the trace uses most, which nobody knows beforehand, for good.
    MostUsed,
    /// As well as can be: each place goes to the expert that will be used soonest (L. A. Belady, "A study of replacement algorithms for
    /// a virtual-storage computer", 1966, <https://doi.org/10.1147/sj.52.0078>). Experts need not have a place to be computed with, so one that
    /// will not be used for long takes none. The bound of all policies with as many places.
    Optimal,
}

/// What a replay came to, for passes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tokens that went through the layers, each counted in every layer.
    pub tokens: u64,
    /// Experts that were in RAM when a pass chose them, one for each pass however many of its tokens did.
    pub hits: u64,
    /// Experts that were not.
    pub misses: u64,
    /// Bytes of those.
    pub read: Bytes,
}

impl Tally {
    /// The share of hits, from 0 to 1.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / ((self.hits + self.misses).max(1)) as f64
    }
}

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Passes of several tokens: prompts.
    pub prompt: Tally,
    /// Passes of one token.
    pub decode: Tally,
}

/// Replays `trace` over `layers`, by number. Passes through other layers are not counted, nor experts that a layer has not.
#[must_use]
pub fn replay(trace: &ExpertTrace, layers: &BTreeMap<u32, LayerStart>, by: Replay) -> Replayed {
    let mut replayed = Replayed::default();
    for (number, start) in layers {
        let passes: Vec<TracedPass<'_>> = trace.passes().filter(|pass| pass.layer == *number).collect();
        let mut found = |pass: &TracedPass<'_>, hits: u64| {
            let tally = if pass.tokens > 1 { &mut replayed.prompt } else { &mut replayed.decode };
            let misses = within(pass, &start.resident).count() as u64 - hits;
            tally.tokens += u64::from(pass.tokens);
            tally.hits += hits;
            tally.misses += misses;
            tally.read += start.expert.times(misses);
        };
        match by {
            Replay::Policy(policy) => by_policy(&passes, start.resident.clone(), policy, &mut found),
            Replay::MostUsed => by_policy(&passes, most_used(&passes, &start.resident), Policy::Fixed, &mut found),
            Replay::Optimal => optimal(&passes, start.resident.clone(), &mut found),
        }
    }
    replayed
}

type Found<'a> = dyn FnMut(&TracedPass<'_>, u64) + 'a;

fn by_policy(passes: &[TracedPass<'_>], mut resident: Vec<bool>, policy: Policy, found: &mut Found) {
    let mut uses = Uses::new(policy, resident.len());
    for pass in passes {
        uses.begin();
        let mut missing = Vec::new();
        for expert in within(pass, &resident) {
            uses.count(expert);
            if !resident[expert] {
                missing.push(expert);
            }
        }
        found(pass, (within(pass, &resident).count() - missing.len()) as u64);
        for coming in missing {
            let holders = (0..resident.len()).filter(|expert| resident[*expert]);
            let Some(leaves) = uses.leaves(holders, coming) else { continue };
            (resident[leaves], resident[coming]) = (false, true);
        }
    }
}

/// The experts of a pass that the layer has.
fn within<'a>(pass: &TracedPass<'a>, resident: &[bool]) -> impl Iterator<Item = usize> + use<'a> {
    let experts = resident.len();
    pass.experts.iter().map(|expert| *expert as usize).filter(move |expert| *expert < experts)
}

/// As many as are resident, those of most passes.
fn most_used(passes: &[TracedPass<'_>], resident: &[bool]) -> Vec<bool> {
    let mut counts = vec![0_u64; resident.len()];
    for pass in passes {
        within(pass, resident).for_each(|expert| counts[expert] += 1);
    }
    let mut order: Vec<usize> = (0..resident.len()).collect();
    order.sort_by_key(|expert| (Reverse(counts[*expert]), *expert));
    let mut kept = vec![false; resident.len()];
    order.into_iter().take(places(resident)).for_each(|expert| kept[expert] = true);
    kept
}

fn places(resident: &[bool]) -> usize {
    resident.iter().filter(|resident| **resident).count()
}

/// After each pass, those keep places that are used again soonest, of those that have one and of those that the pass has read.
fn optimal(passes: &[TracedPass<'_>], mut resident: Vec<bool>, found: &mut Found) {
    let places = places(&resident);
    // By expert, the passes that it is used in, the last first.
    let mut coming: Vec<Vec<usize>> = vec![Vec::new(); resident.len()];
    for (number, pass) in passes.iter().enumerate().rev() {
        within(pass, &resident).for_each(|expert| coming[expert].push(number));
    }
    for pass in passes {
        found(pass, within(pass, &resident).filter(|expert| resident[*expert]).count() as u64);
        for expert in within(pass, &resident) {
            coming[expert].pop();
            resident[expert] = true;
        }
        let mut held: Vec<usize> = (0..resident.len()).filter(|expert| resident[*expert]).collect();
        held.sort_by_key(|expert| coming[*expert].last().copied().unwrap_or(usize::MAX));
        held.into_iter().skip(places).for_each(|expert| resident[expert] = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer of experts of 10 bytes, the first `places` of them in RAM.
    fn layer(experts: usize, places: usize) -> BTreeMap<u32, LayerStart> {
        let resident = (0..experts).map(|expert| expert < places).collect();
        BTreeMap::from([(3, LayerStart { resident, expert: Bytes(10) })])
    }

    /// A trace of passes of one token through layer 3.
    fn trace<T: AsRef<[u32]>>(passes: impl IntoIterator<Item = T>) -> ExpertTrace {
        let mut trace = ExpertTrace::default();
        passes.into_iter().enumerate().for_each(|(position, chosen)| trace.add(position as u32, 3, [chosen]));
        trace
    }

    /// Tokens that choose `used` of `experts` experts each: expert i in proportion to 1 / (i + 1)^`skew`, one of the last token's again
    /// with the probability `again`. The experts' order changes every `drift` tokens, as subjects do.
    fn drawn(experts: u32, used: usize, skew: f64, again: f64, drift: u32) -> ExpertTrace {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let sums: Vec<f64> = (0..experts)
            .scan(0.0, |sum, expert| {
                *sum += f64::from(expert + 1).powf(-skew);
                Some(*sum)
            })
            .collect();
        let (all, mut last) = (sums[sums.len() - 1], Vec::new());
        trace((0..4000_u32).map(|token| {
            let mut chosen: Vec<u32> = last.iter().copied().filter(|_| random() < again).collect();
            while chosen.len() < used {
                let (point, shift) = (random() * all, token / drift * 37);
                let drawn = (sums.partition_point(|sum| *sum < point) as u32 + shift) % experts;
                if !chosen.contains(&drawn) {
                    chosen.push(drawn);
                }
            }
            last.clone_from(&chosen);
            chosen
        }))
    }

    const ALL: [Replay; 6] = [
        Replay::Policy(Policy::Fixed),
        Replay::Policy(Policy::Recent),
        Replay::Policy(Policy::Decayed(16)),
        Replay::Policy(Policy::USUAL),
        Replay::MostUsed,
        Replay::Optimal,
    ];

    #[test]
    fn short_traces_give_the_hits_that_can_be_counted_by_hand() {
        // Two places, held by 0 and 1 at first.
        for (chosen, hits) in [
            (&[&[0][..], &[1], &[0], &[1]][..], [4, 4, 4, 4, 4, 4]),
            // A cycle of three is the worst for whoever looks back; two that stay are found each time.
            (&[&[0], &[1], &[2], &[0], &[1], &[2]], [4, 2, 2, 2, 4, 4]),
            // 2 and 3 for good: two misses, or none where it was known.
            (&[&[2, 3], &[2, 3], &[2, 3]], [0, 4, 4, 4, 6, 4]),
            // What comes once takes a place from what is used again only by the most recent.
            (&[&[0], &[0], &[0], &[1], &[1], &[2], &[3], &[0]], [6, 5, 6, 6, 6, 6]),
        ] {
            let found = ALL.map(|by| replay(&trace(chosen), &layer(4, 2), by).decode);
            assert_eq!(found.map(|tally| tally.hits), hits, "{chosen:?}");
            let uses = chosen.iter().map(|chosen| chosen.len() as u64).sum::<u64>();
            assert!(found.iter().all(|tally| tally.hits + tally.misses == uses && tally.read.0 == 10 * tally.misses));
        }
    }

    #[test]
    fn no_policy_is_better_than_the_bound_and_fixed_places_hit_by_chance() {
        for (skew, again, drift) in [(0.0, 0.0, 5000), (0.8, 0.0, 5000), (0.8, 0.3, 500), (1.2, 0.5, 100)] {
            for places in [1, 16, 40, 63] {
                let trace = drawn(64, 8, skew, again, drift);
                let rate = |by| replay(&trace, &layer(64, places), by).decode.hit_rate();
                let best = rate(Replay::Optimal);
                for by in ALL {
                    assert!(rate(by) <= best, "{by:?} at {skew}, {again}, {drift}, {places}");
                }
                if skew == 0.0 {
                    // Nothing to learn from: whoever has a place is chosen as often as another.
                    let even = places as f64 / 64.0;
                    for by in &ALL[..4] {
                        assert!((rate(*by) - even).abs() < 0.03, "{by:?}: {} of {even}", rate(*by));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_used_often_and_again_is_found() {
        let rates = |trace: &ExpertTrace| ALL.map(|by| replay(trace, &layer(64, 16), by).decode.hit_rate());
        // The same experts are used most all the time: counting finds them, and keeps them where the most recent lets them go.
        let [_, recent, _, usual, most_used, _] = rates(&drawn(64, 8, 1.0, 0.0, 5000));
        assert!(recent < usual && usual < most_used && most_used - usual < 0.05, "{recent} {usual} {most_used}");
        // They change every 50 tokens: what is the most used of all says little.
        let [fixed, recent, short, _, most_used, best] = rates(&drawn(64, 8, 1.2, 0.3, 50));
        assert!(
            most_used.max(fixed) + 0.1 < recent.max(short) && short < best,
            "{fixed} {recent} {short} {most_used} {best}"
        );
    }

    #[test]
    fn prompts_are_counted_apart_and_unknown_layers_and_experts_not_at_all() {
        let mut trace = ExpertTrace::default();
        trace.add(0, 3, [[0, 2], [1, 2], [0, 1]]);
        trace.add(0, 7, [[0, 2]]);
        trace.add(3, 3, [[0, 9]]);
        let replayed = replay(&trace, &layer(4, 2), Replay::Policy(Policy::Fixed));
        assert_eq!((replayed.prompt.tokens, replayed.prompt.hits, replayed.prompt.misses), (3, 2, 1));
        assert_eq!((replayed.decode.tokens, replayed.decode.hits, replayed.decode.misses), (1, 1, 0));
    }
}
